/* Ranks whose devices see each other's memory: reduce reads the peers' gradients where they are,
 * and owners' new parameters are pulled from them. The ranks hand over through flags in memory of
 * the device, which kernels post and await: each rank has an inbox with a row of flags per peer,
 * which that peer alone writes.
 *
 *   inbox [size][flag_count], flag_count = 2 * bucket_count + 1:
 *     grads_ready [bucket_count]
 *     updated     [bucket_count]
 *     copied
 *
 * and sees its own row in memory of the host, with one flag more: begun.
 *
 * A kernel that waits cannot see that a peer has died, aborted or left: a lookout of the channel
 * does, and lets the device give up. A peer that has left (its optimizer is being destroyed) is
 * fine as long as nothing is expected from it. That ends when this rank offers a bucket, or
 * gathers, after the peer left; or when this rank's kernels have begun a step that the peer had not
 * come to when it left. What remains, ranks that made different calls in one step, ends with the
 * kernels' own timeout, and so do waits in a lane of another comm than the channel's. */
#include "comm_node_device.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "clock.h"
#include "lookout.h"
#include "peer_memory.h"

static size_t table_bytes(const zero1_comm *comm) {
  return zero1__peer_memory_table_bytes(comm->world_size);
}

/* ---- channels ---- */

enum { PARAMS, GRADS, INBOX };

typedef struct device_channel {
  zero1__channel base;
  zero1__peer_memory memory;
  int64_t flag_count;
  void *flags, *params; /* tables in memory of the device */
  void *seen; /* uint32_t [flag_count + 1] of the host: this rank's own row, for its lookout */
  uint32_t begun_epoch; /* the last step of which something is in `seen` */
  zero1__lookout *lookout;
  atomic_int used;             /* from now on, kernels may wait */
  struct device_channel *next; /* of the comm */
} device_channel;

static device_channel *self_of(zero1__channel *channel) {
  return (device_channel *)channel;
}

/* Nobody to hand over to. */
static int is_alone(const device_channel *self) {
  return self->base.comm->world_size == 1;
}

static int64_t begun(const device_channel *self) {
  return self->flag_count;
}

static size_t seen_bytes(const device_channel *self) {
  return ((size_t)self->flag_count + 1) * sizeof(uint32_t);
}

/* The last step that kernels of this rank have come to: before they wait for the first time in a
 * step, they have offered a bucket, or begun. */
static uint32_t epoch_of(const device_channel *self) {
  const uint32_t *seen = self->seen;
  uint32_t epoch = __atomic_load_n(&seen[begun(self)], __ATOMIC_ACQUIRE);
  for (int64_t bucket = 0; bucket < self->base.config.layout->bucket_count; ++bucket) {
    const uint32_t offered = __atomic_load_n(&seen[bucket], __ATOMIC_ACQUIRE);
    if ((int32_t)(offered - epoch) > 0) epoch = offered;
  }
  return epoch;
}

static int look(void *context) {
  device_channel *self = context;
  zero1__error error;
  if (!atomic_load_explicit(&self->used, memory_order_acquire)) return 0;
  if (zero1__channel_failure(&self->base, NULL)) return 1;
  zero1__error_clear(&error);
  zero1_status status = zero1__node_look(self->memory.node, &error);
  if (!status && zero1__peer_memory_refuse(&self->memory, NULL))
    status = zero1__peer_memory_left_behind(&self->memory, epoch_of(self), &error);
  if (!status) return 0;
  zero1__channel_fail(&self->base, &error);
  return 1;
}

/* ---- which channel a lane goes with: they have a step in common ---- */

static void enlist(device_channel *self) {
  zero1__node_comm *comm = (zero1__node_comm *)self->base.comm;
  pthread_mutex_lock(&comm->mutex);
  self->next = (device_channel *)comm->devices;
  comm->devices = &self->base;
  pthread_mutex_unlock(&comm->mutex);
}

static void unlist(device_channel *self) {
  zero1__node_comm *comm = (zero1__node_comm *)self->base.comm;
  pthread_mutex_lock(&comm->mutex);
  device_channel *other = (device_channel *)comm->devices;
  if (other == self) comm->devices = self->next ? &self->next->base : NULL;
  for (; other; other = other->next)
    if (other->next == self) other->next = self->next;
  pthread_mutex_unlock(&comm->mutex);
}

