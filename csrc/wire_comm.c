#include "wire_comm.h"

#include <stdlib.h>
#include <string.h>

#define LANE_BYTES 1024
/* A broadcast's messages. */
#define PIECE_BYTES ((size_t)4 << 20)

static zero1__wire_comm *self_of(zero1_comm *comm) {
  return (zero1__wire_comm *)comm;
}

/* ---- the comm ---- */

zero1_status zero1__wire_comm_create(const zero1__wire_comm_parts *parts,
                                     const zero1_comm_options *options, zero1_comm **out,
                                     zero1__error *error) {
  *out = NULL;
  zero1__wire_comm *comm = calloc(1, sizeof *comm);
  if (!comm) {
    parts->wire->ops->destroy(parts->wire);
    zero1__watch_destroy(parts->watch);
    zero1__watch_destroy(parts->node_watch);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a communicator");
  }
  comm->base.ops = parts->shape.size > 1 ? &zero1__hierarchical_ops : &zero1__exchange_ops;
  comm->base.rank = parts->wire->rank;
  comm->base.world_size = parts->wire->world_size;
  comm->base.ranks_per_node = parts->shape.size;
  comm->base.timeout_seconds = options->timeout_seconds;
  comm->base.inline_calls = parts->inline_calls;
  comm->wire = parts->wire;
  comm->watch = parts->watch;
  comm->node_watch = parts->node_watch;
  comm->shape = parts->shape;
  comm->workspace_bytes = options->workspace_bytes;
  const zero1_status status =
      zero1__wire_lane_open(&comm->base, options->timeout_seconds, &comm->base.lane, error);
  if (status) {
    zero1__wire_comm_destroy(&comm->base);
    return status;
  }
  *out = &comm->base;
  return ZERO1_OK;
}

void zero1__wire_comm_destroy(zero1_comm *comm) {
  zero1__wire_comm *self = self_of(comm);
  if (comm->lane) zero1__wire_lane_close(comm->lane);
  self->wire->ops->destroy(self->wire);
  zero1__watch_destroy(self->watch);
  zero1__watch_destroy(self->node_watch);
  free(self);
}

/* ---- lanes ---- */

typedef struct wire_lane {
  zero1__lane base;
  zero1__port port;
  atomic_int stop;
  int32_t abandoned;        /* the carrier may still touch the scratch: it is never freed */
  char *gathered, *scratch; /* [world_size * LANE_BYTES] */
} wire_lane;

void zero1__wire_lane_close(zero1__lane *base) {
  wire_lane *lane = (wire_lane *)base;
  free(lane->gathered);
  if (!lane->abandoned) free(lane->scratch);
  zero1__lane_end(base);
  free(lane);
}

static zero1_status lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **out,
                              zero1__error *error) {
  const zero1__port port = zero1__wire_port(comm, timeout_seconds);
  *out = NULL;
  wire_lane *lane = calloc(1, sizeof *lane);
  if (!lane) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
  const size_t bytes = (size_t)comm->world_size * LANE_BYTES;
  lane->port = port;
  lane->port.stop = &lane->stop;
  lane->gathered = malloc(bytes);
  lane->scratch = malloc(bytes);
  zero1_status status = zero1__lane_begin(&lane->base, comm, timeout_seconds, error);
  if (!status && (!lane->gathered || !lane->scratch))
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane of %zu bytes", 2 * bytes);
  if (status) {
    zero1__wire_lane_close(&lane->base);
    return status;
  }
  *out = &lane->base;
  return ZERO1_OK;
}

/* The comm's own first lane has none to agree over: its maker does. */
zero1_status zero1__wire_lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **out,
                                   zero1__error *error) {
  zero1__lane *over = comm->lane; /* before *out is set, which may be comm->lane itself */
  zero1_status status = lane_open(comm, timeout_seconds, out, error);
  if (over) status = zero1__lane_agree(over, status, error);
  if (status && *out) {
    zero1__wire_lane_close(*out);
    *out = NULL;
  }
  return status;
}

zero1_status zero1__wire_lane_all_gather(zero1__lane *base, const void *in, void *out, size_t bytes,
                                         zero1__error *error) {
  wire_lane *lane = (wire_lane *)base;
  const int32_t world = base->comm->world_size;
  for (size_t begin = 0; begin < bytes; begin += LANE_BYTES) {
    const size_t piece = bytes - begin < LANE_BYTES ? bytes - begin : LANE_BYTES;
    const zero1_status status =
        zero1__port_all_gather(&lane->port, (const char *)in + begin, lane->gathered, lane->scratch,
                               piece, &lane->abandoned, error);
    if (status) return status;
    for (int32_t i = 0; i < world; ++i)
      memcpy((char *)out + (size_t)i * bytes + begin, lane->gathered + (size_t)i * piece, piece);
  }
  return ZERO1_OK;
}

void zero1__wire_lane_abort(zero1__lane *lane, const zero1__error *why) {
  zero1__port_abort(&((wire_lane *)lane)->port, why);
}

