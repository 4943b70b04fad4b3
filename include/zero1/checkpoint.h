/* Checkpoints: a folder that appears whole or not at all, and loads at any number of ranks.
 *
 *   ROOT/                                    one job writes here at a time: ROOT/.lock names it
 *     latest -> step-000000000120
 *     step-000000000120/
 *       manifest.json                        all but the tensors, and where these are
 *       rank-00000-of-00002-00000.safetensors    what rank 0 owns, in its own data type
 *       rank-00001-of-00002-00000.safetensors
 *
 * A folder is written under another name, flushed, and renamed; then `latest` is moved, and only
 * then are older folders removed. A crash at any instant leaves the checkpoint before it; what it
 * leaves of its own (ROOT/.save-*) is removed by the next save. ROOT is a folder that every rank
 * sees. The bytes depend on the state, the layout (world size, bucket_numel) and the options alone:
 * the same state gives the same files. Every byte of a folder is under a checksum (XXH3, per MiB)
 * that is verified whenever it is read.
 *
 * Part of the public face: C99, safe for C++ and for ctypes. */
#ifndef ZERO1_CHECKPOINT_H
#define ZERO1_CHECKPOINT_H

#include "zero1/zero1.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A key and its value, UTF-8, of the caller's own: the position in the data, the state of a random
 *  generator, that of a schedule of lr. */
typedef struct zero1_pair {
  const char *key;   /* not empty, unique among its list */
  const char *value; /* any text */
} zero1_pair;

/** How zero1_checkpoint_save_async comes by the state at the call while training goes on. */
enum {
  /** It is written from where it is: the next update waits for the writer, bucket by bucket. Takes
   *  no memory in proportion to the state. Until it has ended the caller writes no parameter and no
   *  residual by itself; sync_params, params_changed, set_state and load wait until all is
   *  written. */
  ZERO1_SAVE_PINNED = 0,
  /** It is first copied to memory of the host, as much as the rank's files hold, and no update
   *  waits. That memory stays until destroy, for the next one. */
  ZERO1_SAVE_SNAPSHOT = 1
};

/** Fill with zero1_save_options_init, then change what you need. Every rank gives the same keep_last
 *  and keep_every, mode and metadata. */
typedef struct zero1_save_options {
  size_t size;     /* sizeof(zero1_save_options), set by init */
  int32_t mode;    /* ZERO1_SAVE_, of save_async; default pinned */
  int32_t no_lock; /* 1: ROOT is not locked, for filesystems that have no locks; default 0 */

  /** After a save that has succeeded, older checkpoints of ROOT are removed but the newest
   *  keep_last, this one included, and those whose step is a multiple of keep_every. keep_last 0
   *  (default): all are kept. keep_every 0 (default): none for that. Checkpoints of later steps,
   *  which a run leaves that goes back, stay. */
  int64_t keep_last, keep_every;

  const zero1_pair *metadata; /* [metadata_count] of the run, the same on every rank; copied */
  int64_t metadata_count;
  const zero1_pair *rank_metadata; /* [rank_metadata_count] of this rank; copied */
  int64_t rank_metadata_count;
} zero1_save_options;

/** Not collective. ZERO1_ERR_INVALID: NULL. ZERO1_ERR_VERSION: a size this library does not know. */
ZERO1_API zero1_status zero1_save_options_init(zero1_save_options *options, size_t options_bytes);

/** Writes ROOT/step-<count of updates>, made if it is missing, and waits until it is safe. One of
 *  the same step is replaced, at once.
 *  Collective; between steps. The optimizer's state, count and hyper-parameters, those set since the
 *  last step included, are those of the call.
 *  [in] root     a folder, made where its parent is there; a relative path is that of the call,
 *                wherever the process goes later
 *  [in] options  or NULL for the defaults
 *  On failure nothing has changed but for leftovers: the checkpoints before it stand, and `latest`.
 *  (Only where the very last flush of ROOT fails is the new one there all the same, and whole.)
 *  ZERO1_ERR_IO: names the file and says why: the disk is full, a permission is missing, root is a
 *  file. ZERO1_ERR_LOCKED: names the job that writes there: host, process, since when.
 *  ZERO1_ERR_INVALID: names the option, or a parameter whose name is not UTF-8. ZERO1_ERR_STATE:
 *  gradients are on their way, or the masters were never set. ZERO1_ERR_MISMATCH: ranks gave
 *  different roots or options, or a rank does not see the folder of rank 0. ZERO1_ERR_MEMORY.
 *  ZERO1_ERR_PEER, _TIMEOUT, _ABORTED, _SPENT as step. The first call after an asynchronous save
 *  that failed returns that failure, and saves nothing. */
