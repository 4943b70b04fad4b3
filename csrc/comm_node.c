/* The ranks of one machine, as processes or as threads: contributions point straight into the
 * peers' gradient buffers, and owners write parameters where everyone reads them, or everyone
 * copies them from their owner. No library is called once the ranks know each other. */
#include "comm_node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bootstrap.h"
#include "comm_node_device.h"
#include "node_buffers.h"

typedef struct node_lane {
  zero1__lane base;
  zero1__node *node;
} node_lane;

typedef struct node_channel {
  zero1__channel base;
  zero1__node_buffers buffers;
} node_channel;

static zero1__node_buffers *buffers_of(zero1__channel *channel) {
  return &((node_channel *)channel)->buffers;
}

/* ---- lanes ---- */

static void node_lane_close(zero1__lane *lane) {
  zero1__node_close(((node_lane *)lane)->node);
  zero1__lane_end(lane);
  free(lane);
}

/* NULL is a failure that has its text already. The caller fills in `node`, owned by the lane. */
static node_lane *lane_alloc(zero1_comm *comm, double timeout_seconds, zero1__error *error) {
  node_lane *lane = calloc(1, sizeof *lane);
  if (!lane) {
    zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
    return NULL;
  }
  if (zero1__lane_begin(&lane->base, comm, timeout_seconds, error)) {
    node_lane_close(&lane->base);
    return NULL;
  }
  return lane;
}

/* Opens a lane of `comm`, its ranks agreeing over the lane `over`. */
static zero1_status lane_open_over(zero1_comm *comm, zero1__lane *over, double timeout_seconds,
                                   zero1__lane **out, zero1__error *error) {
  const zero1__node_comm *self = (zero1__node_comm *)comm;
  *out = NULL;
  node_lane *lane = lane_alloc(comm, timeout_seconds, error);
  zero1_status status = zero1__lane_agree(over, lane ? ZERO1_OK : ZERO1_ERR_MEMORY, error);
  if (!status)
    status =
        zero1__node_open(over, &self->shape, self->watch, 0, timeout_seconds, &lane->node, error);
  if (!status) {
    *out = &lane->base;
  } else if (lane) {
    node_lane_close(&lane->base);
  }
  return status;
}

static zero1_status node_lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **lane,
                                   zero1__error *error) {
  return lane_open_over(comm, comm->lane, timeout_seconds, lane, error);
}

static zero1_status node_lane_all_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                         zero1__error *error) {
  return zero1__node_all_gather(((node_lane *)lane)->node, in, out, bytes, error);
}

static void node_lane_abort(zero1__lane *lane, const zero1__error *why) {
  zero1__node_abort(((node_lane *)lane)->node, why);
}

static zero1_status node_lane_look(zero1__lane *lane, zero1__error *error) {
  return zero1__node_look(((node_lane *)lane)->node, error);
}

/* ---- channels ---- */

static void node_channel_close(zero1__channel *channel) {
  zero1__node_buffers_close(buffers_of(channel));
  zero1__channel_end(channel);
  free(channel);
}

/* Devices that reach each other, or else messages: then the host decides, over this comm's lanes.
 */
static zero1_status device_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                        zero1__channel **out, zero1__error *error) {
  const zero1__node_fallback *fallback = &((zero1__node_comm *)comm)->fallback;
  zero1_comm *other;
  zero1__error why;
  zero1__error_clear(&why);
  zero1_status status = zero1__node_device_channel_open(comm, config, out, &why);
  if (status != ZERO1_ERR_UNSUPPORTED || !fallback->open)
    return status ? zero1__fail(error, status, "%s", why.text) : ZERO1_OK;
  status = fallback->open(fallback->context, comm->lane, &other, error);
  if (!status) status = other->ops->channel_open(other, config, out, error);
  if (!status)
    snprintf(comm->note, sizeof comm->note, "GPUs exchange messages through MPI: %.350s", why.text);
  return status;
}

