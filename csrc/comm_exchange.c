/* Every rank exchanges with every rank, in chunks through a bounded ring: contributions arrive as
 * they crossed the wire, in 16 bits where the gradients have 16 or are rounded to them; their sum
 * is fp32, in rank order.
 *
 * On a device other than the host the calls below are still the host's, made by a thread that comes
 * after the device's work by events: what they read is complete (bundle.h says how they reach it).
 * Reduce reads the receive buffers, and this rank's own contribution where it is; or, rounded, in
 * the receive buffers as well. */
#include <stdlib.h>

#include "wire_comm.h"

static zero1__wire_channel *self_of(zero1__channel *channel) {
  return (zero1__wire_channel *)channel;
}

static void exchange_close(zero1__channel *channel) {
  zero1__wire_channel *self = self_of(channel);
  zero1__device *device = channel->config.device;
  zero1__wire_channel_close(self);
  if (!zero1__wire_keeps_buffers(self)) {
    device->ops->memory_free(device, channel->params, zero1__params_bytes(&channel->config));
    device->ops->memory_free(device, channel->grads, zero1__offered_bytes(&channel->config));
  }
  zero1__channel_end(channel);
  free(channel);
}

/* Of the receive buffers. */
static zero1__dtype ring_dtype(const zero1__channel_config *config) {
  const zero1__dtype offered = zero1__offered_dtype(config);
  return offered == ZERO1__DTYPE_FP32_AS_BF16 ? ZERO1_DTYPE_BF16 : offered;
}

/* 1: this rank's own contribution has to be rounded. */
static int rounds(const zero1__channel_config *config) {
  return zero1__offered_dtype(config) == ZERO1__DTYPE_FP32_AS_BF16;
}

/* Contribution p of a chunk: own gradients where they are, else slot p of the ring's buffer. */
static void point_to_ring(zero1__wire_channel *self, size_t piece_bytes) {
  zero1__channel *channel = &self->base;
  for (int64_t i = 0; i < channel->chunk_count; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    const void **contributions = (const void **)chunk->sources.contributions;
    chunk->ring = (int32_t)(i % channel->ring_count);
    for (int32_t rank = 0; rank < chunk->sources.count; ++rank)
      contributions[rank] =
          rank == channel->comm->rank && !rounds(&channel->config)
              ? zero1__offered_block(&channel->config, channel->grads, chunk->blocks.begin)
              : zero1__wire_slot(self, chunk->ring) + (size_t)rank * piece_bytes;
    chunk->sources.group = channel->reduce_group;
    chunk->sources.dtype = ring_dtype(&channel->config);
    chunk->sources.round_groups = channel->config.round_groups;
  }
}

/* Of one bundle: what is sent of a chunk's gradients, to each peer its own; or the chunk of this
 * rank's parameters. On a device also what arrives there. */
static size_t staging_bytes(const zero1__wire_channel *self, size_t chunk_numel) {
  const zero1__channel_config *config = &self->base.config;
  const size_t peers = (size_t)self->base.comm->world_size - 1;
  const size_t receives = config->device->is_host ? 0 : peers;
  const size_t ring_receives = zero1__bundle_reaches(&self->port, config->device) ? receives : 0;
  const size_t own = config->device->is_host || !rounds(config) ? 0 : sizeof(float);
  const size_t grads = config->int8 /* these are sent from where they are, of the host alone */
                           ? 0
                           : peers * zero1__bundle_send_bytes(config->device, config->grad_dtype) +
                                 ring_receives * zero1__dtype_bytes(ring_dtype(config)) + own;
  const size_t params = zero1__bundle_send_bytes(config->device, config->param_dtype) +
                        receives * zero1__dtype_bytes(config->param_dtype);
  return chunk_numel * (grads > params ? grads : params);
}

static zero1_status open_local(zero1__wire_channel *self, zero1_comm *comm,
                               const zero1__channel_config *config, zero1__error *error) {
  zero1__channel *channel = &self->base;
  const int32_t world = comm->world_size;
  const size_t block_bytes = zero1__source_block_bytes(ring_dtype(config));
  const int64_t chunk_blocks =
      zero1__wire_chunk_blocks((zero1__wire_comm *)comm, config->layout, world, block_bytes);
  const size_t chunk_numel = (size_t)chunk_blocks * ZERO1__BLOCK;
  const size_t piece_bytes = (size_t)chunk_blocks * block_bytes;
  zero1_status status =
      zero1__channel_begin(channel, comm, config, chunk_blocks, world, 0, 0, error);
  channel->ops = &zero1__exchange_ops;
  channel->config.share_params = 0;
  channel->reduce_group = config->reduce_group ? config->reduce_group : world;
  channel->params_bytes = zero1__params_bytes(config);
  channel->grads_bytes = zero1__grads_bytes(config);
  if (!status)
    status = zero1__wire_channel_open(self, 2 * (world - 1), piece_bytes * (size_t)world,
                                      staging_bytes(self, chunk_numel), error);
  zero1__device *device = config->device;
  if (!status)
    status = device->ops->memory_alloc(device, channel->params_bytes, &channel->params, error);
  if (!status)
    status =
        device->ops->memory_alloc(device, zero1__offered_bytes(config), &channel->grads, error);
  if (status) return status;
  point_to_ring(self, piece_bytes);
  return zero1__channel_show(channel, error);
}