ZERO1_API zero1_status zero1_checkpoint_save(zero1_optimizer *optimizer, const char *root,
                                             const zero1_save_options *options);

/** The same, written by a thread of the library while training goes on. Returns once that has
 *  begun; waits for an earlier save that is under way. What is on disk then is the state at the
 *  call. Errors as save; those of the writing itself come with the next call of wait, poll, save or
 *  save_async, once. zero1_optimizer_destroy waits for it. */
ZERO1_API zero1_status zero1_checkpoint_save_async(zero1_optimizer *optimizer, const char *root,
                                                   const zero1_save_options *options);

/** Waits for the save that is under way, until it is safe on disk or has failed: how, as save. Not
 *  collective, but each rank's waits for all of them. ZERO1_OK where there was none. */
ZERO1_API zero1_status zero1_checkpoint_wait(zero1_optimizer *optimizer);

/** [out] done  1: no save is under way any more, and the failure of the last one, if it had one that
 *               was not told yet, is returned. 0: it goes on. Not collective; does not wait. */
ZERO1_API zero1_status zero1_checkpoint_poll(zero1_optimizer *optimizer, int32_t *done);

/** What the last save that has ended cost on this rank. Times in milliseconds. */
typedef struct zero1_save_report {
  size_t size;             /* as passed */
  int64_t count;           /* updates in it */
  uint64_t bytes;          /* written by this rank */
  uint64_t snapshot_bytes; /* memory that the copy took; 0: pinned, or not asynchronous */
  double call_ms;          /* the caller stood in save or save_async */
  double copy_ms;          /* of it: the snapshot's copy */
  double write_ms;         /* until this rank's files were flushed; without it: the others' */
  double hash_ms;          /* of write_ms: checksums */
  double stall_ms;  /* updates waited for the writer: what forward and backward did not cover */
  double commit_ms; /* waiting for the other ranks, manifest, rename */
} zero1_save_report;

/** Not collective. ZERO1_ERR_STATE: none has ended. ZERO1_ERR_INVALID, ZERO1_ERR_VERSION. */
ZERO1_API zero1_status zero1_checkpoint_report(zero1_optimizer *optimizer,
                                               zero1_save_report *report, size_t report_bytes);

/** Fill with zero1_load_options_init, then change what you need. The same on every rank. */
typedef struct zero1_load_options {
  size_t size;          /* sizeof(zero1_load_options), set by init */
  int32_t weights_only; /* 1: parameters and masters alone; moments, count and hyper-parameters
                                 stay as they are, and a parameter may be frozen here and not there,
                                 or the other way round. Default 0 */
  int32_t keep_hyper;   /* 1: lr and all that zero1_group holds, grad_scale, max_grad_norm and
                                 skip_grad_norm stay as they are. Default 0: they are loaded.
                                 grad_scale: the default of a world stays that; another is multiplied
                                 by saved world size / this one */
  int32_t allow_dtype_change; /* 1: saved with another param_dtype: masters go over as they are, and
                                 parameters are made of them; frozen ones are converted. Default 0 */
  int32_t reserved;
  /** Patterns of names (fnmatch: * ? []), separated by commas, or NULL (default): none. */
  const char *allow_missing; /* of the optimizer and not in the checkpoint: stay as they are */
  const char *allow_extra;   /* in the checkpoint and not of the optimizer: left out */
} zero1_load_options;

/** Not collective. ZERO1_ERR_INVALID: NULL. ZERO1_ERR_VERSION: a size this library does not know. */
ZERO1_API zero1_status zero1_load_options_init(zero1_load_options *options, size_t options_bytes);

/** Sets parameters, masters, moments, counts, hyper-parameters, and residuals of 8-bit gradients, to
 *  what was saved, whatever number of ranks, bucket size or communicator it was saved with: the same
 *  bits. Parameters go by their names. Each rank reads what it owns, in pieces, so that it takes
 *  at most 64 MiB besides the state, and drops what it has read from the page cache. (Parameters
 *  that are frozen, or that ranks do not share, it reads, or is sent.) Residuals of another number
 *  of ranks are summed and divided. sync_params need not be called.
 *  Collective; between steps; waits.
 *  [in] dir      a checkpoint, or a root: then its `latest`
 *  [in] options  or NULL for the defaults
 *  ZERO1_ERR_NOT_FOUND: there is none. ZERO1_ERR_CORRUPT: names the file that is damaged.
 *  ZERO1_ERR_VERSION: written by a newer library. ZERO1_ERR_MISMATCH: names the parameter and both
 *  shapes (groups, data types), or the first name that is missing or too much; or ranks found
 *  different checkpoints. ZERO1_ERR_IO, _INVALID, _STATE, _MEMORY, and of peers as step.
 *  What is wrong with the folder as a whole is found before anything is changed. Where a piece turns
 *  out to be damaged on the way, the state is half one and half the other: step then returns
 *  ZERO1_ERR_STATE until a load has succeeded. */