static zero1_status node_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                      zero1__channel **out, zero1__error *error) {
  if (!config->device->is_host) return device_channel_open(comm, config, out, error);
  const zero1__node_comm *self = (zero1__node_comm *)comm;
  const int64_t whole = config->layout->bucket_blocks ? config->layout->bucket_blocks : 1;
  *out = NULL;
  node_channel *channel = calloc(1, sizeof *channel);
  zero1_status status = channel ? zero1__channel_begin(&channel->base, comm, config, whole,
                                                       comm->world_size, 0, 0, error)
                                : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a channel");
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status)
    status = zero1__node_buffers_open(comm->lane, &self->shape, self->watch, config,
                                      &channel->buffers, error);
  if (status) {
    if (channel) node_channel_close(&channel->base);
    return status;
  }
  channel->base.in_place = 1;
  channel->base.reduce_group = config->reduce_group ? config->reduce_group : comm->world_size;
  zero1__node_buffers_describe(&channel->buffers, &channel->base);
  for (int32_t rank = 0; rank < comm->world_size; ++rank)
    zero1__channel_point(&channel->base, rank, channel->buffers.grads[rank].base);
  *out = &channel->base;
  return zero1__channel_show(&channel->base, error); /* the device is the host: cannot fail */
}

static zero1_status node_offer(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                               zero1__error *error) {
  (void)error;
  zero1__node_offer(buffers_of(channel), bucket, epoch);
  return ZERO1_OK;
}

static zero1_status node_arrive(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                zero1__error *error) {
  return zero1__node_arrive(buffers_of(channel), bucket, epoch, error);
}

static zero1_status node_publish(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                 zero1__error *error) {
  (void)error;
  zero1__node_publish(buffers_of(channel), bucket, epoch);
  return ZERO1_OK;
}

static zero1_status node_all_gather(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                    zero1__error *error) {
  zero1__node_buffers *buffers = buffers_of(channel);
  for (int32_t peer = 0; peer < channel->comm->world_size; ++peer) {
    const zero1_status status = zero1__node_await(buffers, peer, bucket, epoch, error);
    if (status) return status;
    zero1__node_pull(buffers, peer, zero1__layout_shard(channel->config.layout, bucket, peer));
  }
  return zero1__node_settle(buffers, bucket, epoch, error);
}

static zero1_status node_broadcast(zero1__channel *channel, int32_t root, zero1__error *error) {
  return zero1__node_broadcast(buffers_of(channel), root, error);
}

static void node_abort(zero1__channel *channel, const zero1__error *why) {
  zero1__node_abort(buffers_of(channel)->node, why);
}

/* ---- the comm ---- */

static void node_destroy(zero1_comm *comm) {
  zero1__node_comm *self = (zero1__node_comm *)comm;
  if (self->fallback.destroy) self->fallback.destroy(self->fallback.context);
  if (comm->lane) node_lane_close(comm->lane);
  zero1__watch_destroy(self->watch);
  pthread_mutex_destroy(&self->mutex);
  free(comm);
}

#define NODE_OPS(label)                                                                      \
  {                                                                                          \
    .name = label, .destroy = node_destroy, .lane_open = node_lane_open,                     \
    .lane_close = node_lane_close, .lane_all_gather = node_lane_all_gather,                  \
    .lane_abort = node_lane_abort, .lane_look = node_lane_look,                              \
    .device_lane_open = zero1__node_device_lane_open,                                        \
    .device_lane_close = zero1__node_device_lane_close,                                      \
    .device_lane_gather = zero1__node_device_lane_gather, .channel_open = node_channel_open, \
    .channel_close = node_channel_close, .offer = node_offer, .arrive = node_arrive,         \
    .publish = node_publish, .all_gather = node_all_gather, .broadcast = node_broadcast,     \
    .abort = node_abort                                                                      \
  }

static const zero1__comm_ops node_ops = NODE_OPS("node");
static const zero1__comm_ops threads_ops = NODE_OPS("threads");

static zero1__node_comm *comm_alloc(const zero1__comm_ops *ops, int32_t rank, int32_t world_size,
                                    double timeout_seconds) {
  zero1__node_comm *comm = calloc(1, sizeof *comm);
  if (!comm) return NULL;
  comm->base.ops = ops;
  comm->base.rank = rank;
  comm->base.world_size = world_size;
  comm->base.ranks_per_node = world_size;
  comm->base.timeout_seconds = timeout_seconds;
  comm->shape = (zero1__node_shape){ops == &threads_ops, 0, world_size};
  pthread_mutex_init(&comm->mutex, NULL);
  return comm;
}