static device_channel *channel_of_step(zero1_comm *base, const zero1__step *step) {
  zero1__node_comm *comm = (zero1__node_comm *)base;
  pthread_mutex_lock(&comm->mutex);
  device_channel *channel = (device_channel *)comm->devices;
  while (channel && channel->base.config.step != step) channel = channel->next;
  pthread_mutex_unlock(&comm->mutex);
  return channel;
}

/* ---- opening and closing ---- */

static void device_channel_close(zero1__channel *channel) {
  device_channel *self = self_of(channel);
  zero1__device *device = channel->config.device;
  zero1__lookout_stop(self->lookout);
  unlist(self);
  if (self->seen) zero1__peer_memory_leave(&self->memory, epoch_of(self));
  zero1__peer_memory_close(&self->memory);
  device->ops->memory_free(device, self->flags, table_bytes(channel->comm));
  device->ops->memory_free(device, self->params, table_bytes(channel->comm));
  device->ops->pinned_free(device, self->seen, seen_bytes(self));
  zero1__channel_end(channel);
  free(self);
}

static void describe(device_channel *self) {
  zero1__channel *channel = &self->base;
  const int32_t rank = channel->comm->rank;
  channel->on_device = 1;
  channel->in_place = 1;
  channel->config.share_params = 0; /* every device has its own */
  channel->reduce_group =
      channel->config.reduce_group ? channel->config.reduce_group : channel->comm->world_size;
  channel->params = zero1__peer_memory_at(&self->memory, PARAMS, rank);
  channel->grads = zero1__peer_memory_at(&self->memory, GRADS, rank);
  channel->params_bytes = self->memory.config.bytes[PARAMS];
  channel->grads_bytes = self->memory.config.bytes[GRADS];
  channel->workspace_bytes += self->memory.config.bytes[INBOX] +
                              zero1__peer_memory_workspace(&self->memory) + seen_bytes(self) +
                              2 * table_bytes(channel->comm);
}

/* What this rank does by itself once the peers' memory is there. */
static zero1_status furnish(device_channel *self, zero1__error *error) {
  zero1__device *device = self->base.config.device;
  const size_t row = (size_t)self->base.comm->rank * (size_t)self->flag_count * sizeof(uint32_t);
  zero1_status status = device->ops->pinned_alloc(device, seen_bytes(self), &self->seen, error);
  if (!status)
    status = zero1__peer_memory_table(&self->memory, INBOX, row, self->seen, &self->flags, error);
  if (!status)
    status = zero1__peer_memory_table(&self->memory, PARAMS, 0, NULL, &self->params, error);
  if (status) return status;
  describe(self);
  for (int32_t rank = 0; rank < self->base.comm->world_size; ++rank)
    zero1__channel_point(&self->base, rank, zero1__peer_memory_at(&self->memory, GRADS, rank));
  status = zero1__channel_show(&self->base, error);
  if (!status && !is_alone(self))
    status = zero1__lookout_start(ZERO1__LOOK_NS, look, self, &self->lookout, error);
  return status;
}

/* ---- the way of a gradient ---- */

static void post(device_channel *self, int64_t flag, int32_t skippable) {
  zero1__device *device = self->base.config.device;
  const zero1__post_job job = {.step = self->base.config.step,
                               .flags = self->flags,
                               .offset = flag,
                               .count = self->base.comm->world_size + 1, /* and `seen` */
                               .skippable = skippable};
  if (is_alone(self)) return;
  device->ops->post(device, self->base.stream, &job);
}

static void await(device_channel *self, int64_t flag, int32_t skippable) {
  zero1__device *device = self->base.config.device;
  const uint32_t *inbox = zero1__peer_memory_at(&self->memory, INBOX, self->base.comm->rank);
  const zero1__await_job job = {.step = self->base.config.step,
                                .flags = inbox + flag,
                                .stride = self->flag_count,
                                .count = self->base.comm->world_size,
                                .skippable = skippable,
                                .timeout_ns = zero1__seconds_ns(self->base.config.timeout_seconds)};
  if (is_alone(self)) return;
  device->ops->await(device, self->base.stream, &job);
}

static void use(device_channel *self) {
  atomic_store_explicit(&self->used, 1, memory_order_release);
}

/* For a rank's own lookout alone, where nothing else says that its kernels are in a step. */
static void post_begun(device_channel *self, zero1__stream *stream) {
  zero1__device *device = self->base.config.device;
  const zero1__post_job job = {
      .step = self->base.config.step,
      .flags = (uint32_t *const *)self->flags + self->base.comm->world_size,
      .offset = begun(self),
      .count = 1};
  use(self);
  if (is_alone(self) || self->begun_epoch == self->base.epoch) return;
  self->begun_epoch = self->base.epoch;
  device->ops->post(device, stream, &job);
}

