/* What is done to the gradients of one block: their sum, its squares, what is not finite. Part of
 * kernels_host.c, built once per instruction set with it. */
#ifndef ZERO1__KERNELS_BLOCK_H
#define ZERO1__KERNELS_BLOCK_H

#include <string.h>

#include "jobs.h"
#include "rules.h"

/* Arrays may be the same one, element for element, but no iteration touches another's element. */
#if defined(__clang__)
  #define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
  #define INDEPENDENT _Pragma("GCC ivdep")
#else
  #define INDEPENDENT
#endif

/* Inlined by force: so that whole blocks have loops of a constant length, and because GCC drops
 * calls to functions that only prefetch. */
#define INLINE __attribute__((always_inline)) static inline

/* Sums of one block. Blocks of the arrays start at multiples of 1024 bytes, and these 512 past one:
 * a load waits for an earlier store whose address has the same last 12 bits, and with both at the
 * same place in their pages reduce ran at 0.7 of a plain loop's speed instead of 1.0. */
typedef struct staging {
  _Alignas(4096) char apart[512];
  float sum[ZERO1__BLOCK];
  float group[ZERO1__BLOCK];
} staging;

/* ---- gradients of one block: elements [at, at + numel) of every contribution ---- */

/* A contribution as fp32: where it is, or converted into `buffer`. */
INLINE const float *as_fp32(const void *contribution, zero1__dtype dtype, int64_t at, int64_t numel,
                            float *buffer) {
  if (dtype == ZERO1_DTYPE_FP32) return (const float *)contribution + at;
  const uint16_t *restrict source = (const uint16_t *)contribution + at;
  float *restrict target = buffer;
  for (int64_t e = 0; e < numel; ++e) target[e] = zero1__bf16_to_fp32(source[e]);
  return buffer;
}

/* sum = left + right; sum may be left. */
INLINE void add(float *sum, const float *left, const void *contribution, zero1__dtype dtype,
                int64_t at, int64_t numel) {
  if (dtype == ZERO1_DTYPE_FP32) {
    const float *right = (const float *)contribution + at;
    INDEPENDENT
    for (int64_t e = 0; e < numel; ++e) sum[e] = left[e] + right[e];
  } else {
    const uint16_t *right = (const uint16_t *)contribution + at;
    INDEPENDENT
    for (int64_t e = 0; e < numel; ++e) sum[e] = left[e] + zero1__bf16_to_fp32(right[e]);
  }
}

/* sum = left + right, of two bf16 contributions. */
INLINE void add_bf16(float *sum, const void *left_contribution, const void *right_contribution,
                     int64_t at, int64_t numel) {
  const uint16_t *left = (const uint16_t *)left_contribution + at;
  const uint16_t *right = (const uint16_t *)right_contribution + at;
  INDEPENDENT
  for (int64_t e = 0; e < numel; ++e)
    sum[e] = zero1__bf16_to_fp32(left[e]) + zero1__bf16_to_fp32(right[e]);
}

/* Contributions first, first + 1, ... of one group; the last addition goes to `target`. */
static __attribute__((noinline)) const float *sum_group(const zero1__sources *sources,
                                                        int32_t first, int64_t at, int64_t numel,
                                                        float *buffer, float *target) {
  const void *const *from = sources->contributions + first;
  const int32_t count = sources->group;
  float *to = count == 2 ? target : buffer;
  const float *sum = to;
  int32_t k = 2;
  if (sources->dtype == ZERO1_DTYPE_BF16 && count > 1) {
    add_bf16(to, from[0], from[1], at, numel);
  } else {
    sum = as_fp32(from[0], sources->dtype, at, numel, buffer);
    k = 1;
  }
  for (; k < count; ++k, sum = to) {
    to = k == count - 1 ? target : buffer;
    add(to, sum, from[k], sources->dtype, at, numel);
  }
  return sum;
}

/* The sum of all contributions: in target, or the only one where it is.
 * (Called, not inlined: reduce was faster by a tenth so.) */
