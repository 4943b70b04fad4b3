/* Parameters that the caller wrote, and whether all ranks still have the same ones. */
#include <stdlib.h>
#include <string.h>

#include "optimizer.h"

/* What the caller has written in its stream is there. On the host its thread has written it. */
static void settle_caller(zero1_optimizer *optimizer) {
  zero1__device *device = optimizer->device;
  zero1__stream *caller = zero1__optimizer_stream(optimizer, ZERO1_STREAM_DEFAULT);
  if (!device->is_host && caller) device->ops->stream_sync(device, caller);
}

/* Between steps, with nothing under way; otherwise an error of every rank. */
zero1_status zero1__optimizer_begin_collective(zero1_optimizer *optimizer, const char *call) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (!status) status = zero1__optimizer_may_wait(optimizer, call);
  if (status) return status; /* a failed channel has no peers to agree with */
  zero1__schedule_finish(&optimizer->schedule);
  settle_caller(optimizer);
  optimizer->lane->call = call;
  return zero1__optimizer_usable(optimizer);
}

zero1_status zero1__optimizer_check_idle(zero1_optimizer *optimizer) {
  const zero1__schedule *schedule = &optimizer->schedule;
  if (schedule->phase == ZERO1__PHASE_IDLE) return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_STATE,
                     "gradients are on their way: step or drop_grads comes first");
}

zero1_status zero1__optimizer_check_device(zero1_optimizer *optimizer) {
  zero1__device *device = optimizer->device;
  return device->ops->check(device, &optimizer->error);
}

/* A failure in here leaves ranks that do not know of each other's parameters. */
static zero1_status spend(zero1_optimizer *optimizer, zero1_status status) {
  if (!status) return ZERO1_OK;
  optimizer->loss_told = 1;
  zero1__channel_fail(optimizer->channel, &optimizer->error);
  return status;
}

/* A peer that was lost on the way is lost for good. */
static zero1_status note_loss(zero1_optimizer *optimizer, zero1_status status) {
  const zero1__error *failure = &optimizer->lane->failure;
  if (!failure->status) return status;
  optimizer->loss_told = 1;
  zero1__channel_fail(optimizer->channel, failure);
  return status;
}

zero1_status zero1__optimizer_agree(zero1_optimizer *optimizer, zero1_status status) {
  status = zero1__lane_agree(optimizer->lane, status, &optimizer->error);
  return note_loss(optimizer, status);
}

zero1_status zero1__optimizer_gather(zero1_optimizer *optimizer, const void *mine, void *all,
                                     size_t bytes) {
  const zero1_status status =
      zero1__lane_gather(optimizer->lane, mine, all, bytes, &optimizer->error);
  return note_loss(optimizer, status);
}

zero1_status zero1__optimizer_collect(zero1_optimizer *optimizer, zero1_status status,
                                      const void *mine, size_t bytes, void **all) {
  const int32_t world = optimizer->comm->world_size;
  *all = calloc((size_t)world, bytes);
  if (!status && !*all)
    status = zero1__fail(&optimizer->error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world);
  status = zero1__optimizer_agree(optimizer, status);
  if (!status) status = zero1__optimizer_gather(optimizer, mine, *all, bytes);
  if (!status) return ZERO1_OK;
  free(*all);
  *all = NULL;
  return status;
}

int32_t zero1__optimizer_differing(const zero1_optimizer *optimizer, const void *all,
                                   size_t bytes) {
  for (int32_t rank = 1; rank < optimizer->comm->world_size && all; ++rank)
    if (memcmp((const char *)all + (size_t)rank * bytes, all, bytes) != 0) return rank;
  return 0;
}

/* All ranks wait here whatever each found wrong by itself. */
static zero1_status agree_idle(zero1_optimizer *optimizer) {
  return zero1__optimizer_agree(optimizer, zero1__optimizer_check_idle(optimizer));
}

/* All ranks wait here until each has its parameters, and its masters. */
static zero1_status agree_on_devices(zero1_optimizer *optimizer) {
  return zero1__optimizer_agree(optimizer, zero1__optimizer_check_device(optimizer));
}

void zero1__optimizer_set_masters(zero1_optimizer *optimizer, int32_t keep) {
  zero1__device *device = optimizer->device;
  zero1__schedule *schedule = &optimizer->schedule;
  const zero1__buffers *buffers = &optimizer->buffers;
  if (schedule->offload) zero1__offload_set_masters(schedule->offload, keep);
  if (!buffers->master_param.device) return;
  for (int64_t bucket = buffers->offloaded; bucket < optimizer->layout.bucket_count; ++bucket) {
    const zero1__range blocks =
        zero1__layout_shard(&optimizer->layout, bucket, optimizer->comm->rank);
    const zero1__master_job job = {.layout = &optimizer->layout,
                                   .blocks = blocks,
                                   .param = zero1__buffers_param(buffers, blocks.begin),
                                   .param_dtype = optimizer->channel->config.param_dtype,
                                   .master_param = zero1__buffers_master(buffers, bucket),
                                   .keep = keep};
    device->ops->master(device, schedule->compute, &job);
  }
  device->ops->event_record(device, schedule->reduced, schedule->compute);
  device->ops->event_sync(device, schedule->reduced);
}

/* Where parameters cross the wire in 16 bits, each is its master rounded from now on. Of ranks that
 * share them, one rounds, once all have their masters. */
