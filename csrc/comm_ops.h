/* The comm vtable: how contributions and parameters get from rank to rank. A comm does not sum: it
 * delivers contributions, one pointer per rank, and the device reduces them in that order.
 *
 * Three handles, each made of the one before:
 *   comm     the ranks, as the caller introduced them
 *   lane     an ordered sequence of small all-gathers over a comm's ranks: agreement of every kind
 *   channel  one optimizer's use of a comm: its gradient and parameter buffers, and the calls that
 *            move them
 *
 * Backends: self, node (threads too), exchange, hierarchical, nccl: comm_*.c. Where the optimizer's
 * device can reach its peers by itself, channels and lanes enqueue work on it (on_device, device
 * lanes); else their calls are made by a thread of the host. */
#ifndef ZERO1__COMM_OPS_H
#define ZERO1__COMM_OPS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "device_ops.h"
#include "error.h"
#include "jobs.h"
#include "layout.h"
#include "zero1/comm.h"

typedef struct zero1__lane zero1__lane;
typedef struct zero1__device_lane zero1__device_lane;
typedef struct zero1__channel zero1__channel;
typedef struct zero1__comm_ops zero1__comm_ops;

/** Every backend's handle begins with these. */
struct zero1_comm {
  const zero1__comm_ops *ops;
  int32_t rank, world_size;
  int32_t ranks_per_node; /* that share memory with this one, itself included */
  int32_t inline_calls;   /* 1: channels and lanes must be driven from the caller's own thread */
  double timeout_seconds;
  zero1__error error;
  char note[ZERO1__ERROR_TEXT]; /* what zero1_comm_note says */
  zero1__lane *lane;            /* for what the caller's thread agrees on */
};

struct zero1__lane {
  zero1_comm *comm;
  double timeout_seconds;
  zero1__error failure; /* of its first gather that failed: the later ones fail the same way */
  const char *call;     /* what this rank gathers for: ranks that differ in it are told so */
  /* [world_size] of zero1__lane_agree, so that it cannot run out of memory */
  zero1__error *scratch;
  char *messages; /* [1 + world_size] of zero1__lane_gather; NULL: gathers are not labelled */
};

/** All-gathers of one length in memory of a device, in stream order. */
struct zero1__device_lane {
  zero1_comm *comm;
  zero1__device *device;
  zero1__step *step;    /* where a lost peer is noted, in memory of the device */
  size_t bytes;         /* a multiple of 16 */
  void *mine, *all;     /* [bytes] and [world_size * bytes]; memory of the device, owned */
  uint64_t other_bytes; /* of the device, for the comm's own use */
};

/** Sums over this node's ranks that go to one other node (hierarchical only). */
typedef struct zero1__partial {
  zero1__range blocks; /* of the shard that they are for */
  zero1__sources sources;
  float *out;
} zero1__partial;

/** What is exchanged, and then reduced, at once: a part of this rank's shard of one bucket. Where
 *  contributions stay in place it is the whole shard. Made once, when the channel is opened. */
typedef struct zero1__chunk {
  int64_t bucket;
  zero1__range part;      /* blocks, from the begin of any rank's shard of the bucket */
  zero1__range blocks;    /* of this rank's shard */
  int32_t ring;           /* receive buffer that it uses */
  int32_t partial_count;  /* 0 but where communication is hierarchical */
  zero1__sources sources; /* valid between exchange_end and the reuse of the ring */
  zero1__partial *partials;
} zero1__chunk;

/** When the calls for a bucket began and ended in the last step (clock.h); 0: there were none. Of
 * the host's threads; on_device, channel calls take no time of the host's and note none. */
typedef struct zero1__bucket_times {
  int64_t exchange_begin_ns, exchange_end_ns;
  int64_t gather_begin_ns, gather_end_ns;
} zero1__bucket_times;

