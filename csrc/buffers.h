/* Whose bytes, where: the tensors in the channel's buffers, and this rank's state beside them. */
#ifndef ZERO1__BUFFERS_H
#define ZERO1__BUFFERS_H

#include "comm_ops.h"
#include "zero1/zero1.h"

typedef struct zero1__buffers {
  zero1__channel *channel;
  size_t state_bytes;  /* of each array below, where it is allocated */
  float *master_param; /* NULL: parameters are their own master */
  float *exp_avg, *exp_avg_sq;
  float *grad_shard;        /* NULL: this rank's own slice of fp32 gradients, or none */
  const void **grad_shards; /* [bucket_count] where each bucket's sums are; NULL entries: nowhere */
  const void **visible_grad_shards; /* the same table where kernels see it */
} zero1__buffers;

/** Bytes that a rank will allocate, before anything is allocated: for memory that several ranks
 *  share its part. */
uint64_t zero1__buffers_plan(const zero1__channel_config *config, int32_t params_sharers,
                             int32_t grad_shard);

/** Allocates the state. grad_shard: 1 where sums of 16-bit gradients must be kept.
 *  ZERO1_ERR_MEMORY. Ended with zero1__buffers_end, after a failure too. */
zero1_status zero1__buffers_begin(zero1__buffers *buffers, zero1__channel *channel,
                                  int32_t grad_shard, zero1__error *error);
void zero1__buffers_end(zero1__buffers *buffers);

/** Addresses of a bucket's state, and of a block of the parameters. */
float *zero1__buffers_master(const zero1__buffers *buffers, int64_t bucket);
float *zero1__buffers_state(const zero1__buffers *buffers, const float *array, int64_t bucket);
void *zero1__buffers_param(const zero1__buffers *buffers, int64_t block);
void *zero1__buffers_grad(const zero1__buffers *buffers, int64_t block);

void zero1__buffers_memory(const zero1__buffers *buffers, zero1_memory *memory);

#endif