/* The peers as processes of one machine; collective. */
static zero1_status meet(zero1__lane *lane, zero1__node_comm *comm, zero1__error *error) {
  const int32_t size = comm->shape.size;
  zero1__identity mine;
  zero1__identity *all = calloc((size_t)size, sizeof *all);
  zero1_status status = all ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory");
  zero1__identity_of_this(&mine);
  status = zero1__lane_agree(lane, status, error);
  if (!status) status = zero1__lane_gather(lane, &mine, all, sizeof mine, error);
  for (int32_t i = 0; i < size && !status; ++i)
    if (strcmp(all[i].machine, all[0].machine))
      status = zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                           "ranks 0 and %d are on different machines or in different process "
                           "namespaces: between them, the library needs MPI",
                           i);
  if (!status) {
    status = zero1__watch_create(all, size, comm->base.rank, &comm->watch, error);
    status = zero1__lane_agree(lane, status, error);
  }
  free(all);
  return status;
}

zero1_status zero1__comm_node_create(zero1__lane *lane, const zero1_comm_options *options,
                                     zero1_comm **out, zero1__error *error) {
  *out = NULL;
  zero1__node_comm *comm =
      comm_alloc(&node_ops, lane->comm->rank, lane->comm->world_size, options->timeout_seconds);
  zero1_status status =
      comm ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a communicator");
  status = zero1__lane_agree(lane, status, error);
  if (!status) status = meet(lane, comm, error);
  if (!status)
    status = lane_open_over(&comm->base, lane, options->timeout_seconds, &comm->base.lane, error);
  if (!status) {
    *out = &comm->base;
  } else if (comm) {
    node_destroy(&comm->base);
  }
  return status;
}

zero1_status zero1_comm_create_node(int32_t rank, int32_t world_size, zero1_allgather_fn allgather,
                                    void *context, const zero1_comm_options *options,
                                    zero1_comm **comm) {
  zero1__bootstrap bootstrap;
  zero1__error error;
  zero1_comm_options taken;
  if (comm) *comm = NULL;
  zero1__error_clear(&error);
  zero1_status status =
      zero1__bootstrap_begin(&bootstrap, rank, world_size, allgather, context, &error);
  if (!bootstrap.takes_part) return zero1__create_done(options, status, &error);
  if (!status) status = zero1__comm_options_take(options, &taken, &error);
  if (!status && taken.ranks_per_node && taken.ranks_per_node < world_size)
    status =
        zero1__fail(&error, ZERO1_ERR_UNSUPPORTED,
                    "options.ranks_per_node is %d of %d ranks: the path between nodes needs MPI",
                    taken.ranks_per_node, world_size);
  if (!comm) status = zero1__fail(&error, ZERO1_ERR_INVALID, "comm is NULL");
  status = zero1__lane_agree(&bootstrap.lane, status, &error);
  if (!status) status = zero1__comm_node_create(&bootstrap.lane, &taken, comm, &error);
  zero1__bootstrap_end(&bootstrap);
  return zero1__create_done(options, status, &error);
}

/* ---- ranks as threads ---- */

zero1_status zero1__comm_node_create_threads(int32_t world_size, double timeout_seconds,
                                             zero1_comm **comms, zero1__error *error) {
  zero1__node **nodes = calloc((size_t)world_size, sizeof *nodes);
  zero1_status status =
      nodes ? zero1__node_open_threads(world_size, timeout_seconds, nodes, error)
            : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world_size);
  for (int32_t i = 0; i < world_size && !status; ++i) {
    zero1__node_comm *comm = comm_alloc(&threads_ops, i, world_size, timeout_seconds);
    node_lane *lane = comm ? lane_alloc(&comm->base, timeout_seconds, error) : NULL;
    if (!lane) {
      if (comm) node_destroy(&comm->base);
      status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world_size);
      break;
    }
    lane->node = nodes[i];
    nodes[i] = NULL;
    comm->base.lane = &lane->base;
    comms[i] = &comm->base;
  }
  for (int32_t i = 0; i < world_size && status; ++i) {
    if (nodes) zero1__node_close(nodes[i]);
    zero1_comm_destroy(&comms[i]);
  }
  free(nodes);
  return status;
}