/** What an optimizer asks a channel for. */
typedef struct zero1__channel_config {
  zero1__device *device;
  zero1__step *step; /* the optimizer's, in memory of the device */
  const zero1__layout *layout;
  zero1__dtype param_dtype; /* ZERO1__DTYPE_FP32_AS_BF16 where the wire is narrower */
  zero1__dtype grad_dtype;  /* the same */
  int32_t int8;             /* 1: gradients travel as zero1__int8_block, of the host alone */
  int32_t round_groups;     /* as in zero1__sources */
  int32_t share_params;
  int32_t reduce_group; /* as in zero1_config */
  int32_t find_culprit; /* as in zero1_config */
  double timeout_seconds;
} zero1__channel_config;

/** Every backend's channel begins with these. */
struct zero1__channel {
  zero1_comm *comm;
  const zero1__comm_ops *ops;
  zero1__channel_config config;
  int32_t in_place;       /* contributions stay where backward wrote them; nothing is copied */
  int32_t on_device;      /* 1: calls of the way of a gradient are made on the caller's thread and
                             enqueue in `stream`; their kernels read the epoch and the verdict in
                             config.step */
  zero1__stream *stream;  /* on_device: of the call that is being made */
  int32_t reduce_group;   /* in effect */
  int32_t params_sharers; /* ranks whose parameters are this one memory, 1: private */
  void *params, *grads;   /* zeroed; owned by the channel; grads: [zero1__offered_bytes] */
  uint64_t params_bytes;  /* this rank's part, as zero1_memory */
  uint64_t grads_bytes;
  uint64_t workspace_bytes;
  int64_t chunk_count;
  zero1__chunk *chunks; /* [chunk_count] bucket by bucket */
  int64_t *chunk_begin; /* [bucket_count + 1] */
  /* [bucket_count] all_gather(b) gathers buckets [b, gather_end[b]), of which b is updated last;
     none: a lower bucket's does. NULL: each gathers its own */
  int64_t *gather_end;
  int32_t ring_count;             /* receive buffers; chunk c uses c % ring_count; 0: in place */
  uint32_t epoch;                 /* of the step: set by the schedule before it enqueues */
  int64_t exchange_ns, gather_ns; /* time in the calls below; read when the streams are idle */
  zero1__bucket_times *times;     /* [bucket_count]; so are they */
  int64_t sent_bytes;             /* by them, as messages; the same */
  pthread_mutex_t mutex;
  /* under mutex: the first failure of a call below; the later ones do nothing */
  zero1__error failure;
  int32_t lost; /* 1: there is a failure; read atomically: every call and every sum asks */
  /* or NULL, under mutex: of the same optimizer, whose peers must learn of a failure */
  zero1__lane *lanes[2];
  zero1__partial *partials; /* of all chunks */
  const void **pointers;    /* contributions of all chunks and partials */
  size_t pointers_bytes;
  const void **visible_pointers; /* a copy in memory of the device; NULL: the device is the host */
};

/** A call of a channel that runs in a stream, or, on_device, on the caller's thread. `index` is a
 * bucket or, where it says so, a chunk. `epoch` is that of the step which it belongs to. */
typedef zero1_status (*zero1__channel_fn)(zero1__channel *channel, int64_t index, uint32_t epoch,
                                          zero1__error *error);

struct zero1__comm_ops {
  const char *name;
  void (*destroy)(zero1_comm *comm);

  /** Collective over the comm, on the caller's thread. All ranks succeed or all fail. */
  zero1_status (*lane_open)(zero1_comm *comm, double timeout_seconds, zero1__lane **lane,
                            zero1__error *error);
  void (*lane_close)(zero1__lane *lane);
  /** Gathers [bytes] from every rank into out [world_size * bytes], in rank order. */
  zero1_status (*lane_all_gather)(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                  zero1__error *error);
  /** Wakes the peers that wait in this lane, or will: they get the status of `why` and a text that
   *  names this rank. Not collective. NULL: the lane's peers cannot be told. */
  void (*lane_abort)(zero1__lane *lane, const zero1__error *why);
  /** Whether some rank of the lane has died or aborted, and why; does not wait. Any thread. NULL:
   *  the lane cannot tell. */
  zero1_status (*lane_look)(zero1__lane *lane, zero1__error *error);

