/* manifest.json: all that a checkpoint holds but the tensors themselves, and where each range of
 * these is. Written piece by piece (json_text.h), read with jansson; the same contents give the same
 * bytes.
 *
 *   { "format": "zero1 checkpoint", "version": 1,
 *     "count": 120, "attempts": 121, "world_size": 2, "param_dtype": "BF16",
 *     "grad_scale": 0.5, "max_grad_norm": 1.0, "skip_grad_norm": 0.0,
 *     "groups": [{"lr": 0.001, "beta1": ..., "decoupled_weight_decay": true}, ...],
 *     "metadata": {"data": "17"}, "rank_metadata": [{}, {}],
 *     "parameters": [{"name": "embed", "shape": [2, 300], "group": 0}, {..., "frozen": true},
 *                    {..., "not_in_norm": true}, ...],
 *     "files": [{"name": "rank-00000-of-00002-00000.safetensors", "rank": 0, "bytes": 9216,
 *                "xxh3": "0123456789abcdef...", "index": "0 1 0 512 1024,0 2 0 512 3072"},
 *               ...],
 *     "xxh3": "0123456789abcdef" }
 *
 * `index`: "param state begin end offset" of each range, with commas between: elements [begin, end)
 * of state `state` (ZERO1_STATE_) of parameter `param` are at byte `offset` of the file. (One text,
 * because a number of its own takes jansson 40 bytes.) xxh3 of a file: 16 digits for each MiB of
 * it, its header included; the last one, by which the manifest ends, is of all the bytes of the
 * manifest before it. */
#ifndef ZERO1__MANIFEST_H
#define ZERO1__MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "dtype.h"
#include "error.h"
#include "registry.h"
#include "zero1/checkpoint.h"

#define ZERO1__MANIFEST_VERSION 1
#define ZERO1__MANIFEST_NAME "manifest.json"

/** Bytes under one checksum: the last chunk of a file may be shorter. */
#define ZERO1__CHUNK_BYTES ((int64_t)1 << 20)

/** Elements of one state of one parameter, where they are. */
typedef struct zero1__saved_range {
  int64_t param;
  int32_t state; /* ZERO1_STATE_; PARAM of frozen parameters alone, in param_dtype; else fp32 */
  int32_t file;  /* index */
  int64_t begin, end; /* of the parameter, half-open, not empty */
  int64_t offset;     /* bytes from the begin of the file */
} zero1__saved_range;

/** ZERO1_STATE_ are 0 to this, exclusive. */
#define ZERO1__STATE_COUNT (ZERO1_STATE_RESIDUAL + 1)

/** Data type of a state as it is saved, and the bytes of one element of it. */
static inline int32_t zero1__saved_dtype(int32_t state, int32_t param_dtype) {
  return state == ZERO1_STATE_PARAM ? param_dtype : ZERO1_DTYPE_FP32;
}
static inline int64_t zero1__saved_element_bytes(int32_t state, int32_t param_dtype) {
  return (int64_t)zero1__dtype_bytes(zero1__saved_dtype(state, param_dtype));
}

typedef struct zero1__saved_file {
  char *name; /* within the folder; no slash */
  int32_t rank;
  int32_t reserved;
  int64_t bytes;
  uint64_t *xxh3; /* [zero1__chunk_count(bytes)] */
} zero1__saved_file;

static inline int64_t zero1__chunk_count(int64_t bytes) {
  return bytes / ZERO1__CHUNK_BYTES + (bytes % ZERO1__CHUNK_BYTES != 0);
}

/** What the files of a checkpoint, or of one rank, hold. Owns all that it points to. */
typedef struct zero1__index {
  zero1__saved_file *files;
  int64_t file_count;
  zero1__saved_range *ranges;
  int64_t range_count, range_room;
} zero1__index;

/** Adds a file (name copied, xxh3 zeroed) or a range. ZERO1_ERR_MEMORY. */
zero1_status zero1__index_add_file(zero1__index *index, const char *name, int32_t rank,
                                   int64_t bytes, zero1__error *error);
zero1_status zero1__index_add_range(zero1__index *index, const zero1__saved_range *range,
                                    zero1__error *error);
void zero1__index_end(zero1__index *index);

