/* The way of a gradient: enqueues exchange, reduce, agree, update and all_gather in the order that
 * makes them overlap. Two streams, compute and comm; one where contributions stay in place.
 *
 * Each hand-over is an event or a flag with a name, and has one writer:
 *
 *   grads_ready       comm: offer -> arrive    backward is done with a bucket
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
 *   finished          comm -> the caller       nothing of the step is under way any more */
#ifndef ZERO1__SCHEDULE_H
#define ZERO1__SCHEDULE_H

#include "agreed.h"
#include "buffers.h"
#include "comm_ops.h"
#include "config.h"
#include "readiness.h"

enum { ZERO1__PHASE_IDLE, ZERO1__PHASE_COLLECTING, ZERO1__PHASE_REDUCED };

typedef struct zero1__schedule {
  zero1__device *device;
  zero1__channel *channel;
  const zero1__layout *layout;
  const zero1__buffers *buffers;
  const zero1__settings *settings; /* as the caller has set them by now */
  zero1__lane *lane;               /* over the comm */
  zero1__lane *wider;              /* over config.agree_comm, or NULL */
  zero1__stream *compute, *comm;   /* the same where contributions stay in place */

  zero1__event **updated, **gathered;      /* [bucket_count] */
  zero1__event **arrived, **made, **freed; /* [ring_count] */
  zero1__event *offered, *reduced, *agreed, *finished;

  /* of the caller's thread */
  zero1__readiness readiness;
  int32_t phase;
  int32_t two_passes; /* reduction may begin before step */
  int64_t launched;   /* buckets whose reduction is enqueued */
  uint32_t epoch;     /* of the step: attempts so far, wrapping */
  int64_t attempts;
  int64_t exposed_ns;
  int32_t told; /* the caller knows of the last step's error */

  /* of the streams; the caller's thread touches them only after `finished` */
  zero1__error local;  /* what is wrong on this rank; goes into its record */
  zero1_group *groups; /* [group_count] as of this step */
  zero1__stats stats;
  zero1__verdict verdict;
  zero1__adam_scalars *scalars; /* [group_count] */
  uint8_t *absent;              /* [slot_count] absent on all ranks */
  uint8_t *absent_bits;         /* [bits] this rank's, then [world_size * bits] everyone's */
  zero1__record *records;       /* [world_size] or of the wider, whichever is more */
  zero1__outcome outcome;
  int64_t count; /* updates */
  int64_t reduce_ns, update_ns, agree_ns;
} zero1__schedule;

/** Not collective: the caller has opened the lanes. ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE.
 *  Ended with zero1__schedule_end, after a failure too: it waits for what is under way. */
zero1_status zero1__schedule_begin(zero1__schedule *schedule, zero1__channel *channel,
                                   const zero1__buffers *buffers, const zero1__settings *settings,
                                   zero1__lane *lane, zero1__lane *wider, zero1__error *error);
void zero1__schedule_end(zero1__schedule *schedule);

/** Gradient `param` is complete, or absent (its memory must be zero by now). 0: it was already. */
int zero1__schedule_mark(zero1__schedule *schedule, int64_t param, uint8_t grad);

/** Waits for the last step, and begins to collect the gradients of the next one. */
void zero1__schedule_open(zero1__schedule *schedule);

/** Enqueues what `came_to` (ZERO1__CAME_TO_) is. `local`: what is wrong on this rank, or ZERO1_OK:
 *  it takes part all the same, so that its peers learn of it. */
void zero1__schedule_run(zero1__schedule *schedule, int32_t came_to, const zero1__error *local);

/** Wait for the verdict and one parameter's buckets, or for all of the last step. */
void zero1__schedule_wait(zero1__schedule *schedule, int64_t param);
void zero1__schedule_finish(zero1__schedule *schedule);

#endif
