/* Several ranks on each of several nodes, all nodes alike: a rank sums over its node's ranks,
 * reading their gradients in place, and exchanges partial sums with the ranks of its own index on
 * the other nodes; parameters go the reverse way.
 *
 * Worked example, 2 nodes of 2: ranks 0 1 | 2 3. Rank 1 (index 1 of node 0) sums the contributions
 * of ranks 0 and 1 to the shards of ranks 1 and 3, keeps the first, sends the second to rank 3,
 * gets rank 3's sum for its own shard, and adds the two in the order of nodes: (c0 + c1) + (c2 +
 * c3), which is what reduce_group = 2 means everywhere else. */
#include <stdio.h>
#include <stdlib.h>

#include "node_buffers.h"
#include "wire_comm.h"

typedef struct hier_channel {
  zero1__wire_channel wire;
  zero1__node_buffers buffers;
  int32_t node_size, node_count;
  int32_t index, node; /* this rank's place: rank = node * node_size + index */
} hier_channel;

static hier_channel *self_of(zero1__channel *channel) {
  return (hier_channel *)channel;
}

static void hier_close(zero1__channel *channel) {
  hier_channel *self = self_of(channel);
  zero1__wire_channel_close(&self->wire);
  if (!self->wire.abandoned) zero1__node_buffers_close(&self->buffers);
  zero1__channel_end(channel);
  free(channel);
}

/* What partial sums are from node to node, and wherever they are summed. */
static zero1__dtype partial_dtype(const zero1__channel *channel) {
  return channel->config.round_groups ? ZERO1__DTYPE_FP32_AS_BF16 : ZERO1_DTYPE_FP32;
}

/* A ring slot holds, for every node, the partial sum made here for it and the one from there. */
static void point(hier_channel *self, size_t piece_bytes) {
  zero1__channel *channel = &self->wire.base;
  const zero1__layout *layout = channel->config.layout;
  for (int64_t i = 0; i < channel->chunk_count; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    chunk->ring = (int32_t)(i % channel->ring_count);
    char *made = zero1__wire_slot(&self->wire, chunk->ring);
    char *received = made + (size_t)self->node_count * piece_bytes;
    const void **sums = (const void **)chunk->sources.contributions;
    for (int32_t node = 0; node < self->node_count; ++node) {
      zero1__partial *partial = &chunk->partials[node];
      const int32_t owner = node * self->node_size + self->index;
      const int64_t begin = zero1__layout_shard(layout, chunk->bucket, owner).begin;
      const void **contributions = (const void **)partial->sources.contributions;
      partial->blocks = (zero1__range){begin + chunk->part.begin, begin + chunk->part.end};
      partial->out = (float *)(void *)(made + (size_t)node * piece_bytes);
      partial->sources.group = self->node_size;
      partial->sources.rank_begin = self->node * self->node_size;
      partial->sources.dtype = zero1__offered_dtype(&channel->config);
      for (int32_t peer = 0; peer < self->node_size; ++peer)
        contributions[peer] = zero1__offered_block(&channel->config, self->buffers.grads[peer].base,
                                                   partial->blocks.begin);
      sums[node] =
          node == self->node ? (char *)partial->out : received + (size_t)node * piece_bytes;
    }
    chunk->sources.group = self->node_count;
    chunk->sources.rank_begin = -1;
    chunk->sources.dtype = partial_dtype(channel);
  }
}

static zero1_status open_local(hier_channel *self, zero1_comm *comm,
                               const zero1__channel_config *config, size_t *piece_bytes,
                               zero1__error *error) {
  const zero1__wire_comm *wire_comm = (zero1__wire_comm *)comm;
  zero1__channel *channel = &self->wire.base;
  self->node_size = wire_comm->shape.size;
  self->node_count = comm->world_size / self->node_size;
  self->node = comm->rank / self->node_size;
  self->index = comm->rank % self->node_size;
  const int64_t chunk_blocks = zero1__wire_chunk_blocks(
      wire_comm, config->layout, 2 * self->node_count, ZERO1__BLOCK * sizeof(float));
  *piece_bytes = (size_t)chunk_blocks * ZERO1__BLOCK * sizeof(float);
  const zero1_status status =
      zero1__channel_begin(channel, comm, config, chunk_blocks, self->node_count, self->node_count,
                           self->node_size, error);
  channel->reduce_group = self->node_size;
  if (status) return status;
  return zero1__wire_channel_open(
      &self->wire, 2 * (self->node_count - 1), 2 * (size_t)self->node_count * *piece_bytes,
      (size_t)(self->node_count - 1) * *piece_bytes + *piece_bytes, error);
}

/* Every contribution by itself between any two ranks, whatever they share. */
static zero1_status open_exchange(zero1_comm *comm, const zero1__channel_config *config,
                                  zero1__channel **out, zero1__error *error) {
  const zero1_status status = zero1__exchange_ops.channel_open(comm, config, out, error);
  if (!status && !config->device->is_host)
    snprintf(comm->note, sizeof comm->note,
             "GPUs exchange messages: ranks of one machine do not sum their gradients first");
  return status;
}