/** Indices into ranges, [range_count], to be freed: by (param, state, rank of a residual's file,
 *  begin), so that what is next to each other of a tensor follows each other. NULL:
 *  ZERO1_ERR_MEMORY. */
int64_t *zero1__index_by_state(const zero1__index *index, zero1__error *error);
/** The same by (file, offset). */
int64_t *zero1__index_by_place(const zero1__index *index, zero1__error *error);

/** First of the ranges of file `file`, of an index that is in the order of the files, as
 *  zero1__manifest_read leaves it; they end where those of file + 1 begin. */
int64_t zero1__index_file_begin(const zero1__index *index, int64_t file);

/** Pairs, copied. */
typedef struct zero1__pairs {
  zero1_pair *pairs;
  int64_t count;
} zero1__pairs;

/** ZERO1_ERR_INVALID: names what is wrong, `what` first: NULL, an empty or a repeated key, text
 *  that is not UTF-8. ZERO1_ERR_MEMORY. Ended after a failure too. */
zero1_status zero1__pairs_begin(zero1__pairs *pairs, const zero1_pair *given, int64_t count,
                                const char *what, zero1__error *error);
void zero1__pairs_end(zero1__pairs *pairs);

typedef struct zero1__manifest {
  int64_t count, attempts;
  int32_t world_size;
  int32_t param_dtype; /* ZERO1_DTYPE_ */
  double grad_scale, max_grad_norm, skip_grad_norm;
  zero1_group *groups; /* [group_count] */
  int64_t group_count;
  zero1__pairs metadata;
  zero1__pairs *rank_metadata; /* [world_size] */
  zero1__registry params;
  zero1__index index;
  uint64_t xxh3; /* of the text, where it was read: by it ranks see that they read the same one */
} zero1__manifest;

void zero1__manifest_end(zero1__manifest *manifest);

/** Text of [*bytes] and a NUL, to be freed. Ranges are written in the order of files and offsets,
 *  whatever theirs is. ZERO1_ERR_INVALID: a parameter's name is not UTF-8 (named).
 *  ZERO1_ERR_MEMORY. */
zero1_status zero1__manifest_write(const zero1__manifest *manifest, char **text, size_t *bytes,
                                   zero1__error *error);

/** Reads a text, any bytes, `bytes` of them; ended with zero1__manifest_end, after a failure too.
 *  What it accepts is whole: names and keys are unique, numbers in their ranges (world_size, sizes
 *  and offsets that fit, groups that exist), file names are plain ones and unique, and ranges lie
 *  in their file and their parameter, do not overlap each other in a file, and for each parameter
 *  and each state that it has tile it exactly; a residual for each rank or for none. `path`: of the
 *  file, begins every text. ZERO1_ERR_CORRUPT: says what and where. ZERO1_ERR_VERSION: of a newer
 *  library (looked at first, checksum aside). ZERO1_ERR_MEMORY. */
zero1_status zero1__manifest_read(const char *path, const char *text, size_t bytes,
                                  zero1__manifest *manifest, zero1__error *error);

/** What zero1__manifest_read says of what it accepts, of any manifest whose files' ranks and
 *  ranges' files are among those it has. ZERO1_ERR_CORRUPT, ZERO1_ERR_MEMORY. */
zero1_status zero1__manifest_check(const char *path, const zero1__manifest *manifest,
                                   zero1__error *error);

/** What one rank tells the rank that writes the manifest, as a text of the same kind: its index
 *  (file names, checksums and ranges) and its metadata. */
zero1_status zero1__part_write(const zero1__index *index, const zero1__pairs *rank_metadata,
                               char **text, size_t *bytes, zero1__error *error);

/** Adds rank `rank`'s part to the manifest: its files and ranges come after those that are there
 *  (file indices are moved), its metadata are rank_metadata[rank], which was empty. What is in it
 *  is checked by zero1__manifest_check, once all parts are there. ZERO1_ERR_CORRUPT,
 *  ZERO1_ERR_MEMORY: the manifest is to be ended. */
zero1_status zero1__part_read(const char *path, const char *text, size_t bytes, int32_t rank,
                              zero1__manifest *manifest, zero1__error *error);

#endif