static int64_t updated(const device_channel *self, int64_t bucket) {
  return self->base.config.layout->bucket_count + bucket;
}

static int64_t copied(const device_channel *self) {
  return 2 * self->base.config.layout->bucket_count;
}

static zero1_status device_offer(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                 zero1__error *error) {
  device_channel *self = self_of(channel);
  const zero1_status status = zero1__peer_memory_refuse(&self->memory, error);
  if (status) return status;
  use(self);
  self->begun_epoch = epoch;
  post(self, bucket, 0);
  return ZERO1_OK;
}

static zero1_status device_arrive(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                  zero1__error *error) {
  (void)epoch;
  (void)error;
  await(self_of(channel), bucket, 0);
  return ZERO1_OK;
}

static zero1_status device_publish(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                   zero1__error *error) {
  device_channel *self = self_of(channel);
  (void)epoch;
  (void)error;
  post(self, updated(self, bucket), 1);
  return ZERO1_OK;
}

/* After bucket 0, which is gathered last, waits until every peer has copied what it needs from this
 * rank: then the caller may write its own parameters. */
static zero1_status device_all_gather(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                      zero1__error *error) {
  device_channel *self = self_of(channel);
  const zero1__channel_config *config = &channel->config;
  const size_t block_bytes = ZERO1__BLOCK * zero1__dtype_bytes(config->param_dtype);
  const zero1__range first = zero1__layout_shard(config->layout, bucket, 0);
  const zero1__pull_job job = {.step = config->step,
                               .params = self->params,
                               .begin = (size_t)first.begin * block_bytes,
                               .shard_bytes = (size_t)(first.end - first.begin) * block_bytes,
                               .rank = channel->comm->rank,
                               .count = channel->comm->world_size};
  (void)epoch;
  (void)error;
  if (is_alone(self)) return ZERO1_OK;
  await(self, updated(self, bucket), 1);
  config->device->ops->pull(config->device, channel->stream, &job);
  if (bucket > 0) return ZERO1_OK;
  post(self, copied(self), 1);
  await(self, copied(self), 1);
  return ZERO1_OK;
}

static zero1_status device_broadcast(zero1__channel *channel, int32_t root, zero1__error *error) {
  device_channel *self = self_of(channel);
  zero1__device *device = channel->config.device;
  zero1__node *node = self->memory.node;
  use(self);
  zero1_status status = zero1__node_barrier(node, error); /* the root has written */
  if (status) return status;
  if (channel->comm->rank != root && channel->params_bytes)
    device->ops->transfer(device, channel->params,
                          zero1__peer_memory_at(&self->memory, PARAMS, root),
                          channel->params_bytes);
  status = zero1__node_barrier(node, error); /* the root may write again */
  return status ? status : device->ops->check(device, error);
}

static void device_abort(zero1__channel *channel, const zero1__error *why) {
  zero1__device *device = channel->config.device;
  zero1__node_abort(self_of(channel)->memory.node, why);
  device->ops->lose(device);
}

static const zero1__comm_ops device_ops = {
    .name = "node",
    .channel_close = device_channel_close,
    .offer = device_offer,
    .arrive = device_arrive,
    .publish = device_publish,
    .all_gather = device_all_gather,
    .broadcast = device_broadcast,
    .abort = device_abort,
};

zero1_status zero1__node_device_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                             zero1__channel **out, zero1__error *error) {
  const zero1__node_comm *node = (const zero1__node_comm *)comm;
  const int64_t whole = config->layout->bucket_blocks ? config->layout->bucket_blocks : 1;
  const int64_t flag_count = 2 * config->layout->bucket_count + 1;
  const zero1__peer_memory_config memory = {
      .shape = node->shape,
      .watch = node->watch,
      .device = config->device,
      .bytes = {[PARAMS] = zero1__params_bytes(config),
                [GRADS] = zero1__grads_bytes(config),
                [INBOX] = (size_t)comm->world_size * (size_t)flag_count * sizeof(uint32_t)},
      .timeout_seconds = config->timeout_seconds};
  *out = NULL;
  device_channel *self = calloc(1, sizeof *self);
  zero1_status status =
      self ? zero1__channel_begin(&self->base, comm, config, whole, comm->world_size, 0, 0, error)
           : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a channel");
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status) {
    self->flag_count = flag_count;
    self->base.ops = &device_ops;
    status = zero1__peer_memory_open(comm->lane, &memory, &self->memory, error);
  }
  if (!status) status = zero1__lane_agree(comm->lane, furnish(self, error), error);
  if (!status) {
    enlist(self);
    *out = &self->base;
  } else if (self) {
    device_channel_close(&self->base);
  }
  return status;
}