static zero1_status round_params(zero1_optimizer *optimizer) {
  zero1__device *device = optimizer->device;
  zero1__schedule *schedule = &optimizer->schedule;
  const zero1__channel *channel = optimizer->channel;
  if (channel->config.param_dtype != ZERO1__DTYPE_FP32_AS_BF16) return ZERO1_OK;
  const zero1_status status = zero1__optimizer_agree(optimizer, ZERO1_OK);
  if (status || channel->comm->rank % channel->params_sharers) return status;
  const zero1__round_job job = {.layout = &optimizer->layout,
                                .blocks = {0, optimizer->layout.trainable_blocks},
                                .param = channel->params};
  device->ops->round_params(device, schedule->compute, &job);
  device->ops->event_record(device, schedule->reduced, schedule->compute);
  device->ops->event_sync(device, schedule->reduced);
  return ZERO1_OK;
}

/* Every rank the same root. */
static zero1_status agree_root(zero1_optimizer *optimizer, int32_t root) {
  const zero1_comm *comm = optimizer->comm;
  zero1_status status = zero1__optimizer_check_idle(optimizer);
  if (!status && (root < 0 || root >= comm->world_size))
    status = zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "root is %d, not in [0, %d)", root,
                         comm->world_size);
  void *all;
  status = zero1__optimizer_collect(optimizer, status, &root, sizeof root, &all);
  const int32_t *roots = all, rank = zero1__optimizer_differing(optimizer, all, sizeof root);
  if (rank)
    status = zero1__fail(&optimizer->error, ZERO1_ERR_MISMATCH,
                         "root is %d on rank 0 and %d on rank %d", roots[0], roots[rank], rank);
  free(all);
  return status;
}

zero1_status zero1_optimizer_sync_params(zero1_optimizer *optimizer, int32_t root) {
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "sync_params");
  if (status) return status;
  zero1__hold_sync(optimizer->schedule.hold); /* before all agree: a peer may write what we share */
  status = agree_root(optimizer, root);
  if (status) return status;
  status = optimizer->channel->ops->broadcast(optimizer->channel, root, &optimizer->error);
  if (!status) zero1__optimizer_set_masters(optimizer, 0);
  optimizer->has_masters |= !status;
  if (!status) status = round_params(optimizer);
  return spend(optimizer, status ? status : agree_on_devices(optimizer));
}

zero1_status zero1_optimizer_params_changed(zero1_optimizer *optimizer) {
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "params_changed");
  if (status) return status;
  zero1__hold_sync(optimizer->schedule.hold);
  status = agree_idle(optimizer); /* whoever writes shared parameters has written */
  if (status) return status;
  zero1__optimizer_set_masters(optimizer, 1);
  optimizer->has_masters = 1;
  status = round_params(optimizer);
  return spend(optimizer, status ? status : agree_on_devices(optimizer));
}

/* ---- replicas ---- */

/* Parameters without a hole between them are hashed in one run. */
static uint64_t hash_params(zero1_optimizer *optimizer) {
  zero1__device *device = optimizer->device;
  zero1__schedule *schedule = &optimizer->schedule;
  const zero1__layout *layout = &optimizer->layout;
  uint64_t hash = 0;
  zero1__hash_job job = {.data = optimizer->channel->params,
                         .dtype = optimizer->settings.config.param_dtype,
                         .hash = &optimizer->step->hash};
  device->ops->transfer(device, &optimizer->step->hash, &hash, sizeof hash);
  for (int64_t i = layout->param_count - 1; i >= 0; --i) { /* mostly the order in memory */
    const int64_t begin = layout->place_begin[i] * ZERO1__BLOCK;
    if (begin != job.elements.end) {
      if (job.elements.end > job.elements.begin) device->ops->hash(device, schedule->compute, &job);
      job.elements.begin = begin;
    }
    job.elements.end = begin + layout->numel[i];
  }
  if (job.elements.end > job.elements.begin) device->ops->hash(device, schedule->compute, &job);
  device->ops->event_record(device, schedule->reduced, schedule->compute);
  device->ops->event_sync(device, schedule->reduced);
  device->ops->transfer(device, &hash, &optimizer->step->hash, sizeof hash);
  return hash;
}

/* The lowest rank whose hash is not the most frequent one; of two as frequent, that of the lower
 * rank counts. -1: all are the same. 2 ranks: rank 1. */
static int32_t find_diverged(const uint64_t *hashes, int32_t count) {
  int32_t most = 0, most_times = 0;
  for (int32_t i = 0; i < count; ++i) {
    int32_t times = 0;
    for (int32_t j = 0; j < count; ++j) times += hashes[j] == hashes[i];
    if (times > most_times) {
      most = i;
      most_times = times;
    }
  }
  for (int32_t i = 0; i < count; ++i)
    if (hashes[i] != hashes[most]) return i;
  return -1;
}

zero1_status zero1_optimizer_check_replicas(zero1_optimizer *optimizer, int32_t *rank) {
  if (rank) *rank = -1;
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "check_replicas");
  if (status) return status;
  status = agree_idle(optimizer);
  if (status) return status;
  const uint64_t mine = hash_params(optimizer);
  void *hashes;
  status = zero1__optimizer_collect(optimizer, zero1__optimizer_check_device(optimizer), &mine,
                                    sizeof mine, &hashes);
  const int32_t diverged = status ? -1 : find_diverged(hashes, optimizer->comm->world_size);
  free(hashes);
  if (diverged < 0) return status;
  if (rank) *rank = diverged;
  return zero1__fail(&optimizer->error, ZERO1_ERR_DIVERGED,
                     "the parameters of rank %d differ from those of the other ranks", diverged);
}
