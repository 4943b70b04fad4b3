/* Compiled once per instruction set, with ZERO1__ISA its name.
 *
 * A block's gradients x are folded by exclusive or and then masked with 0: so what is rewritten
 * keeps its value, yet no read can be left out. A block of 16-bit gradients is 128 words of 32
 * bits; word j goes to elements j and j + 128. */
#include "bench_loops.h"

#include "layout.h"

#if defined(__clang__)
  #define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
  #define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define INLINE static inline __attribute__((always_inline))
#define FUSED_MAX 4

INLINE uint32_t fold(const uint32_t *const *grads, int64_t at, int count) {
  uint32_t x = grads[0][at];
  if (count > 1) x ^= grads[1][at];
  if (count > 2) x ^= grads[2][at];
  if (count > 3) x ^= grads[3][at];
  return x;
}

/* One block; everything but the arrays and `at`, its first element, is known when it is compiled.
 * is_new: sum is written, not rewritten. */
INLINE uint32_t reduce_block(const uint32_t *const *grads, int count, int words, int64_t at,
                             uint32_t *sum, int is_new, uint32_t zero) {
  uint32_t seen = 0;
  const int64_t from = at / ZERO1__BLOCK * words;
  if (!sum) {
    INDEPENDENT
    for (int j = 0; j < words; ++j) seen |= fold(grads, from + j, count);
    return seen & zero;
  }
  INDEPENDENT
  for (int j = 0; j < words; ++j) {
    const uint32_t x = fold(grads, from + j, count) & zero;
    sum[at + j] = is_new ? x : sum[at + j] ^ x;
    if (words < ZERO1__BLOCK) sum[at + j + words] = is_new ? x : sum[at + j + words] ^ x;
  }
  return 0;
}

INLINE void update_block(const uint32_t *const *grads, int count, int words, int64_t at,
                         const bench_streams *streams, int has_param, uint32_t zero) {
  const int64_t from = at / ZERO1__BLOCK * words;
  uint32_t *master_param = streams->master_param + at;
  uint32_t *exp_avg = streams->exp_avg + at, *exp_avg_sq = streams->exp_avg_sq + at;
  uint16_t *param = has_param ? streams->param + at : 0;
  INDEPENDENT
  for (int j = 0; j < words; ++j) {
    const uint32_t x = fold(grads, from + j, count) & zero;
    master_param[j] ^= x;
    exp_avg[j] ^= x;
    exp_avg_sq[j] ^= x;
    if (has_param) param[j] = (uint16_t)(master_param[j] >> 16);
    if (words == ZERO1__BLOCK) continue;
    master_param[j + words] ^= x;
    exp_avg[j + words] ^= x;
    exp_avg_sq[j + words] ^= x;
    if (has_param) param[j + words] = (uint16_t)(master_param[j + words] >> 16);
  }
}

/* Gradients of one block into `stage`, as a block of 32-bit elements that starts at 0. */
INLINE void stage_block(const bench_streams *streams, int words, int64_t at, uint32_t *stage) {
  const int64_t from = at / ZERO1__BLOCK * words;
  const uint32_t *first = (const uint32_t *)streams->grads[0] + from;
  for (int j = 0; j < words; ++j) stage[j] = first[j];
  for (int32_t k = 1; k < streams->grad_count; ++k) {
    const uint32_t *next = (const uint32_t *)streams->grads[k] + from;
    for (int j = 0; j < words; ++j) stage[j] ^= next[j];
  }
  for (int j = words; j < ZERO1__BLOCK; ++j) stage[j] = stage[j - words];
}

/* ---- runs of blocks ---- */

INLINE uint32_t reduce_run(const bench_streams *streams, int64_t blocks, uint32_t zero, int count,
                           int words, int has_sum, int is_new) {
  const uint32_t *grads[FUSED_MAX] = {0};
  uint32_t seen = 0;
  for (int k = 0; k < count; ++k) grads[k] = streams->grads[k];
  for (int64_t b = 0; b < blocks; ++b)
    seen |= reduce_block(grads, count, words, b * ZERO1__BLOCK, has_sum ? streams->sum : 0, is_new,
                         zero);
  return seen;
}

