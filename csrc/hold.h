/* The state stays as it is until it has been written somewhere (a checkpoint that makes no copy):
 * updates wait, bucket by bucket, for a stream that lets go of them from the last bucket to the
 * first, which is the order of updates.
 *
 * Buckets are let go in groups, so that their number does not matter; what belongs to no bucket
 * (frozen parameters) comes last. */
#ifndef ZERO1__HOLD_H
#define ZERO1__HOLD_H

#include <stdatomic.h>
#include <stdint.h>

#include "device_ops.h"
#include "error.h"

#define ZERO1__HOLD_GROUPS 128

typedef struct zero1__hold {
  zero1__device *device; /* borrowed */
  int64_t bucket_count;
  int32_t group_count;     /* group 0 is the last buckets */
  zero1__event **let_go;   /* [group_count, and one for the rest] recorded in the writer's stream */
  _Atomic int64_t host_ns; /* that updates waited, where the host is the device */
  int64_t device_ns;       /* where it is not: by its times */
} zero1__hold;

/** ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE. Ended with zero1__hold_end, after a failure too. */
zero1_status zero1__hold_begin(zero1__hold *hold, zero1__device *device, int64_t bucket_count,
                               zero1__error *error);
void zero1__hold_end(zero1__hold *hold);

/** Another save begins: nothing has waited for it yet. The streams are idle. */
void zero1__hold_reset(zero1__hold *hold);

/** The lowest bucket of a group: [this, that of the group before) are its own. */
int64_t zero1__hold_group_begin(const zero1__hold *hold, int32_t group);

/** What `stream` does from now on comes after the bucket was let go. Nothing where hold is NULL, and
 *  where the stream is being captured into a graph. */
void zero1__hold_wait(zero1__hold *hold, zero1__stream *stream, int64_t bucket);

/** The calling thread waits until all of the state was let go, frozen parameters included. NULL:
 *  nothing. */
void zero1__hold_sync(zero1__hold *hold);

/** What `stream` does from now on comes after all buckets were let go. NULL: nothing. */
void zero1__hold_wait_all(zero1__hold *hold, zero1__stream *stream);

/** How long updates have waited so far, in nanoseconds. */
int64_t zero1__hold_stall_ns(zero1__hold *hold);

#endif
