/* Whose bytes, where: the tensors in the channel's buffers, and this rank's state beside them. */
#ifndef ZERO1__BUFFERS_H
#define ZERO1__BUFFERS_H

#include "comm_ops.h"

/** One fp32 state of this rank's shards, bucket after bucket: those of the first buckets, which are
 *  offloaded, in memory of the host, the others in memory of the device. */
typedef struct zero1__state {
  float *host, *device; /* or NULL */
} zero1__state;

typedef struct zero1__buffers {
  zero1__channel *channel;
  zero1__device *host; /* borrowed: whose memory offloaded state is; or NULL */
  int64_t offloaded;   /* buckets: the first ones, whose gradients are ready first and whose
                          parameters forward needs last */
  size_t host_bytes, device_bytes; /* of each state below, where it is there */
  zero1__state master_param;       /* device NULL: there, parameters are their own master */
  zero1__state exp_avg, exp_avg_sq;
  float *grad_shard; /* [all buckets] on the device; NULL: this rank's own slice of fp32
                        gradients, or none */
  size_t grad_shard_bytes;
  float *residual; /* [trainable_blocks * ZERO1__BLOCK] what the codes have left of gradients so
                      far, as these lie; NULL: gradients do not travel in 8 bits */
  size_t residual_bytes;
  const void **grad_shards; /* [bucket_count] where each bucket's sums are; NULL entries: nowhere */
  const void **visible_grad_shards; /* the same table where kernels see it */
} zero1__buffers;

/** Bytes that a rank will allocate, before anything is allocated: for memory that several ranks
 *  share its part. `offloaded` is of the host, the rest of the device. */
typedef struct zero1__plan {
  uint64_t device, offloaded;
} zero1__plan;

zero1__plan zero1__buffers_plan(const zero1__channel_config *config, int32_t params_sharers,
                                int32_t grad_shard, int64_t offloaded);

/** Buckets of a layout that config.offload asks for: 0.3 of 4 are 2. */
int64_t zero1__buffers_offloaded(const zero1__layout *layout, double offload);

/** Allocates the state. grad_shard: 1 where sums of 16-bit gradients must be kept. host: the device
 *  whose memory the first `offloaded` buckets' state is in; NULL with none. ZERO1_ERR_MEMORY. Ended
 *  with zero1__buffers_end, after a failure too. */
zero1_status zero1__buffers_begin(zero1__buffers *buffers, zero1__channel *channel,
                                  int32_t grad_shard, zero1__device *host, int64_t offloaded,
                                  zero1__error *error);
void zero1__buffers_end(zero1__buffers *buffers);

/** Whether some masters are not the parameters themselves. */
static inline int zero1__buffers_have_masters(const zero1__buffers *buffers) {
  return buffers->master_param.device || buffers->offloaded;
}

/** Addresses of a bucket's state, and of a block of the parameters. */
float *zero1__buffers_master(const zero1__buffers *buffers, int64_t bucket);
float *zero1__buffers_state(const zero1__buffers *buffers, const zero1__state *state,
                            int64_t bucket);
void *zero1__buffers_param(const zero1__buffers *buffers, int64_t block);
void *zero1__buffers_grad(const zero1__buffers *buffers, int64_t block);

/** Where `block`, one of this rank's, has its state `which`: ZERO1_STATE_MASTER_PARAM, _EXP_AVG or
 *  _EXP_AVG_SQ; and whether that is memory of the host. */
float *zero1__buffers_state_at(const zero1__buffers *buffers, int32_t which, int64_t block,
                               int32_t *on_host);

/** An update with the state of `blocks`, a part of this rank's shard of the bucket; gradients,
 *  parameters and what was agreed on are the caller's to fill in. */
zero1__update_job zero1__buffers_update_job(const zero1__buffers *buffers, int64_t bucket,
                                            zero1__range blocks);

void zero1__buffers_memory(const zero1__buffers *buffers, zero1_memory *memory);

#endif
