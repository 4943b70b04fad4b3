/* The gradient and parameter buffers of a node's ranks, each mapped into all of them, with the
 * flags of the way of a gradient: grads_ready and updated, one of each per bucket, and copied.
 * Shared by the comms that have a node in them: node and hierarchical. */
#ifndef ZERO1__NODE_BUFFERS_H
#define ZERO1__NODE_BUFFERS_H

#include "comm_ops.h"
#include "node.h"

typedef struct zero1__node_buffers {
  zero1__channel_config config;
  zero1__node *node;
  zero1__mapping *grads;  /* [size] */
  zero1__mapping *params; /* [size] shared: all ranks use [0] */
} zero1__node_buffers;

/** Collective over the lane: all ranks succeed or all fail. Closed with zero1__node_buffers_close,
 *  after a failure too. `buffers` is zeroed. */
zero1_status zero1__node_buffers_open(zero1__lane *lane, const zero1__node_shape *shape,
                                      const zero1__watch *watch,
                                      const zero1__channel_config *config,
                                      zero1__node_buffers *buffers, zero1__error *error);
void zero1__node_buffers_close(zero1__node_buffers *buffers);

/** Fills in what a channel says of its buffers. */
void zero1__node_buffers_describe(const zero1__node_buffers *buffers, zero1__channel *channel);

/** grads_ready: posted by this rank; waited for from every peer of the node. */
void zero1__node_offer(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch);
zero1_status zero1__node_arrive(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch,
                                zero1__error *error);

/** updated: as above. Waits for one peer. */
void zero1__node_publish(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch);
zero1_status zero1__node_await(zero1__node_buffers *buffers, int32_t peer, int64_t bucket,
                               uint32_t epoch, zero1__error *error);

/** Copies blocks of the parameters from a peer's copy; nothing where they are one memory. */
void zero1__node_pull(zero1__node_buffers *buffers, int32_t peer, zero1__range blocks);

/** copied: the end of a bucket's gather. After bucket 0, which is gathered last, waits until every
 *  peer has copied what it needs from this rank: then the caller may write its own parameters. */
zero1_status zero1__node_settle(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch,
                                zero1__error *error);

/** The parameters of the node's rank `root` to the others; all of them call it. */
zero1_status zero1__node_broadcast(zero1__node_buffers *buffers, int32_t root, zero1__error *error);

#endif
