/* Comms over a wire, for ranks on several nodes: exchange (every rank with every rank) and
 * hierarchical (sums inside the node first). This header is what the two share. */
#ifndef ZERO1__WIRE_COMM_H
#define ZERO1__WIRE_COMM_H

#include "bundle.h"
#include "comm_ops.h"
#include "node.h"
#include "wire.h"

typedef struct zero1__wire_comm {
  zero1_comm base;
  zero1__wire *wire;        /* owned */
  zero1__watch *watch;      /* owned; of the world: the ranks on this machine; or NULL */
  zero1__node_shape shape;  /* size 1: no hierarchy */
  zero1__watch *node_watch; /* owned; of the node; or NULL */
  int64_t workspace_bytes;
} zero1__wire_comm;

/** How a wire comm is made; all is owned by the comm, after a failure too. Not collective. */
typedef struct zero1__wire_comm_parts {
  zero1__wire *wire;
  zero1__watch *watch, *node_watch;
  zero1__node_shape shape;
  int32_t inline_calls;
} zero1__wire_comm_parts;

zero1_status zero1__wire_comm_create(const zero1__wire_comm_parts *parts,
                                     const zero1_comm_options *options, zero1_comm **comm,
                                     zero1__error *error);

/* Entries of both vtables (wire_comm.c). */
void zero1__wire_comm_destroy(zero1_comm *comm);
zero1_status zero1__wire_lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **lane,
                                   zero1__error *error);
void zero1__wire_lane_close(zero1__lane *lane);
zero1_status zero1__wire_lane_all_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                         zero1__error *error);
void zero1__wire_lane_abort(zero1__lane *lane, const zero1__error *why);

extern const zero1__comm_ops zero1__exchange_ops;
extern const zero1__comm_ops zero1__hierarchical_ops;

/** Chunks in flight: enough to keep a link busy while one is being reduced, each short enough to be
 *  reduced out of the caches. Measured at 10 Gbit/s on 2 cores: exchange 75 to 100 ms with 4 of 2
 *  MiB from each peer, 33 to 50 ms with 8 of 256 KiB. */
#define ZERO1__RING_COUNT 8
#define ZERO1__PIECE_BYTES ((int64_t)256 << 10)

/** To so many ranks at most one rank passes a broadcast on: 2^32 ranks. */
#define ZERO1__CHILDREN 32
#define ZERO1__TAKEN_BYTES (ZERO1__CHILDREN + 1)

/** The part of a channel that sends and receives. The receive buffers are memory that the device
 *  reads: its own where the carrier reaches that, else pinned. */
typedef struct zero1__wire_channel {
  zero1__channel base;
  zero1__port port;
  atomic_int stop;        /* port.stop */
  zero1__bundle *bundles; /* [base.ring_count] */
  char *ring;             /* receive buffers */
  char *taken; /* [ZERO1__TAKEN_BYTES] of a broadcast: a byte from each child that has its
                             piece, and this rank's own to its parent */
  size_t ring_bytes;
  int32_t direct;    /* 1: the carrier reaches memory of the device */
  int32_t abandoned; /* the carrier may still touch memory that it reaches: it is never freed */
} zero1__wire_channel;

/** The next port. Every rank calls it in the same order, before anything that can fail on one rank
 *  alone. */
zero1__port zero1__wire_port(zero1_comm *comm, double timeout_seconds);

/** Bundles of `capacity` messages, `slot_bytes` of receive buffer each; after zero1__channel_begin
 *  and with `port` set. Not collective. */
zero1_status zero1__wire_channel_open(zero1__wire_channel *channel, int32_t capacity,
                                      size_t slot_bytes, size_t staging_bytes, zero1__error *error);
void zero1__wire_channel_close(zero1__wire_channel *channel);

/** After it: whether the carrier may still touch parameters and gradients. */
static inline int zero1__wire_keeps_buffers(const zero1__wire_channel *channel) {
  return channel->abandoned && channel->direct;
}

/** Receive buffer of a chunk. */
char *zero1__wire_slot(const zero1__wire_channel *channel, int32_t ring);

/** Ranks first, first + stride, ...: [count] of them, this one among them. */
typedef struct zero1__peers {
  int32_t first, stride, count;
} zero1__peers;

/** Sends this rank's new parameters of a bucket to the peers, and receives theirs. */
zero1_status zero1__wire_gather(zero1__wire_channel *channel, int64_t bucket, zero1__peers peers,
                                zero1__error *error);

/** The parameters of the root-th of the peers to all of them, along a binomial tree. */
zero1_status zero1__wire_broadcast(zero1__wire_channel *channel, zero1__peers peers, int32_t root,
                                   zero1__error *error);

/** Blocks per shard and chunk: ZERO1__PIECE_BYTES of them, `block_bytes` each, or what is less so
 *  that ZERO1__RING_COUNT chunks of `shards` shards fit the workspace. */
int64_t zero1__wire_chunk_blocks(const zero1__wire_comm *comm, const zero1__layout *layout,
                                 int32_t shards, size_t block_bytes);

#endif
