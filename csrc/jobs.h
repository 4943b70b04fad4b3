/* What a kernel is asked to do: one description for every device.
 *
 * Pointers are to the first element of `blocks`' first block: element e of block b of the job is at
 * index (b - blocks.begin) * ZERO1__BLOCK + e of every array. Elements of padding are neither read
 * nor written. Everything that a job points to stays valid until the job is done. */
#ifndef ZERO1__JOBS_H
#define ZERO1__JOBS_H

#include <stdint.h>

#include "dtype.h"
#include "exact_sum.h"
#include "layout.h"
#include "rules.h"

/** What a pass over gradients finds out. Merged by addition and minimum: no order. */
typedef struct zero1__stats {
  zero1__exact_sum squares; /* of the summed gradients, before grad_scale, of parameters in the
                               norm; a block that holds a non-finite element is left out */
  int64_t nonfinite_numel;  /* elements of the sums that are not finite */
  uint64_t culprit;         /* lowest zero1__culprit_key; ZERO1__CULPRIT_NONE: none */
} zero1__stats;

/** Key of a culprit: the lowest parameter counts, then the lowest rank. */
#define ZERO1__CULPRIT_NONE UINT64_MAX
#define ZERO1__CULPRIT_OVERFLOW \
  0xffffffu /* in place of a rank: the sum of finite values overflowed */
ZERO1__INLINE uint64_t zero1__culprit_key(int64_t param, uint32_t rank) {
  return (uint64_t)param << 24 | rank;
}
ZERO1__INLINE int64_t zero1__culprit_param(uint64_t key) {
  return (int64_t)(key >> 24);
}
ZERO1__INLINE uint32_t zero1__culprit_rank(uint64_t key) {
  return (uint32_t)(key & 0xffffffu);
}

ZERO1__INLINE void zero1__stats_clear(zero1__stats *stats) {
  zero1__exact_sum_clear(&stats->squares);
  stats->nonfinite_numel = 0;
  stats->culprit = ZERO1__CULPRIT_NONE;
}

ZERO1__INLINE void zero1__stats_merge(zero1__stats *into, const zero1__stats *from) {
  zero1__exact_sum_merge(&into->squares, &from->squares);
  into->nonfinite_numel += from->nonfinite_numel;
  if (from->culprit < into->culprit) into->culprit = from->culprit;
}

/** A block of gradients in 8 bits (rules.h); what there is beyond a short block's end is 0. */
typedef struct zero1__int8_block {
  int8_t code[ZERO1__BLOCK];
  float scale;
  uint32_t unused[3]; /* blocks stay 16 bytes aligned */
} zero1__int8_block;

/** Bytes of a block of contributions. */
static inline size_t zero1__source_block_bytes(zero1__dtype dtype) {
  return dtype == ZERO1__DTYPE_INT8_BLOCKS ? sizeof(zero1__int8_block)
                                           : ZERO1__BLOCK * zero1__dtype_bytes(dtype);
}

/** Where the gradients for a run of blocks of one shard come from. */
typedef struct zero1__sources {
  const void *const *contributions; /* [count] in rank order; the table is memory of the host */
  const void *const *visible;       /* the same table where kernels of another device see it */
  int32_t count;
  int32_t group;      /* sum inside groups of so many, then across: ((c0 + c1) + (c2 + c3)) for 2;
                         count % group == 0 */
  int32_t rank_begin; /* contribution k is of rank rank_begin + k; -1: they are partial sums, whose
                         non-finite values have been attributed already */
  zero1__dtype dtype;
  int32_t round_groups; /* 1: a group's sum is rounded to bf16 before it is summed across groups */
} zero1__sources;

/** Sums contributions, in fp32, in their order, into `out`. */
typedef struct zero1__reduce_job {
  const zero1__layout *layout;
  zero1__range blocks;
  zero1__sources sources;
  float *out;          /* or NULL: only `stats` are wanted; may be contributions[k] at fp32 */
  zero1__stats *stats; /* adds to it */
  int32_t partial;     /* 1: the sums are partial: only culprits are noted in stats */
  const int32_t *lost; /* or NULL: not 0 by the job's turn: its contributions never came, and
                          nothing is summed. Read atomically. */
} zero1__reduce_job;

/** What the ranks agreed on; read by kernels when they run, not when they are enqueued. */
typedef struct zero1__verdict {
  int32_t skip;      /* 1: update does nothing */
  float grad_factor; /* grad_scale * clip_coef, multiplied in double, rounded once */
} zero1__verdict;

/** AdamW on a run of blocks of one shard: sums the sources (one source: takes it as it is),
 *  multiplies by grad_factor, updates master_param, exp_avg and exp_avg_sq, writes param. */
typedef struct zero1__update_job {
  const zero1__layout *layout;
  zero1__range blocks;
  zero1__sources sources;
  const zero1__verdict *verdict;
  const zero1__adam_scalars *groups; /* [group_count] */
  const uint8_t *absent;             /* [slot_count] 1: leave the parameter alone; NULL: none */
  float *master_param;               /* is param at fp32 */
  float *exp_avg, *exp_avg_sq;
  void *param;
  zero1__dtype param_dtype;
  zero1__stats *stats; /* or NULL; adds to it (squares of the sums, before grad_factor) */
} zero1__update_job;

/** master_param from param. */
typedef struct zero1__master_job {
  const zero1__layout *layout;
  zero1__range blocks;
  const void *param;
  zero1__dtype param_dtype;
  float *master_param;
  int32_t keep; /* 1: a master that still rounds to its param keeps its lower bits */
} zero1__master_job;

/** Rounds fp32 parameters to bf16 values, where they are. */
typedef struct zero1__round_job {
  const zero1__layout *layout;
  zero1__range blocks;
  float *param;
} zero1__round_job;

/** Between gradients and what travels of them in 8 bits. encode: codes from grad + residual.
 * settle, unless the step is skipped: the residual that the codes leave, grad + residual - what
 * they stand for; before it, grad and residual are what encode found. A parameter without a
 * gradient has codes of 0, and its residual stays. */
typedef struct zero1__int8_job {
  const zero1__layout *layout;
  zero1__range blocks;
  const void *grad;
  zero1__dtype grad_dtype;
  uint8_t absent;       /* the mark of a parameter without a gradient on this rank */
  const uint8_t *marks; /* [param_count] */
  float *residual;
  zero1__int8_block *codes;
  const zero1__verdict *verdict; /* settle */
} zero1__int8_job;

/** Adds a hash of the elements' bits to *hash, a wrapping sum over elements of mix(index in the
 *  parameter buffer, bits): no order. Serves frozen parameters too. */
typedef struct zero1__hash_job {
  const void *data; /* the whole parameter buffer */
  zero1__dtype dtype;
  zero1__range elements; /* of the buffer, all of them true elements, no padding */
  uint64_t *hash;
} zero1__hash_job;

#endif