ZERO1_API zero1_status zero1_checkpoint_load(zero1_optimizer *optimizer, const char *dir,
                                             const zero1_load_options *options);

/** The folder of the newest checkpoint of a root: where `latest` points to, or, where that is gone
 *  or leads nowhere, the highest step. Not collective; needs no rights to write.
 *  [out] path        [path_bytes]
 *  [out] error_text  [error_bytes] or NULL
 *  ZERO1_ERR_NOT_FOUND: no root, or nothing in it. ZERO1_ERR_INVALID: path is too short. */
ZERO1_API zero1_status zero1_checkpoint_latest(const char *root, char *path, size_t path_bytes,
                                               char *error_text, size_t error_bytes);

/* ---- a checkpoint without an optimizer ---- */

/** Opaque. One thread at a time may use it, but zero1_checkpoint_read: any. */
typedef struct zero1_checkpoint zero1_checkpoint;

/** Opens a folder, or a root's latest, and reads its manifest. None of the calls below is
 *  collective; none needs MPI.
 *  [out] checkpoint  owned by the caller: zero1_checkpoint_close; NULL on failure
 *  [out] error_text  [error_bytes] or NULL: why it failed
 *  ZERO1_ERR_NOT_FOUND, _CORRUPT, _VERSION, _IO, _MEMORY, _INVALID. */
ZERO1_API zero1_status zero1_checkpoint_open(const char *dir, zero1_checkpoint **checkpoint,
                                             char *error_text, size_t error_bytes);
/** Frees *checkpoint and clears it; NULL and a pointer to NULL are fine. */
ZERO1_API void zero1_checkpoint_close(zero1_checkpoint **checkpoint);
/** Text of the last failure on this handle. Never NULL; valid until the next call. */
ZERO1_API const char *zero1_checkpoint_last_error(const zero1_checkpoint *checkpoint);

typedef struct zero1_checkpoint_info {
  size_t size;            /* as passed */
  const char *path;       /* this and the strings below belong to the handle */
  int64_t count;          /* updates */
  int64_t attempts;       /* steps, skipped ones included */
  int32_t world_size;     /* ranks that saved it */
  int32_t param_dtype;    /* ZERO1_DTYPE_ of the parameters */
  int32_t format_version; /* of the manifest */
  int32_t has_residual;   /* 1: gradients travelled in 8 bits */
  int64_t param_count, group_count, file_count;
  int64_t metadata_count; /* of the run */
  uint64_t bytes;         /* of all files, manifest.json included */
  double grad_scale, max_grad_norm, skip_grad_norm;
} zero1_checkpoint_info;

ZERO1_API zero1_status zero1_checkpoint_get_info(zero1_checkpoint *checkpoint,
                                                 zero1_checkpoint_info *info, size_t info_bytes);

/** Parameter `index`, in the order of registration; name and shape belong to the handle.
 *  ZERO1_ERR_INVALID: no such parameter. */
ZERO1_API zero1_status zero1_checkpoint_param(zero1_checkpoint *checkpoint, int64_t index,
                                              zero1_param_spec *spec, size_t spec_bytes);
/** [out] index  -1 where there is none (ZERO1_ERR_INVALID) */
ZERO1_API zero1_status zero1_checkpoint_find(zero1_checkpoint *checkpoint, const char *name,
                                             int64_t *index);
ZERO1_API zero1_status zero1_checkpoint_group(zero1_checkpoint *checkpoint, int64_t index,
                                              zero1_group *group, size_t group_bytes);
/** Pair `index` of what rank `rank` gave, -1: of the run. ZERO1_ERR_INVALID: there is none. */
ZERO1_API zero1_status zero1_checkpoint_metadata(zero1_checkpoint *checkpoint, int32_t rank,
                                                 int64_t index, zero1_pair *pair);
/** The value of a key; NULL: there is none. */
ZERO1_API const char *zero1_checkpoint_value(zero1_checkpoint *checkpoint, int32_t rank,
                                             const char *key);
