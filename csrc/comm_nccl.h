/* The NCCL comm: what its files know of each other. */
#ifndef ZERO1__COMM_NCCL_H
#define ZERO1__COMM_NCCL_H

#include "comm_ops.h"
#include "nccl_guard.h"
#include "nccl_link.h"

/** Whoever waits for collectives of this comm on a device: so that they fall together. */
typedef struct zero1__nccl_user {
  struct zero1__nccl_user *next;
  const zero1__step *step; /* the optimizer's */
  zero1__nccl_link *link;
  zero1__channel *channel; /* NULL: a device lane */
} zero1__nccl_user;

typedef struct zero1__nccl_comm {
  zero1_comm base;
  zero1__nccl_link link; /* of the comm's own lane; the others are split from it */
  int32_t device_index;  /* of CUDA */
  int32_t version;       /* of the NCCL that runs: NCCL_VERSION_CODE is that of its header */
  int32_t ordered;       /* 1: gradients are exchanged, not summed */
  int64_t workspace_bytes;
  zero1__node_shape shape; /* this rank's neighbours on its machine */
  zero1__watch *watch;     /* of them; or NULL */
  pthread_mutex_t mutex;   /* recursive */
  zero1__nccl_user *users; /* under mutex */
} zero1__nccl_comm;

/** The thread's current device becomes the comm's; returns the one before, to be set again. */
int zero1__nccl_enter_device(const zero1__nccl_comm *comm);
void zero1__nccl_leave_device(int before);

/** A link for one user; collective over comm->lane: all ranks succeed or all fail. */
zero1_status zero1__nccl_link_open(zero1__nccl_comm *comm, int32_t max_ctas, double timeout_seconds,
                                   zero1__nccl_link *link, zero1__error *error);

void zero1__nccl_user_add(zero1__nccl_comm *comm, zero1__nccl_user *user);
void zero1__nccl_user_remove(zero1__nccl_comm *comm, zero1__nccl_user *user);

/** Aborts the links of all users with this step. */
void zero1__nccl_users_abort(zero1__nccl_comm *comm, const zero1__step *step,
                             const zero1__error *why);

/** Fails the channel of the optimizer with this step; 0: it is not of this comm. */
int zero1__nccl_users_fail(zero1__nccl_comm *comm, const zero1__step *step,
                           const zero1__error *why);

/* nccl_lane.c */

/** What a lane has besides its link, which `link` is, borrowed: so that the comm's own lane can be
 *  there before the ranks know each other. NULL is a failure that has its text already. */
zero1__lane *zero1__nccl_lane_alloc(zero1__nccl_comm *comm, zero1__nccl_link *link,
                                    double timeout_seconds, zero1__error *error);
zero1_status zero1__nccl_lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **lane,
                                   zero1__error *error);
void zero1__nccl_lane_close(zero1__lane *lane);
zero1_status zero1__nccl_lane_all_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                         zero1__error *error);
void zero1__nccl_lane_abort(zero1__lane *lane, const zero1__error *why);
zero1_status zero1__nccl_lane_look(zero1__lane *lane, zero1__error *error);

/* nccl_device_lane.c */

zero1_status zero1__nccl_device_lane_open(zero1_comm *comm, zero1__device *device,
                                          zero1__step *step, size_t bytes, double timeout_seconds,
                                          zero1__device_lane **lane, zero1__error *error);
void zero1__nccl_device_lane_close(zero1__device_lane *lane);
zero1_status zero1__nccl_device_lane_gather(zero1__device_lane *lane, zero1__stream *stream,
                                            zero1__error *error);
zero1_status zero1__nccl_device_lane_look(zero1__device_lane *lane, zero1__error *error);
void zero1__nccl_device_lane_abort(zero1__device_lane *lane, const zero1__error *why);

/* nccl_channel.c */

zero1_status zero1__nccl_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                      zero1__channel **channel, zero1__error *error);
void zero1__nccl_channel_close(zero1__channel *channel);
zero1_status zero1__nccl_exchange_begin(zero1__channel *channel, int64_t chunk, uint32_t epoch,
                                        zero1__error *error);
zero1_status zero1__nccl_all_gather(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                    zero1__error *error);
zero1_status zero1__nccl_broadcast(zero1__channel *channel, int32_t root, zero1__error *error);
void zero1__nccl_channel_abort(zero1__channel *channel, const zero1__error *why);

#endif
