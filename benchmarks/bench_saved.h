/* Checkpoints of a benchmark's optimizer: where they are, saved and loaded, and whether what is
 * loaded is what was saved. Beside them lies a plain file with the same bytes. */
#ifndef BENCH_SAVED_H
#define BENCH_SAVED_H

#include <limits.h>

#include "bench_subject.h"
#include "zero1/checkpoint.h"

typedef struct bench_saved {
  bench_subject *subject;
  char folder[PATH_MAX / 2]; /* made by rank 0, removed in the end */
  char root[PATH_MAX];       /* of checkpoints, in it */
  char plain[PATH_MAX];      /* this rank's plain file, in a folder of its own */
  size_t bytes;              /* of this rank's files in a checkpoint */
  void *data;                /* [bytes] the same: what is written plainly, and read into */
  uint64_t state;            /* of the optimizer at the last save: a checksum of all bits */
} bench_saved;

/** Collective; so are the others. Saves once, to have the bytes. A failure ends all ranks.
 *  [in] dir  exists on all ranks */
void bench_saved_open(bench_saved *saved, bench_subject *subject, const char *dir);
void bench_saved_close(bench_saved *saved);

/** Removes the checkpoints, or the plain files, and waits until the disk is at rest. */
void bench_saved_clear(const bench_saved *saved);
void bench_saved_clear_plain(const bench_saved *saved);

/** Milliseconds, the slowest rank's. */
double bench_saved_write_plain(const bench_saved *saved);
double bench_saved_save(bench_saved *saved);

/** Drops what the kernel has cached of this rank's files, plain ones too. Returns the largest part
 *  that is still there, of plain files and of a checkpoint's. */
void bench_saved_drop(const bench_saved *saved, double *plain, double *checkpoint);
double bench_saved_read_plain(const bench_saved *saved);

/** Ends all ranks, with a text, where the state is what was saved before the load already, or is
 *  not that after it. */
double bench_saved_load(bench_saved *saved);

/** Notes the state, and begins a save. Milliseconds of the call, of this rank. */
double bench_saved_begin(bench_saved *saved, int32_t mode);

/** Waits for it. */
void bench_saved_wait(const bench_saved *saved);

/** Of the last save, of this rank. */
zero1_save_report bench_saved_report(const bench_saved *saved);

#endif
