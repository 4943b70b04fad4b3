/* Offloaded buckets: their master parameters and moments are in memory of the host, and the host's
 * kernels update them. Chunk by chunk through a ring of pinned memory, so that the way down, the
 * update and the way up of three chunks overlap:
 *
 *   down (device)       work (a thread of the host)       up (device)
 *   gradients of a  --> update, in host memory, then  --> parameters of the chunk
 *   chunk               round to the parameters' dtype
 *
 * The hand-overs, each an event with one writer:
 *   down[slot]      down -> work         the chunk's gradients are in the ring
 *   worked[slot]    work -> up           its parameters are in the ring
 *   freed[slot]     up -> down           the slot may be filled again
 *   done[bucket]    up -> compute        a bucket's parameters have been written */
#ifndef ZERO1__OFFLOAD_H
#define ZERO1__OFFLOAD_H

#include "buffers.h"
#include "comm_ops.h"
#include "hold.h"

typedef struct zero1__offload zero1__offload;

/** What it needs of its optimizer; borrowed. */
typedef struct zero1__offload_parts {
  zero1__device *device, *host; /* host: whose kernels update */
  const zero1__channel *channel;
  const zero1__buffers *buffers;
  int64_t group_count;
  /* in memory of the device; read when the streams come to it */
  const zero1__step *step;
  const zero1__adam_scalars *scalars; /* [group_count] */
  const uint8_t *absent;              /* [slot_count] */
} zero1__offload_parts;

/** Not collective. ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE. *offload is ended with zero1__offload_end,
 *  after a failure too; NULL is fine there. */
zero1_status zero1__offload_begin(const zero1__offload_parts *parts, zero1__offload **offload,
                                  zero1__error *error);
void zero1__offload_end(zero1__offload *offload);

/** Bytes of pinned memory. */
uint64_t zero1__offload_bytes(const zero1__offload *offload);

/** Enqueues the update of all offloaded buckets, the last one first, after `agreed` and what `hold`
 *  (or NULL) lets go. */
void zero1__offload_update(zero1__offload *offload, zero1__event *agreed, zero1__hold *hold);

/** `stream` goes on when the bucket's parameters have been written. */
void zero1__offload_join(zero1__offload *offload, zero1__stream *stream, int64_t bucket);

/** Sets the masters of the offloaded buckets, as zero1__master_job; waits. */
void zero1__offload_set_masters(zero1__offload *offload, int32_t keep);

#endif