INLINE uint32_t reduce_staged(const bench_streams *streams, int64_t blocks, uint32_t zero,
                              int words, int has_sum, int is_new) {
  _Alignas(64) uint32_t stage[ZERO1__BLOCK];
  uint32_t seen = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const uint32_t *const grads[FUSED_MAX] = {stage};
    const int64_t at = b * ZERO1__BLOCK;
    stage_block(streams, words, at, stage);
    seen |= reduce_block(grads, 1, ZERO1__BLOCK, 0, has_sum ? streams->sum + at : 0, is_new, zero);
  }
  return seen;
}

INLINE uint32_t update_run(const bench_streams *streams, int64_t blocks, uint32_t zero, int count,
                           int words, int has_param) {
  const uint32_t *grads[FUSED_MAX] = {0};
  for (int k = 0; k < count; ++k) grads[k] = streams->grads[k];
  for (int64_t b = 0; b < blocks; ++b)
    update_block(grads, count, words, b * ZERO1__BLOCK, streams, has_param, zero);
  return 0;
}

INLINE uint32_t update_staged(const bench_streams *streams, int64_t blocks, uint32_t zero,
                              int words, int has_param) {
  _Alignas(64) uint32_t stage[ZERO1__BLOCK];
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = b * ZERO1__BLOCK;
    const bench_streams here = {.master_param = streams->master_param + at,
                                .exp_avg = streams->exp_avg + at,
                                .exp_avg_sq = streams->exp_avg_sq + at,
                                .param = has_param ? streams->param + at : 0};
    const uint32_t *const grads[FUSED_MAX] = {stage};
    stage_block(streams, words, at, stage);
    update_block(grads, 1, ZERO1__BLOCK, 0, &here, has_param, zero);
  }
  return 0;
}

/* ---- one loop for each number of gradients ---- */

#define BY_COUNT(run, staged_run, ...)                       \
  switch (staged ? 0 : streams->grad_count) {                \
    case 1:                                                  \
      return run(streams, blocks, zero, 1, __VA_ARGS__);     \
    case 2:                                                  \
      return run(streams, blocks, zero, 2, __VA_ARGS__);     \
    case 3:                                                  \
      return run(streams, blocks, zero, 3, __VA_ARGS__);     \
    case 4:                                                  \
      return run(streams, blocks, zero, 4, __VA_ARGS__);     \
    default:                                                 \
      return staged_run(streams, blocks, zero, __VA_ARGS__); \
  }

static uint32_t reduce(const bench_streams *streams, int64_t blocks, uint32_t zero, int staged) {
  const int whole = streams->grad_bytes == 4;
  int is_new = 1;
  for (int32_t k = 0; k < streams->grad_count; ++k) is_new &= streams->grads[k] != streams->sum;
  if (whole && !streams->sum) BY_COUNT(reduce_run, reduce_staged, ZERO1__BLOCK, 0, 0)
  if (whole && is_new) BY_COUNT(reduce_run, reduce_staged, ZERO1__BLOCK, 1, 1)
  if (whole) BY_COUNT(reduce_run, reduce_staged, ZERO1__BLOCK, 1, 0)
  if (!streams->sum) BY_COUNT(reduce_run, reduce_staged, ZERO1__BLOCK / 2, 0, 0)
  BY_COUNT(reduce_run, reduce_staged, ZERO1__BLOCK / 2, 1, 1)
}

static uint32_t update(const bench_streams *streams, int64_t blocks, uint32_t zero, int staged) {
  const int whole = streams->grad_bytes == 4;
  if (whole && !streams->param) BY_COUNT(update_run, update_staged, ZERO1__BLOCK, 0)
  if (whole) BY_COUNT(update_run, update_staged, ZERO1__BLOCK, 1)
  if (!streams->param) BY_COUNT(update_run, update_staged, ZERO1__BLOCK / 2, 0)
  BY_COUNT(update_run, update_staged, ZERO1__BLOCK / 2, 1)
}

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)

extern const bench_loops JOIN(bench_loops_, ZERO1__ISA);
const bench_loops JOIN(bench_loops_, ZERO1__ISA) = {TEXT(ZERO1__ISA), reduce, update};
