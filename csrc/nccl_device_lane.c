/* All-gathers in memory of the GPU, in stream order. */
#include <stdlib.h>

#include "comm_nccl.h"

#define LANE_CTAS 1
/* Gathers of one step: each has a place of its own with the guard. */
#define PLACES 4

typedef struct nccl_device_lane {
  zero1__device_lane base;
  zero1__nccl_link link;
  zero1__nccl_guard guard;
  zero1__nccl_user user;
  int64_t gathers;      /* enqueued */
  zero1__error failure; /* that the optimizer is to look for; under the link's mutex */
} nccl_device_lane;

static zero1__nccl_comm *comm_of(const nccl_device_lane *lane) {
  return (zero1__nccl_comm *)lane->base.comm;
}

/* The optimizer's channel may be of another comm: then the optimizer looks for it, and aborts the
 * lane; the step must not tell of a loss before its reason is known. */
static void fail(void *context, const zero1__error *error) {
  nccl_device_lane *lane = context;
  if (zero1__nccl_users_fail(comm_of(lane), lane->base.step, error)) return;
  pthread_mutex_lock(&lane->link.mutex);
  lane->failure = *error;
  pthread_mutex_unlock(&lane->link.mutex);
}

zero1_status zero1__nccl_device_lane_look(zero1__device_lane *base, zero1__error *error) {
  nccl_device_lane *lane = (nccl_device_lane *)base;
  pthread_mutex_lock(&lane->link.mutex);
  if (lane->failure.status) *error = lane->failure;
  pthread_mutex_unlock(&lane->link.mutex);
  return error->status;
}

void zero1__nccl_device_lane_abort(zero1__device_lane *base, const zero1__error *why) {
  nccl_device_lane *lane = (nccl_device_lane *)base;
  const int before = zero1__nccl_enter_device(comm_of(lane));
  zero1__nccl_lose(base->device, base->step);
  zero1__nccl_link_abort(&lane->link, why);
  zero1__nccl_leave_device(before);
}

void zero1__nccl_device_lane_close(zero1__device_lane *base) {
  nccl_device_lane *lane = (nccl_device_lane *)base;
  zero1__nccl_guard_stop(&lane->guard);
  zero1__nccl_user_remove(comm_of(lane), &lane->user);
  const int before = zero1__nccl_enter_device(comm_of(lane));
  zero1__nccl_link_close(&lane->link);
  zero1__nccl_leave_device(before);
  zero1__device_lane_end(base);
  free(lane);
}

static zero1_status enqueue(nccl_device_lane *lane, zero1__stream *stream, zero1__error *error) {
  const zero1__device_lane *base = &lane->base;
  cudaStream_t native = base->device->ops->native(base->device, stream);
  ncclComm_t nccl = zero1__nccl_enter(&lane->link, error);
  if (!nccl) return error->status;
  const ncclResult_t result =
      zero1__nccl.ncclAllGather(base->mine, base->all, base->bytes, ncclUint8, nccl, native);
  return zero1__nccl_leave(&lane->link, result, "the verdict's gather", error);
}

/* Once before kernels wait: NCCL connects its ranks and loads its kernels with the first. */
static zero1_status rehearse(nccl_device_lane *lane, zero1__error *error) {
  zero1__device *device = lane->base.device;
  zero1__stream *stream = NULL;
  zero1_status status = device->ops->stream_create(device, ZERO1__STREAM_KERNELS, &stream, error);
  status = zero1__lane_agree(lane->base.comm->lane, status, error);
  if (!status) {
    status = enqueue(lane, stream, error);
    if (!status)
      status = zero1__nccl_link_finish(&lane->link, device->ops->native(device, stream),
                                       "the first all-gather", error);
    if (status) zero1__nccl_link_abort(&lane->link, error); /* or its stream would never end */
    status = zero1__lane_agree(lane->base.comm->lane, status, error);
  }
  device->ops->stream_destroy(device, stream);
  return status;
}

static zero1_status guard(nccl_device_lane *lane, zero1__error *error) {
  lane->user = (zero1__nccl_user){.step = lane->base.step, .link = &lane->link};
  zero1__nccl_user_add(comm_of(lane), &lane->user);
  lane->guard = (zero1__nccl_guard){.link = &lane->link,
                                    .device = lane->base.device,
                                    .step = lane->base.step,
                                    .count = PLACES,
                                    .timeout_seconds = lane->link.timeout_seconds,
                                    .fail = fail,
                                    .context = lane};
  return zero1__nccl_guard_start(&lane->guard, error);
}

zero1_status zero1__nccl_device_lane_open(zero1_comm *comm, zero1__device *device,
                                          zero1__step *step, size_t bytes, double timeout_seconds,
                                          zero1__device_lane **out, zero1__error *error) {
  zero1__nccl_comm *self = (zero1__nccl_comm *)comm;
  *out = NULL;
  if (device->is_host) return ZERO1_OK;
  nccl_device_lane *lane = calloc(1, sizeof *lane);
  zero1_status status =
      lane ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
  if (lane) {
    lane->base = (zero1__device_lane){.comm = comm, .device = device, .step = step, .bytes = bytes};
    status = zero1__device_lane_begin(&lane->base, error);
  }
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status) status = zero1__nccl_link_open(self, LANE_CTAS, timeout_seconds, &lane->link, error);
  if (!status) status = rehearse(lane, error);
  if (!status) status = zero1__lane_agree(comm->lane, guard(lane, error), error);
  if (!status) {
    *out = &lane->base;
  } else if (lane) {
    zero1__nccl_device_lane_close(&lane->base);
  }
  return status;
}

zero1_status zero1__nccl_device_lane_gather(zero1__device_lane *base, zero1__stream *stream,
                                            zero1__error *error) {
  nccl_device_lane *lane = (nccl_device_lane *)base;
  const int64_t place = lane->gathers++ % PLACES;
  zero1__nccl_guard_enter(&lane->guard, stream, place);
  const zero1_status status = enqueue(lane, stream, error);
  if (!status) zero1__nccl_guard_leave(&lane->guard, stream, place);
  return status;
}