  /** The same in memory of a device, `bytes` a rank; collective. NULL, or *lane NULL with ZERO1_OK:
   *  what the ranks of this comm agree on needs the host. close is collective, too. */
  zero1_status (*device_lane_open)(zero1_comm *comm, zero1__device *device, zero1__step *step,
                                   size_t bytes, double timeout_seconds, zero1__device_lane **lane,
                                   zero1__error *error);
  void (*device_lane_close)(zero1__device_lane *lane);
  /** Enqueues a gather of every rank's `mine` into `all`. */
  zero1_status (*device_lane_gather)(zero1__device_lane *lane, zero1__stream *stream,
                                     zero1__error *error);
  /* For an optimizer whose channel is of another comm, which knows nothing of this lane. Any
   * thread. NULL: the lane needs neither. */
  /** What this rank has found out in the lane, without waiting. */
  zero1_status (*device_lane_look)(zero1__device_lane *lane, zero1__error *error);
  /** The step is lost; gathers, those under way too, end. */
  void (*device_lane_abort)(zero1__device_lane *lane, const zero1__error *why);

  /** Collective, on the caller's thread. All ranks succeed or all fail. */
  zero1_status (*channel_open)(zero1_comm *comm, const zero1__channel_config *config,
                               zero1__channel **channel, zero1__error *error);
  void (*channel_close)(zero1__channel *channel);

  /* The way of a gradient. NULL where the backend has nothing to do. */
  zero1__channel_fn offer;          /* grads_ready: this rank's bucket may be read */
  zero1__channel_fn arrive;         /* waits until the node's ranks have offered the bucket */
  zero1__channel_fn exchange_begin; /* chunk: posts its sends and receives */
  zero1__channel_fn exchange_end;   /* chunk: contributions have arrived, own ones have left */
  zero1__channel_fn publish;    /* updated: this rank's shard of the bucket has its parameters */
  zero1__channel_fn all_gather; /* waits until this rank can read the bucket's parameters */
  /** On the caller's thread, all streams idle: the parameters of rank `root` to everyone. */
  zero1_status (*broadcast)(zero1__channel *channel, int32_t root, zero1__error *error);
  /** Wakes peers that wait, now or later, as lane_abort does. Not collective. */
  void (*abort)(zero1__channel *channel, const zero1__error *why);
};

/* ---- for the users of a comm (comm.c, channel.c) ---- */

/** Runs a call of the vtable in `stream`; nothing where fn is NULL, the channel has failed or *skip
 *  (or NULL) is not 0 when it is its turn. on_device: makes the call, whose kernels see to the skip
 *  themselves. */
void zero1__channel_call(zero1__channel *channel, zero1__stream *stream, zero1__channel_fn fn,
                         int64_t index, const int32_t *skip);

/** all_gather(bucket) gathers buckets [bucket, this). */
static inline int64_t zero1__channel_gather_end(const zero1__channel *channel, int64_t bucket) {
  return channel->gather_end ? channel->gather_end[bucket] : bucket + 1;
}

/** Notes a failure of the channel: the first one stays, and wakes the peers that wait for this rank
 *  in the channel or its lanes. */
void zero1__channel_fail(zero1__channel *channel, const zero1__error *error);

/** The lanes of the same optimizer, or NULL. They are set back before they are closed. */
void zero1__channel_set_lanes(zero1__channel *channel, zero1__lane *lane, zero1__lane *wider);

/** A step begins: no call has taken time yet. The streams are idle, or on_device. */
void zero1__channel_open_step(zero1__channel *channel);

/** The failure, or ZERO1_OK; *error, where given, gets a copy. */
zero1_status zero1__channel_failure(zero1__channel *channel, zero1__error *error);

