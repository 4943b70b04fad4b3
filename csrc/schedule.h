/* The way of a gradient: enqueues exchange, reduce, agree, update and all_gather in the order that
 * makes them overlap. Two streams, compute and comm; one where contributions stay in place.
 *
 * Where the device decides by itself (agree_device.h) nothing below waits on the host, and one step
 * may be enqueued while another is under way; else a step's numbers are the host's, and its first
 * gradient waits for the step before.
 *
 * Each hand-over is an event or a flag with a name, and has one writer:
 *
 *   ready             the caller -> both       its streams have written the gradients so far (on
 *                                              devices; on the host the caller itself has)
 *   grads_ready       comm: offer -> arrive    backward is done with a bucket
 *   encoded           compute -> comm          a bucket's gradients are there in 8 bits
 *   offered           comm -> compute          the node's gradients of a bucket may be read
 *   arrived[ring]     comm -> compute          a chunk's contributions may be read
 *   made[ring]        compute -> comm          a chunk's partial sums may be sent
 *   freed[ring]       compute -> comm          a chunk's receive buffer may be filled again
 *   reduced           compute -> comm          this rank's stats are complete
 *   agreed            comm -> compute          the verdict is there; every rank is in its step
 *                                              (params_free): parameters may be written
 *   updated[bucket]   compute -> comm, and     a shard's parameters have been written
 *                     comm: publish -> all_gather
 *   gathered[bucket]  comm -> the caller       forward may read, backward may write again
 *                                              (grads_free: who has updated has read)
 *   finished          comm -> the caller       nothing of the step is under way any more
 *   let_go[group]     a writer -> compute      a checkpoint has the state of these buckets (hold.h)
 *   uncaptured        comm -> replay           the work before a capture is done */
#ifndef ZERO1__SCHEDULE_H
#define ZERO1__SCHEDULE_H

#include "agree_device.h"
#include "buffers.h"
#include "comm_ops.h"
#include "config.h"
#include "hold.h"
#include "offload.h"
#include "outcome.h"
#include "readiness.h"

enum { ZERO1__PHASE_IDLE, ZERO1__PHASE_COLLECTING, ZERO1__PHASE_REDUCED };

typedef struct zero1__schedule {
  zero1__device *device;
  zero1__channel *channel;
  const zero1__layout *layout;
  const zero1__buffers *buffers;
  const zero1__settings *settings;    /* as the caller has set them by now */
  zero1__lane *lane;                  /* over the comm */
  zero1__lane *wider;                 /* over config.agree_comm, or NULL */
  zero1__stream *compute, *comm;      /* the same where contributions stay in place */
  zero1__step *step;                  /* the optimizer's, in memory of the device */
  zero1__device_agreement *by_device; /* NULL: the host decides */
  zero1__offload *offload;            /* NULL: no bucket is */
  zero1__hold *hold; /* what updates wait for; NULL: nothing. The caller's thread's */

  zero1__event **updated, **gathered;      /* [bucket_count] */
  zero1__event **arrived, **made, **freed; /* [ring_count] */
  zero1__event *ready, *encoded, *offered, *reduced, *agreed, *finished, *uncaptured;

  /* of the caller's thread */
  zero1__stream **callers; /* [caller_count] streams of the caller's that this step came on */
  int32_t caller_count, caller_room;
  zero1__readiness readiness;
  int32_t phase;
  int32_t two_passes; /* reduction may begin before step */
  int64_t launched;   /* buckets whose reduction is enqueued */
  uint32_t epoch;     /* of the step: attempts so far, wrapping */
  int64_t attempts;
  uint64_t capture;        /* the last one that a step was captured in */
  int32_t captured_passes; /* of that step: 1 or 2; 0: there is none */
  int64_t exposed_ns;
  int32_t told;    /* the caller knows of the last step's error */
  int32_t settled; /* 1: nothing writes `outcome` now. Where the host decides for another device,
                      the caller has waited for all of the last step */

  zero1__error local; /* what is wrong on this rank; goes into its record */

  /* what kernels read, in memory of the device */
  zero1__adam_scalars *scalars; /* [group_count] */
  uint8_t *absent;              /* [slot_count] absent on all ranks */

  /* where the host decides: of the streams; the caller's thread touches them only after `finished`
   */
  zero1_group *groups;    /* [group_count] as of this step */
  zero1__step *made_step; /* `step` itself on the host, else before it is given to the device */
  zero1__adam_scalars *made_scalars; /* [group_count] before they are given to the device */
  uint8_t *made_absent;              /* [slot_count] */
  uint8_t *absent_bits;   /* [zero1__absent_bytes] this rank's, then [world_size] times as many */
  zero1__record *records; /* [world_size] or of the wider, whichever is more */
  zero1__outcome outcome;
  int64_t count; /* updates */
  int64_t reduce_ns, update_ns, agree_ns;
} zero1__schedule;

/** What a schedule is made with; all of it borrowed. */
typedef struct zero1__schedule_parts {
  zero1__channel *channel;
  const zero1__buffers *buffers;
  const zero1__settings *settings;
  zero1__lane *lane, *wider;
  zero1__device_lane *device_lane, *device_wider; /* device_lane NULL: the host decides */
  zero1__device *host; /* whose kernels update what is offloaded; or NULL */
} zero1__schedule_parts;

/** Not collective: the caller has opened the lanes. ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE.
 *  Ended with zero1__schedule_end, after a failure too: it waits for what is under way. */
zero1_status zero1__schedule_begin(zero1__schedule *schedule, const zero1__schedule_parts *parts,
                                   zero1__error *error);
void zero1__schedule_end(zero1__schedule *schedule);

/** Gradient `param` is complete in the caller's stream, or absent (its memory is zero by then). 0:
 *  it was already. */
int zero1__schedule_mark(zero1__schedule *schedule, int64_t param, uint8_t grad,
                         zero1__stream *caller);

/** Begins to collect the gradients of a step, the first of them in the caller's stream; where the
 *  host decides it waits for the last step first. ZERO1_ERR_UNSUPPORTED: the stream is being
 *  captured, and that cannot be here. */
zero1_status zero1__schedule_open(zero1__schedule *schedule, zero1__stream *caller,
                                  zero1__error *error);

/** Enqueues what `came_to` (ZERO1__CAME_TO_) is. `local`: what is wrong on this rank, or ZERO1_OK:
 *  it takes part all the same, so that its peers learn of it. */
void zero1__schedule_run(zero1__schedule *schedule, int32_t came_to, const zero1__error *local);

/** Whether the step that was captured last has the passes that the limits take by now. */
int zero1__schedule_fits_capture(const zero1__schedule *schedule);

/** A device that has failed fails the channel: its peers learn of it. Does not wait. Any thread. */
void zero1__schedule_check(zero1__schedule *schedule);

/** The caller's stream, on the host the caller itself, waits for the verdict and one parameter's
 *  buckets, or for all of the last step. */
void zero1__schedule_wait(zero1__schedule *schedule, int64_t param, zero1__stream *caller);
void zero1__schedule_wait_all(zero1__schedule *schedule, zero1__stream *caller);

/** The caller itself waits for all of the last step, and knows what became of it. */
void zero1__schedule_finish(zero1__schedule *schedule);

/** Updates and steps so far, of a checkpoint. Between steps, all of the last one done. */
void zero1__schedule_set_count(zero1__schedule *schedule, int64_t count, int64_t attempts);

#endif