static zero1_status exchange_open(zero1_comm *comm, const zero1__channel_config *config,
                                  zero1__channel **out, zero1__error *error) {
  *out = NULL;
  const zero1__port port = zero1__wire_port(comm, config->timeout_seconds);
  zero1__wire_channel *self = calloc(1, sizeof *self);
  if (self) self->port = port;
  zero1_status status = self ? open_local(self, comm, config, error)
                             : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a channel");
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status) {
    *out = &self->base;
  } else if (self) {
    exchange_close(&self->base);
  }
  return status;
}

/* Copies from and to a device that has failed did nothing, and say nothing. */
static zero1_status check_copies(const zero1__channel *channel, zero1_status status,
                                 zero1__error *error) {
  zero1__device *device = channel->config.device;
  return status ? status : device->ops->check(device, error);
}

/* The peer's part, to be received into the ring. */
static zero1_status post_receive(zero1__wire_channel *self, const zero1__chunk *chunk, int32_t from,
                                 zero1__error *error) {
  zero1__bundle *bundle = &self->bundles[chunk->ring];
  const zero1__dtype dtype = ring_dtype(&self->base.config);
  void *to = (void *)(uintptr_t)chunk->sources.contributions[from];
  if (dtype == ZERO1__DTYPE_INT8_BLOCKS)
    return zero1__bundle_recv_whole(bundle, ZERO1__TAG_EXCHANGE, chunk->blocks,
                                    (zero1__whole){to, sizeof(zero1__int8_block)}, from, error);
  return zero1__bundle_recv(bundle, ZERO1__TAG_EXCHANGE, chunk->blocks,
                            (zero1__target){to, dtype, self->direct}, from, error);
}

/* What this rank has for the peer's shard. */
static zero1_status post_send(zero1__wire_channel *self, const zero1__chunk *chunk, int32_t to,
                              zero1__error *error) {
  const zero1__channel *channel = &self->base;
  zero1__bundle *bundle = &self->bundles[chunk->ring];
  const zero1__dtype dtype = zero1__offered_dtype(&channel->config);
  const int64_t theirs = zero1__layout_shard(channel->config.layout, chunk->bucket, to).begin;
  const zero1__range blocks = {theirs + chunk->part.begin, theirs + chunk->part.end};
  const void *data = zero1__offered_block(&channel->config, channel->grads, blocks.begin);
  const zero1__parcel parcel =
      dtype == ZERO1__DTYPE_INT8_BLOCKS
          ? zero1__bundle_whole(bundle, blocks, data, sizeof(zero1__int8_block))
          : zero1__bundle_pack(bundle, blocks, data, dtype);
  return zero1__bundle_send(bundle, ZERO1__TAG_EXCHANGE, parcel, to, error);
}

static zero1_status exchange_begin(zero1__channel *channel, int64_t index, uint32_t epoch,
                                   zero1__error *error) {
  zero1__wire_channel *self = self_of(channel);
  const zero1__chunk *chunk = &channel->chunks[index];
  const int32_t world = channel->comm->world_size, rank = channel->comm->rank;
  (void)epoch;
  /* Who waits for a device that has failed comes too early: its kernels may still read the slot. */
  const zero1_status usable = check_copies(channel, ZERO1_OK, error);
  if (usable) return usable;
  for (int32_t i = 1; i < world; ++i) {
    zero1_status status = post_receive(self, chunk, (rank - i + world) % world, error);
    if (!status) status = post_send(self, chunk, (rank + i) % world, error);
    if (status) return status;
  }
  if (rounds(&channel->config)) /* while the others' are on their way */
    zero1__bundle_round(&self->bundles[chunk->ring], chunk->blocks,
                        zero1__offered_block(&channel->config, channel->grads, chunk->blocks.begin),
                        (void *)(uintptr_t)chunk->sources.contributions[rank]);
  return ZERO1_OK;
}

static zero1_status exchange_end(zero1__channel *channel, int64_t index, uint32_t epoch,
                                 zero1__error *error) {
  zero1__wire_channel *self = self_of(channel);
  (void)epoch;
  const zero1_status status =
      zero1__bundle_wait(&self->bundles[channel->chunks[index].ring], "its gradients", error);
  return check_copies(channel, status, error);
}

static zero1__peers all_ranks(const zero1__channel *channel) {
  return (zero1__peers){0, 1, channel->comm->world_size};
}

static zero1_status exchange_all_gather(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                        zero1__error *error) {
  (void)epoch;
  const zero1_status status =
      zero1__wire_gather(self_of(channel), bucket, all_ranks(channel), error);
  return check_copies(channel, status, error);
}

static zero1_status exchange_broadcast(zero1__channel *channel, int32_t root, zero1__error *error) {
  const zero1_status status =
      zero1__wire_broadcast(self_of(channel), all_ranks(channel), root, error);
  return check_copies(channel, status, error);
}

static void exchange_abort(zero1__channel *channel, const zero1__error *why) {
  zero1__port_abort(&self_of(channel)->port, why);
}

const zero1__comm_ops zero1__exchange_ops = {
    .name = "exchange",
    .destroy = zero1__wire_comm_destroy,
    .lane_open = zero1__wire_lane_open,
    .lane_close = zero1__wire_lane_close,
    .lane_all_gather = zero1__wire_lane_all_gather,
    .lane_abort = zero1__wire_lane_abort,
    .channel_open = exchange_open,
    .channel_close = exchange_close,
    .exchange_begin = exchange_begin,
    .exchange_end = exchange_end,
    .all_gather = exchange_all_gather,
    .broadcast = exchange_broadcast,
    .abort = exchange_abort,
};