/** lane_all_gather. A rank that has failed in a lane tells its peers, and is out of step with them:
 *  all that it gathers from then on fails. */
zero1_status zero1__lane_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                zero1__error *error);

/** This rank gives the lane up: its peers get the status of `why`, now and for good. */
void zero1__lane_fail(zero1__lane *lane, const zero1__error *why);

/** Whether every rank came with ZERO1_OK: all return the status of the lowest rank that did not,
 *  with its text. Collective over the lane. */
zero1_status zero1__lane_agree(zero1__lane *lane, zero1_status status, zero1__error *error);

/* ---- for the backends (comm.c, channel.c) ---- */

/** Shared start and end of every lane; `lane` is zeroed. ZERO1_ERR_MEMORY. */
zero1_status zero1__lane_begin(zero1__lane *lane, zero1_comm *comm, double timeout_seconds,
                               zero1__error *error);
void zero1__lane_end(zero1__lane *lane);

/** The same of every device lane, whose comm, device and bytes are set: its memory; one rank's own
 * is everyone's. ZERO1_ERR_MEMORY; ended after a failure too. */
zero1_status zero1__device_lane_begin(zero1__device_lane *lane, zero1__error *error);
void zero1__device_lane_end(zero1__device_lane *lane);
/** All of its memory. */
uint64_t zero1__device_lane_bytes(const zero1__device_lane *lane);

/** Shared start of every channel: copies config, allocates the tables for `chunk_blocks` blocks per
 *  shard and chunk, with room for `sources` contributions a chunk and for `partials` partial sums
 *  of `partial_sources` contributions each, and fills in all but the pointers. `channel` is
 *  zeroed. */
zero1_status zero1__channel_begin(zero1__channel *channel, zero1_comm *comm,
                                  const zero1__channel_config *config, int64_t chunk_blocks,
                                  int32_t sources, int32_t partials, int32_t partial_sources,
                                  zero1__error *error);
void zero1__channel_end(zero1__channel *channel);

/** Where contributions stay in place: rank `rank`'s are in its gradient buffer `grads`; with
 *  channel->reduce_group set. */
void zero1__channel_point(zero1__channel *channel, int32_t rank, const void *grads);

/** After the backend has filled in the contributions: gives kernels of a device other than the host
 *  the table of them. */
zero1_status zero1__channel_show(zero1__channel *channel, zero1__error *error);

/** Whole pages, which is what is really allocated. */
size_t zero1__whole_pages(size_t bytes);
size_t zero1__params_bytes(const zero1__channel_config *config);
size_t zero1__grads_bytes(const zero1__channel_config *config);

/** The same of what a rank has for its peers to sum, in one memory: its gradients, and after them,
 *  where these travel in 8 bits, their codes. */
size_t zero1__offered_bytes(const zero1__channel_config *config);
/** Of that memory, whose begin is `grads`: what is summed of `block` and after, and what that is.
 */
const void *zero1__offered_block(const zero1__channel_config *config, const void *grads,
                                 int64_t block);
zero1__dtype zero1__offered_dtype(const zero1__channel_config *config);
/** Where the codes of this rank's `block` are; int8. */
zero1__int8_block *zero1__channel_codes(const zero1__channel *channel, int64_t block);

/** Options with defaults where `options` is NULL; checks them. The error's text goes to
 *  options->error_text too: every create call ends with zero1__create_done. */
zero1_status zero1__comm_options_take(const zero1_comm_options *options, zero1_comm_options *taken,
                                      zero1__error *error);

/** Whether the ranks have given alike what they must, once each has taken its own. Collective over
 *  the lane. ZERO1_ERR_MISMATCH: names the option. */
zero1_status zero1__comm_options_alike(zero1__lane *lane, const zero1_comm_options *options,
                                       zero1__error *error);
zero1_status zero1__create_done(const zero1_comm_options *options, zero1_status status,
                                const zero1__error *error);

#endif