/* ---- channels ---- */

zero1__port zero1__wire_port(zero1_comm *comm, double timeout_seconds) {
  return zero1__port_open(self_of(comm)->wire, timeout_seconds, self_of(comm)->watch);
}

int64_t zero1__wire_chunk_blocks(const zero1__wire_comm *comm, const zero1__layout *layout,
                                 int32_t shards, size_t block_bytes) {
  const int64_t fit =
      comm->workspace_bytes / ((int64_t)ZERO1__RING_COUNT * shards * (int64_t)block_bytes);
  const int64_t whole = layout->bucket_blocks / layout->world_size;
  const int64_t piece = ZERO1__PIECE_BYTES / (int64_t)block_bytes;
  int64_t blocks = fit < whole ? fit : whole;
  if (blocks > piece) blocks = piece;
  return blocks < 1 ? 1 : blocks;
}

zero1_status zero1__wire_channel_open(zero1__wire_channel *channel, int32_t capacity,
                                      size_t slot_bytes, size_t staging_bytes,
                                      zero1__error *error) {
  const int32_t ring_count = ZERO1__RING_COUNT;
  zero1__device *device = channel->base.config.device;
  channel->port.stop = &channel->stop;
  channel->direct = zero1__bundle_reaches(&channel->port, device);
  channel->bundles = calloc((size_t)ring_count, sizeof *channel->bundles);
  if (!channel->bundles)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d bundles", ring_count);
  channel->base.ring_count = ring_count;
  channel->ring_bytes = slot_bytes * (size_t)ring_count;
  channel->base.workspace_bytes += channel->ring_bytes + staging_bytes * (size_t)ring_count;
  for (int32_t i = 0; i < ring_count; ++i) {
    const zero1_status status =
        zero1__bundle_open(&channel->bundles[i], &channel->port, channel->base.config.layout,
                           device, capacity, staging_bytes, error);
    if (status) return status;
    channel->bundles[i].sent_bytes = &channel->base.sent_bytes;
  }
  void *ring, *taken;
  zero1_status status = device->ops->pinned_alloc(device, ZERO1__TAKEN_BYTES, &taken, error);
  channel->taken = taken;
  if (status) return status;
  status = channel->direct ? device->ops->memory_alloc(device, channel->ring_bytes, &ring, error)
                           : device->ops->pinned_alloc(device, channel->ring_bytes, &ring, error);
  channel->ring = ring;
  return status;
}

void zero1__wire_channel_close(zero1__wire_channel *channel) {
  zero1__device *device = channel->base.config.device;
  for (int32_t i = 0; channel->bundles && i < channel->base.ring_count; ++i)
    if (!zero1__bundle_cancel(&channel->bundles[i])) channel->abandoned = 1;
  if (channel->abandoned) return; /* better lost than written after it is someone else's */
  for (int32_t i = 0; channel->bundles && i < channel->base.ring_count; ++i)
    zero1__bundle_close(&channel->bundles[i]);
  free(channel->bundles);
  device->ops->pinned_free(device, channel->taken, ZERO1__TAKEN_BYTES);
  if (channel->direct)
    device->ops->memory_free(device, channel->ring, channel->ring_bytes);
  else
    device->ops->pinned_free(device, channel->ring, channel->ring_bytes);
}

char *zero1__wire_slot(const zero1__wire_channel *channel, int32_t ring) {
  return channel->ring + channel->ring_bytes / (size_t)channel->base.ring_count * (size_t)ring;
}

/* ---- parameters ---- */

/* The index-th peer; -count <= index, and past the end it begins again. */
static int32_t peer_at(zero1__peers peers, int32_t index) {
  return peers.first + (index + peers.count) % peers.count * peers.stride;
}

/* One part of every rank's shard: own blocks to all, theirs from each. */
static zero1_status post_part(zero1__wire_channel *channel, zero1__bundle *bundle, int64_t bucket,
                              zero1__range part, zero1__peers peers, zero1__error *error) {
  const zero1__layout *layout = channel->base.config.layout;
  const zero1__dtype dtype = channel->base.config.param_dtype;
  const size_t block_bytes = ZERO1__BLOCK * zero1__dtype_bytes(dtype);
  const int32_t rank = channel->base.comm->rank;
  const int32_t own = (rank - peers.first) / peers.stride;
  const int64_t begin = zero1__layout_shard(layout, bucket, rank).begin;
  const zero1__range blocks = {begin + part.begin, begin + part.end};
  char *params = channel->base.params;
  const zero1__parcel parcel =
      zero1__bundle_pack(bundle, blocks, params + (size_t)blocks.begin * block_bytes, dtype);
  for (int32_t i = 1; i < peers.count; ++i) {
    const int32_t to = peer_at(peers, own + i), from = peer_at(peers, own - i);
    const int64_t theirs = zero1__layout_shard(layout, bucket, from).begin;
    const zero1__range land = {theirs + part.begin, theirs + part.end};
    const zero1__target target = {params + (size_t)land.begin * block_bytes, dtype, 1};
    zero1_status status = zero1__bundle_recv(bundle, ZERO1__TAG_GATHER, land, target, from, error);
    if (!status) status = zero1__bundle_send(bundle, ZERO1__TAG_GATHER, parcel, to, error);
    if (status) return status;
  }
  return ZERO1_OK;
}

