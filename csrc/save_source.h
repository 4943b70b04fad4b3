/* What a rank's files hold, in which order, and where its bytes are: the optimizer's own memory, or
 * a snapshot of it.
 *
 * Order, which is that of updates: from the last bucket to the first; in a bucket master_param,
 * exp_avg, exp_avg_sq of this rank's shard, and this rank's residual of the whole bucket, where
 * there are residuals; at the end this rank's part of the frozen parameters. Each parameter's
 * elements that are contiguous there are one range. */
#ifndef ZERO1__SAVE_SOURCE_H
#define ZERO1__SAVE_SOURCE_H

#include <stdint.h>

#include "manifest.h"
#include "optimizer.h"

/** A copy of this rank's part, in memory of the host. */
typedef struct zero1__snapshot {
  float *states[3]; /* master_param, exp_avg, exp_avg_sq: bucket after bucket, as zero1__state */
  float *residual;  /* as zero1__buffers; or NULL */
  char *frozen;     /* this rank's frozen blocks; or NULL */
  uint64_t bytes;   /* of all of them */
} zero1__snapshot;

/** Copies; the optimizer is between steps. Zeroed before the first time, which makes room for it: the
 *  room stays, because the first touch of memory takes several times as long as the copy.
 *  ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE. */
zero1_status zero1__snapshot_take(zero1__snapshot *snapshot, const zero1_optimizer *optimizer,
                                  zero1__error *error);
void zero1__snapshot_end(zero1__snapshot *snapshot);

/** Walks the ranges; file and offset are left 0. Zeroed but for `optimizer`, then: */
typedef struct zero1__save_walk {
  const zero1_optimizer *optimizer;
  int64_t done;   /* buckets */
  int32_t stage;  /* of the bucket: ZERO1_STATE_ less 1 */
  int32_t inside; /* 1: `blocks` are being walked */
  zero1__walk blocks;
  int64_t param; /* the next one that may be frozen */
} zero1__save_walk;

int zero1__save_walk_next(zero1__save_walk *walk, zero1__saved_range *range);

/** The bucket that a range of the walk is of; -1: of frozen parameters. */
int64_t zero1__saved_bucket(const zero1_optimizer *optimizer, const zero1__saved_range *range);

/** Where a range's bytes are; snapshot NULL: in the optimizer. on_host: or on the device. */
const void *zero1__saved_bytes(const zero1_optimizer *optimizer, const zero1__snapshot *snapshot,
                               const zero1__saved_range *range, int32_t *on_host);

/** Bytes of a range's element. */
size_t zero1__saved_each(const zero1_optimizer *optimizer, int32_t state);

#endif
