/* The optimizer's handle: what it is made of. Its calls: optimizer.c (life), optimizer_step.c,
 * optimizer_sync.c (parameters and replicas), optimizer_query.c, optimizer_state.c. */
#ifndef ZERO1__OPTIMIZER_H
#define ZERO1__OPTIMIZER_H

#include "buffers.h"
#include "config.h"
#include "registry.h"
#include "schedule.h"

typedef struct zero1__saver zero1__saver;

struct zero1_optimizer {
  zero1_comm *comm;
  zero1__error error; /* of the last call that failed */
  zero1__settings settings;
  zero1__registry registry;
  zero1__layout layout;
  zero1__device *device;
  zero1__channel *channel;
  zero1__device *host; /* updates what is offloaded from the device; or NULL */
  zero1__step *step;   /* in memory of the device */
  zero1__lane *lane, *wider;
  zero1__device_lane *device_lane, *device_wider; /* NULL: the host decides */
  zero1__buffers buffers;
  zero1__schedule schedule;
  int32_t has_masters;  /* separate masters have been set to the parameters */
  int32_t loss_told;    /* the caller knows of the channel's failure */
  uint8_t *waited;      /* [param_count] debug builds: wait_param since the last step; else NULL */
  int32_t half_loaded;  /* a load has failed on its way: the state is of two times */
  zero1__saver *saver;  /* writes checkpoints (floor 6), from the first save on; or NULL */
  uint64_t saver_bytes; /* that it keeps */
  void (*end_saver)(zero1_optimizer *optimizer); /* where there is one: waits, and frees it */
};

/** Start of every call: ZERO1_ERR_INVALID for NULL; forgets the last error. */
zero1_status zero1__optimizer_enter(zero1_optimizer *optimizer);

/** ZERO1_ERR_SPENT where an earlier failure left nothing to go on with, or that failure itself
 *  where the caller does not know of it yet. */
zero1_status zero1__optimizer_usable(zero1_optimizer *optimizer);

/** The library's handle of a stream that the caller gave; NULL with ZERO1_ERR_INVALID noted. */
zero1__stream *zero1__optimizer_stream(zero1_optimizer *optimizer, const void *stream);

/** ZERO1_ERR_STATE where a graph is being captured, in which no call may wait. `call`: for the
 * text.
 */
zero1_status zero1__optimizer_may_wait(zero1_optimizer *optimizer, const char *call);

/** The error of the last step, where it had one that the caller does not know yet; call when the
 *  verdict is there. A failure that spends the handle is told every time. */
zero1_status zero1__optimizer_outcome(zero1_optimizer *optimizer);

/** Start of a collective call between steps, named `call`: all of the last step is done, and what the
 *  caller has written in its stream is there. An error of every rank alike. (optimizer_sync.c) */
zero1_status zero1__optimizer_begin_collective(zero1_optimizer *optimizer, const char *call);

/** ZERO1_ERR_STATE where gradients are on their way. */
zero1_status zero1__optimizer_check_idle(zero1_optimizer *optimizer);

/** What the device has to tell of what it was given so far: of copies and kernels that nobody else
 *  asks about. */
zero1_status zero1__optimizer_check_device(zero1_optimizer *optimizer);

/** Agreement and gather over the optimizer's lane: a peer that is lost on the way spends the
 *  handle. */
zero1_status zero1__optimizer_agree(zero1_optimizer *optimizer, zero1_status status);
zero1_status zero1__optimizer_gather(zero1_optimizer *optimizer, const void *mine, void *all,
                                     size_t bytes);

/** Both: where every rank came with ZERO1_OK, *all is what each has, [world_size * bytes] in rank
 *  order, to be freed; else NULL. */
zero1_status zero1__optimizer_collect(zero1_optimizer *optimizer, zero1_status status,
                                      const void *mine, size_t bytes, void **all);

/** The first rank whose part of `all`, as collect gives it, is not the bytes of rank 0's; 0: none,
 *  or `all` is NULL. */
int32_t zero1__optimizer_differing(const zero1_optimizer *optimizer, const void *all, size_t bytes);

/** Masters become the parameters; keep: but for those that still round to their parameter. */
void zero1__optimizer_set_masters(zero1_optimizer *optimizer, int32_t keep);

/** ZERO1_ERR_INVALID where there is no parameter `index`. */
zero1_status zero1__optimizer_index(zero1_optimizer *optimizer, int64_t index);

#endif