/** File `index`: its name in the folder and its bytes. */
ZERO1_API zero1_status zero1_checkpoint_file(zero1_checkpoint *checkpoint, int64_t index,
                                             const char **name, uint64_t *bytes);

/** Elements [begin, end) of a state of a parameter, verified as they are read.
 *  [in]  rank   of a residual; else not looked at
 *  [in]  dtype  ZERO1_DTYPE_ of out: rounded to nearest even, or widened
 *  [out] out    [end - begin]
 *  ZERO1_ERR_INVALID: no such parameter, state or range. ZERO1_ERR_CORRUPT: names the file.
 *  ZERO1_ERR_IO. ZERO1_ERR_MEMORY. */
ZERO1_API zero1_status zero1_checkpoint_read(zero1_checkpoint *checkpoint, int64_t param,
                                             int32_t state, int32_t rank, int64_t begin,
                                             int64_t end, int32_t dtype, void *out);

/** Called now and then, by one thread at a time; returns 0 to go on, anything else to stop. */
typedef int32_t (*zero1_progress_fn)(void *context, uint64_t bytes, uint64_t total_bytes);

/** Reads every byte and compares every checksum, and that each safetensors header says what the
 *  manifest does.
 *  [in] threads   1 or more
 *  [in] progress  or NULL
 *  ZERO1_ERR_CORRUPT: names the first file that is damaged, missing or of another length.
 *  ZERO1_ERR_ABORTED: progress said stop. ZERO1_ERR_IO, ZERO1_ERR_MEMORY. */
ZERO1_API zero1_status zero1_checkpoint_verify(zero1_checkpoint *checkpoint, int32_t threads,
                                               zero1_progress_fn progress, void *context);

/** What zero1_checkpoint_export writes. Fill with zero1_export_options_init, then change what you
 *  need. */
typedef struct zero1_export_options {
  size_t size;       /* sizeof(zero1_export_options), set by init */
  int32_t state;     /* ZERO1_STATE_; default PARAM */
  int32_t rank;      /* of a residual: whose; default 0 */
  int32_t dtype;     /* ZERO1_DTYPE_; -1 (default): of PARAM as it was in training, else fp32 */
  int32_t force;     /* 1: replaces an earlier export of the state. Default 0 */
  int64_t max_bytes; /* of the tensors in a file, though a larger one has a file to itself. 0
                        (default): 5 GB in a folder, as many as there are in one file */
} zero1_export_options;

/** Not collective. ZERO1_ERR_INVALID: NULL. ZERO1_ERR_VERSION: a size this library does not know. */
ZERO1_API zero1_status zero1_export_options_init(zero1_export_options *options,
                                                 size_t options_bytes);

/** Writes a state of every parameter that has it (PARAM and MASTER_PARAM: all; the others: those
 *  that are trained) as safetensors, with their names and shapes, for other programs. What is
 *  written is what zero1_checkpoint_read reads, verified. In a folder the files are
 *  model.safetensors, or, beyond max_bytes, model-00001-of-0000N.safetensors and
 *  model.safetensors.index.json; of moments exp_avg.safetensors and so on, of residuals
 *  residual-rank-R.safetensors. All is written under other names and flushed, and only then put in
 *  place. Takes 16 MiB for reading and 4 for writing.
 *  [in]  out         a name that ends in .safetensors, and is no folder, is a file's, any other a
 *                    folder's, made where its parent is there
 *  [in]  options     or NULL for the defaults
 *  [in]  progress    or NULL; of the bytes of tensors
 *  [out] file_count  or NULL: without the index
 *  [out] bytes       or NULL: of all tensors
 *  ZERO1_ERR_INVALID: no such state, rank, dtype or size; no parameter has the state; more than
 *  99,999 files. ZERO1_ERR_IO: names the file: it is there and force is 0, or writing failed.
 *  ZERO1_ERR_UNSUPPORTED: one file is named, and several are needed. ZERO1_ERR_CORRUPT: names the
 *  file of the checkpoint. ZERO1_ERR_ABORTED: progress said stop. ZERO1_ERR_VERSION,
 *  ZERO1_ERR_MEMORY. After a failure what was there before is there, and nothing else; only where
 *  putting files in place fails, some may be of either. */
ZERO1_API zero1_status zero1_checkpoint_export(zero1_checkpoint *checkpoint, const char *out,
                                               const zero1_export_options *options,
                                               zero1_progress_fn progress, void *context,
                                               int64_t *file_count, uint64_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
