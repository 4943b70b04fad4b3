/* Writes this rank's files: each with its header first, then straight from where the state is. Runs
 * on the thread of a stream, group of buckets by group of buckets (hold.h). */
#ifndef ZERO1__SAVE_WRITER_H
#define ZERO1__SAVE_WRITER_H

#include "chunk_file.h"
#include "save_source.h"

typedef struct zero1__save_writer {
  const zero1_optimizer *optimizer;
  const zero1__snapshot *snapshot; /* or NULL */
  const char *folder;              /* borrowed */
  zero1__save_walk walk;
  zero1__saved_range next; /* that did not fit into the last file */
  int32_t has_next;
  int32_t writing;    /* 1: `file` is open */
  int64_t written;    /* ranges, all files together */
  zero1__index index; /* of what has been begun */
  zero1__chunk_file file;
  void *staging;
  int64_t bytes; /* of all files */
  int64_t hash_ns;
} zero1__save_writer;

/** Pinned memory that state on a device comes by. */
#define ZERO1__STAGING_BYTES ((size_t)8 << 20)

/** Nothing is written yet. `folder` is there. staging: [ZERO1__STAGING_BYTES], borrowed; NULL where
 *  everything is on the host. */
void zero1__save_writer_begin(zero1__save_writer *writer, const zero1_optimizer *optimizer,
                              const zero1__snapshot *snapshot, const char *folder, void *staging);

/** Writes what is left of the buckets from `bucket` on; the state of these may change then. -1: all
 *  that is left, and flushes it. ZERO1_ERR_IO, ZERO1_ERR_MEMORY, ZERO1_ERR_INVALID (a name that is
 *  not UTF-8), ZERO1_ERR_DEVICE. */
zero1_status zero1__save_writer_run(zero1__save_writer *writer, int64_t bucket,
                                    zero1__error *error);

void zero1__save_writer_end(zero1__save_writer *writer);

#endif