/* ---- device lanes ---- */

typedef struct device_lane {
  zero1__device_lane base;
  device_channel *channel;      /* of the same optimizer; NULL: it has another comm */
  zero1__peer_memory mailboxes; /* one part */
  void *table;                  /* of them, in memory of the device */
  void *sequence;               /* uint32_t in memory of the device */
  int64_t timeout_ns;
} device_lane;

/* A step that was lost is the last one: nobody is to wait long for a rank that may not know yet. */
static void part_early_if_lost(device_lane *self) {
  zero1__device *device = self->base.device;
  int32_t is_lost = 0;
  zero1__error why;
  device->ops->transfer(device, &is_lost, &self->base.step->lost, sizeof is_lost);
  if (!is_lost && !device->ops->check(device, NULL)) return;
  zero1__error_clear(&why);
  zero1__fail(&why, ZERO1_ERR_ABORTED, "aborted");
  zero1__node_abort(self->mailboxes.node, &why);
}

void zero1__node_device_lane_close(zero1__device_lane *lane) {
  device_lane *self = (device_lane *)lane;
  zero1__device *device = lane->device;
  if (self->mailboxes.node) part_early_if_lost(self);
  zero1__peer_memory_close(&self->mailboxes);
  device->ops->memory_free(device, self->table, table_bytes(lane->comm));
  device->ops->memory_free(device, self->sequence, sizeof(uint32_t));
  zero1__device_lane_end(lane);
  free(self);
}

static zero1_status furnish_lane(device_lane *self, zero1__error *error) {
  zero1__device_lane *lane = &self->base;
  zero1__device *device = lane->device;
  zero1_status status = zero1__peer_memory_table(&self->mailboxes, 0, 0, NULL, &self->table, error);
  if (!status) status = device->ops->memory_alloc(device, sizeof(uint32_t), &self->sequence, error);
  return status ? status : zero1__device_lane_begin(lane, error);
}

zero1_status zero1__node_device_lane_open(zero1_comm *comm, zero1__device *device,
                                          zero1__step *step, size_t bytes, double timeout_seconds,
                                          zero1__device_lane **out, zero1__error *error) {
  const zero1__node_comm *node = (const zero1__node_comm *)comm;
  const zero1__peer_memory_config memory = {
      .shape = node->shape,
      .watch = node->watch,
      .device = device,
      .bytes = {zero1__mailbox_bytes(bytes, comm->world_size)},
      .timeout_seconds = timeout_seconds};
  *out = NULL;
  device_lane *self = calloc(1, sizeof *self);
  zero1_status status =
      self ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status) {
    self->base = (zero1__device_lane){.comm = comm, .device = device, .step = step, .bytes = bytes};
    self->timeout_ns = zero1__seconds_ns(timeout_seconds);
    self->channel = channel_of_step(comm, step);
    status = zero1__peer_memory_open(comm->lane, &memory, &self->mailboxes, error);
    self->base.other_bytes = self->mailboxes.config.bytes[0] + table_bytes(comm) + sizeof(uint32_t);
  }
  if (!status) status = zero1__lane_agree(comm->lane, furnish_lane(self, error), error);
  if (!status) {
    *out = &self->base;
  } else if (self) {
    if (self->base.device)
      zero1__node_device_lane_close(&self->base);
    else
      free(self);
  }
  return status;
}

zero1_status zero1__node_device_lane_gather(zero1__device_lane *lane, zero1__stream *stream,
                                            zero1__error *error) {
  device_lane *self = (device_lane *)lane;
  const zero1__mail_job job = {.step = lane->step,
                               .mailboxes = self->table,
                               .mine = lane->mine,
                               .all = lane->all,
                               .bytes = lane->bytes,
                               .sequence = self->sequence,
                               .rank = lane->comm->rank,
                               .count = lane->comm->world_size,
                               .timeout_ns = self->timeout_ns};
  const zero1_status status = zero1__peer_memory_refuse(&self->mailboxes, error);
  if (status) return status;
  if (self->channel) post_begun(self->channel, stream);
  lane->device->ops->mail(lane->device, stream, &job);
  return ZERO1_OK;
}