static zero1_status hier_open(zero1_comm *comm, const zero1__channel_config *config,
                              zero1__channel **out, zero1__error *error) {
  const zero1__wire_comm *wire_comm = (zero1__wire_comm *)comm;
  const int other_order = config->reduce_group && config->reduce_group != wire_comm->shape.size;
  /* Another order of sums than the node's needs every contribution by itself; a node's shared
   * memory is the host's. */
  if (other_order || !config->device->is_host) return open_exchange(comm, config, out, error);
  *out = NULL;
  const zero1__port port = zero1__wire_port(comm, config->timeout_seconds);
  hier_channel *self = calloc(1, sizeof *self);
  size_t piece_bytes = 0;
  if (self) self->wire.port = port;
  zero1_status status = self ? open_local(self, comm, config, &piece_bytes, error)
                             : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a channel");
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status)
    status = zero1__node_buffers_open(comm->lane, &wire_comm->shape, wire_comm->node_watch, config,
                                      &self->buffers, error);
  if (status) {
    if (self) hier_close(&self->wire.base);
    return status;
  }
  zero1__node_buffers_describe(&self->buffers, &self->wire.base);
  point(self, piece_bytes);
  *out = &self->wire.base;
  return ZERO1_OK;
}

static zero1_status hier_offer(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                               zero1__error *error) {
  (void)error;
  zero1__node_offer(&self_of(channel)->buffers, bucket, epoch);
  return ZERO1_OK;
}

static zero1_status hier_arrive(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                zero1__error *error) {
  return zero1__node_arrive(&self_of(channel)->buffers, bucket, epoch, error);
}

static zero1_status hier_begin(zero1__channel *channel, int64_t index, uint32_t epoch,
                               zero1__error *error) {
  hier_channel *self = self_of(channel);
  const zero1__chunk *chunk = &channel->chunks[index];
  zero1__bundle *bundle = &self->wire.bundles[chunk->ring];
  const int32_t nodes = self->node_count;
  (void)epoch;
  for (int32_t i = 1; i < nodes; ++i) {
    const int32_t to = (self->node + i) % nodes, from = (self->node - i + nodes) % nodes;
    const zero1__partial *partial = &chunk->partials[to];
    const zero1__target target = {(void *)(uintptr_t)chunk->sources.contributions[from],
                                  partial_dtype(channel), 0};
    zero1_status status = zero1__bundle_recv(bundle, ZERO1__TAG_EXCHANGE, chunk->blocks, target,
                                             from * self->node_size + self->index, error);
    if (!status)
      status = zero1__bundle_send(
          bundle, ZERO1__TAG_EXCHANGE,
          zero1__bundle_pack(bundle, partial->blocks, partial->out, partial_dtype(channel)),
          to * self->node_size + self->index, error);
    if (status) return status;
  }
  return ZERO1_OK;
}

static zero1_status hier_end(zero1__channel *channel, int64_t index, uint32_t epoch,
                             zero1__error *error) {
  hier_channel *self = self_of(channel);
  (void)epoch;
  return zero1__bundle_wait(&self->wire.bundles[channel->chunks[index].ring], "its partial sums",
                            error);
}

/* The ranks of one index on all nodes. */
static zero1__peers peers_at(const hier_channel *self, int32_t index) {
  return (zero1__peers){index, self->node_size, self->node_count};
}

/* First between the nodes, index by index; then `updated` says that this rank's index has arrived
 * from everywhere, and the node's ranks take it from here. */
static zero1_status hier_all_gather(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                    zero1__error *error) {
  hier_channel *self = self_of(channel);
  zero1_status status = zero1__wire_gather(&self->wire, bucket, peers_at(self, self->index), error);
  if (!status) zero1__node_publish(&self->buffers, bucket, epoch);
  for (int32_t peer = 0; peer < self->node_size && !status; ++peer) {
    status = zero1__node_await(&self->buffers, peer, bucket, epoch, error);
    for (int32_t node = 0; node < self->node_count && !status; ++node)
      zero1__node_pull(
          &self->buffers, peer,
          zero1__layout_shard(channel->config.layout, bucket, node * self->node_size + peer));
  }
  return status ? status : zero1__node_settle(&self->buffers, bucket, epoch, error);
}

static zero1_status hier_broadcast(zero1__channel *channel, int32_t root, zero1__error *error) {
  hier_channel *self = self_of(channel);
  const int32_t index = root % self->node_size;
  zero1_status status = ZERO1_OK;
  if (self->index == index)
    status =
        zero1__wire_broadcast(&self->wire, peers_at(self, index), root / self->node_size, error);
  if (!status) status = zero1__node_broadcast(&self->buffers, index, error);
  return status;
}

static void hier_abort(zero1__channel *channel, const zero1__error *why) {
  zero1__node_abort(self_of(channel)->buffers.node, why);
  zero1__port_abort(&self_of(channel)->wire.port, why);
}

const zero1__comm_ops zero1__hierarchical_ops = {
    .name = "hierarchical",
    .destroy = zero1__wire_comm_destroy,
    .lane_open = zero1__wire_lane_open,
    .lane_close = zero1__wire_lane_close,
    .lane_all_gather = zero1__wire_lane_all_gather,
    .lane_abort = zero1__wire_lane_abort,
    .channel_open = hier_open,
    .channel_close = hier_close,
    .offer = hier_offer,
    .arrive = hier_arrive,
    .exchange_begin = hier_begin,
    .exchange_end = hier_end,
    .all_gather = hier_all_gather,
    .broadcast = hier_broadcast,
    .abort = hier_abort,
};