static __attribute__((noinline)) const float *sum_block(const zero1__sources *sources, int64_t at,
                                                        int64_t numel, staging *stage,
                                                        float *target) {
  const int32_t count = sources->count, each = sources->group;
  if (count == each) return sum_group(sources, 0, at, numel, stage->sum, target);
  const float *sum = sum_group(sources, 0, at, numel, stage->sum, stage->sum);
  for (int32_t k = each; k < count; k += each) {
    const float *group = sum_group(sources, k, at, numel, stage->group, stage->group);
    float *to = k + each == count ? target : stage->sum;
    add(to, sum, group, ZERO1_DTYPE_FP32, 0, numel);
    sum = to;
  }
  return sum;
}

/* ---- what a pass finds out ---- */

/* Folds 32 squares: the order that rules.h defines. */
INLINE double fold32(double *lane) {
  for (int e = 0; e < 16; ++e) lane[e] += lane[e + 16];
  for (int e = 0; e < 8; ++e) lane[e] += lane[e + 8];
  for (int e = 0; e < 4; ++e) lane[e] += lane[e + 4];
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* Folds 128, 64 and 32 apart in one loop, then the rest. */
INLINE double squares_of_256(const float *value) {
  double lane[32];
  for (int e = 0; e < 32; ++e) {
    double q[8];
    for (int k = 0; k < 8; ++k) q[k] = zero1__square(value[e + 32 * k]);
    lane[e] = ((q[0] + q[4]) + (q[2] + q[6])) + ((q[1] + q[5]) + (q[3] + q[7]));
  }
  return fold32(lane);
}

/* What lies beyond 64 is +0: folding it in changes nothing. */
INLINE double squares_of_64(const float *value) {
  double lane[32];
  for (int e = 0; e < 32; ++e) lane[e] = zero1__square(value[e]) + zero1__square(value[e + 32]);
  return fold32(lane);
}

INLINE double squares_of(const float *value, int64_t numel) {
  if (numel == 256) return squares_of_256(value);
  if (numel == 64) return squares_of_64(value);
  float padded[ZERO1__BLOCK] = {0};
  memcpy(padded, value, (size_t)numel * sizeof *value);
  return numel < 64 ? squares_of_64(padded) : squares_of_256(padded);
}

/* Key of the lowest rank that made element `at` of the sum not finite. */
static uint64_t culprit_of(const zero1__sources *sources, int64_t param, int64_t at) {
  for (int32_t k = 0; k < sources->count; ++k) {
    float buffer;
    const float *value = as_fp32(sources->contributions[k], sources->dtype, at, 1, &buffer);
    if (zero1__is_finite(*value)) continue;
    if (sources->rank_begin < 0) return ZERO1__CULPRIT_NONE;
    return zero1__culprit_key(param, (uint32_t)(sources->rank_begin + k));
  }
  return zero1__culprit_key(param, ZERO1__CULPRIT_OVERFLOW);
}

/* The rare path: some element of the sum is not finite. */
__attribute__((noinline, cold)) static void note_nonfinite(const zero1__sources *sources,
                                                           int64_t param, int64_t at,
                                                           const float *sum, int64_t numel,
                                                           zero1__stats *stats) {
  for (int64_t e = 0; e < numel; ++e) {
    if (zero1__is_finite(sum[e])) continue;
    ++stats->nonfinite_numel;
    const uint64_t culprit = culprit_of(sources, param, at + e);
    if (culprit < stats->culprit) stats->culprit = culprit;
  }
}

/* Returns whether all of the block is finite: then, and only then, its squares' sum is. A finite
 * block of fp32 values cannot overflow fp64. */
INLINE int note_block(const zero1__sources *sources, const zero1__slot *slot, int64_t at,
                      const float *sum, int64_t numel, zero1__stats *stats) {
  const double squares = squares_of(sum, numel);
  if (squares - squares == 0.0) {
    if (!(slot->flags & ZERO1_PARAM_NOT_IN_NORM)) zero1__exact_sum_add(&stats->squares, squares);
    return 1;
  }
  note_nonfinite(sources, slot->param, at, sum, numel, stats);
  return 0;
}

/* ---- where a sum goes ---- */

INLINE void store_sum(float *out, const float *sum, int64_t numel, int finite) {
  if (finite && out == sum) return;
  INDEPENDENT
  for (int64_t e = 0; e < numel; ++e) out[e] = zero1__one_nan(sum[e]);
}

#endif