zero1_status zero1__wire_gather(zero1__wire_channel *channel, int64_t bucket, zero1__peers peers,
                                zero1__error *error) {
  const int32_t ring_count = channel->base.ring_count;
  const int64_t chunks = channel->base.chunk_begin[bucket + 1] - channel->base.chunk_begin[bucket];
  zero1_status status = ZERO1_OK;
  for (int64_t i = 0; i < chunks + ring_count && !status; ++i) {
    zero1__bundle *bundle = &channel->bundles[i % ring_count];
    status = zero1__bundle_wait(bundle, "its new parameters", error);
    if (!status && i < chunks) {
      const zero1__chunk *chunk = &channel->base.chunks[channel->base.chunk_begin[bucket] + i];
      status = post_part(channel, bundle, bucket, chunk->part, peers, error);
    }
  }
  return status;
}

/* A piece is sent once the one before has been taken: what is sent may wait in memory of the carrier.
 * Relative to the root, rank v receives from v - lowest bit, and sends to v + 1, 2, 4, ... below
 * that bit; 6 ranks: 0 -> 4, 2, 1; 2 -> 3; 4 -> 5. */
static zero1_status broadcast_piece(zero1__wire_channel *channel, char *data, size_t bytes,
                                    zero1__peers peers, int32_t root, zero1__error *error) {
  const int32_t own = (channel->base.comm->rank - peers.first) / peers.stride;
  const int32_t mine = (own - root + peers.count) % peers.count;
  zero1__request requests[2 * ZERO1__CHILDREN + 1] = {0};
  int32_t bit = 1, count = 0;
  zero1_status status = ZERO1_OK;
  while (bit < peers.count && !(mine & bit)) bit *= 2;
  if (mine) {
    const int32_t from = peer_at(peers, mine - bit + root);
    status =
        zero1__port_recv(&channel->port, data, bytes, from, ZERO1__TAG_BROADCAST, requests, error);
    if (!status)
      status = zero1__port_wait(&channel->port, requests, 1, "the root's parameters", error);
    if (!status)
      status = zero1__port_send(&channel->port, &channel->taken[ZERO1__CHILDREN], 1, from,
                                ZERO1__TAG_BROADCAST, &requests[count++], error);
  }
  for (bit /= 2; bit && !status; bit /= 2) {
    if (mine + bit >= peers.count) continue;
    const int32_t to = peer_at(peers, mine + bit + root);
    status = zero1__port_send(&channel->port, data, bytes, to, ZERO1__TAG_BROADCAST,
                              &requests[count++], error);
    if (!status)
      status = zero1__port_recv(&channel->port, &channel->taken[count / 2], 1, to,
                                ZERO1__TAG_BROADCAST, &requests[count], error);
    ++count;
  }
  if (!status)
    status = zero1__port_wait(&channel->port, requests, count, "the parameters to be taken", error);
  if (status && !zero1__port_cancel(&channel->port, requests, sizeof requests / sizeof *requests))
    channel->abandoned = 1;
  return status;
}

/* The same through the receive buffers, which nobody needs now. */
static zero1_status broadcast_staged(zero1__wire_channel *channel, char *params, size_t bytes,
                                     zero1__peers peers, int32_t root, zero1__error *error) {
  zero1__device *device = channel->base.config.device;
  const int is_root = channel->base.comm->rank == peer_at(peers, root);
  if (is_root) device->ops->transfer(device, channel->ring, params, bytes);
  zero1_status status = is_root ? device->ops->check(device, error) : ZERO1_OK;
  if (!status) status = broadcast_piece(channel, channel->ring, bytes, peers, root, error);
  if (!status && !is_root) device->ops->transfer(device, params, channel->ring, bytes);
  return status;
}

zero1_status zero1__wire_broadcast(zero1__wire_channel *channel, zero1__peers peers, int32_t root,
                                   zero1__error *error) {
  zero1__device *device = channel->base.config.device;
  const size_t total = zero1__params_bytes(&channel->base.config);
  size_t most = PIECE_BYTES; /* the same on every rank, whether it is direct there or not */
  zero1_status status = ZERO1_OK;
  if (!device->is_host && channel->ring_bytes < most) most = channel->ring_bytes;
  for (size_t begin = 0; begin < total && !status; begin += most) {
    char *params = (char *)channel->base.params + begin;
    const size_t bytes = total - begin < most ? total - begin : most;
    status = channel->direct ? broadcast_piece(channel, params, bytes, peers, root, error)
                             : broadcast_staged(channel, params, bytes, peers, root, error);
  }
  return status;
}
