/* Reads ranges of states out of a checkpoint's files: each chunk once, in the order of the files,
 * verified before anything of it is given away. */
#ifndef ZERO1__CHECKPOINT_READER_H
#define ZERO1__CHECKPOINT_READER_H

#include <stdint.h>

#include "error.h"
#include "manifest.h"

/** Bytes that a run holds at once, at most: buffers of its own. Besides them a plan of 40 bytes a
 *  range that is touched. */
#define ZERO1__READER_BYTES ((int64_t)16 << 20)

typedef struct zero1__reader {
  char *path; /* of the folder */
  zero1__manifest manifest;
  int64_t manifest_bytes; /* of manifest.json */
  int32_t has_residual;   /* of some parameter, and then of every one that is trainable */
  /* [range_count] indices into manifest.index.ranges, by (param, state, rank of a residual's file,
   * begin), so that a range is found by bisection */
  int64_t *order;
} zero1__reader;

/** Opens a folder (no root) and reads its manifest. Ended with zero1__reader_end, after a failure
 *  too. ZERO1_ERR_NOT_FOUND: no such folder. ZERO1_ERR_CORRUPT: no manifest in it, or as
 *  zero1__manifest_read. ZERO1_ERR_IO, ZERO1_ERR_VERSION, ZERO1_ERR_MEMORY. */
zero1_status zero1__reader_begin(zero1__reader *reader, const char *path, zero1__error *error);
void zero1__reader_end(zero1__reader *reader);

/** Elements that somebody wants, as they are saved. */
typedef struct zero1__wanted {
  int64_t param; /* index in the manifest */
  int32_t state; /* ZERO1_STATE_, one that is saved: MASTER_PARAM and so on of trainable parameters,
                    PARAM of frozen ones */
  int32_t rank;  /* of a residual: whose; else not looked at */
  int64_t begin, end;
  int64_t tag; /* for the sink */
} zero1__wanted;

/** Takes elements [begin, begin + count) of the parameter, which [tag] wanted: data of the saved
 *  data type, not aligned. Called on the thread that runs the reader. */
typedef zero1_status (*zero1__sink_fn)(void *context, const zero1__wanted *wanted, int64_t begin,
                                       int64_t count, const void *data, zero1__error *error);

/** Gives `sink` all that is wanted, in pieces, in the order of the files. drop_cache: what has been
 *  read is dropped from the page cache. ZERO1_ERR_CORRUPT: names the file (missing, of another
 *  length, a checksum that differs: which chunk). ZERO1_ERR_IO: a read failed. ZERO1_ERR_MEMORY;
 *  ZERO1_ERR_INVALID: no such parameter, range, or saved state; and what sink returns, which ends the
 *  run. What has been given away by then is right. Several threads may run one reader at once: it is
 *  only read. */
zero1_status zero1__reader_run(const zero1__reader *reader, const zero1__wanted *wanted,
                               int64_t wanted_count, int32_t drop_cache, zero1__sink_fn sink,
                               void *context, zero1__error *error);

/** As zero1_checkpoint_verify, threads 1 or more. Of several damaged files it names the first one, in
 *  the manifest's order, whatever the number of threads. */
zero1_status zero1__reader_verify(const zero1__reader *reader, int32_t threads,
                                  zero1_progress_fn progress, void *context, zero1__error *error);

#endif
