/* Plain loops for the vectoriser: compiled once per instruction set, with ZERO1__ISA its name.
 *
 * A kernel takes block by block. Gradients are summed into a block that stays in the first-level
 * cache (one fp32 source is read where it is); the other arrays are read and written in place. */
#include "kernels_host.h"

#include <string.h>

#include "block_walk.h"
#include "rules.h"

#if defined(__x86_64__)
  #include <immintrin.h>
#else
  #include <fenv.h>
#endif

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

/* ---- the floating-point mode of the thread ---- */

#if defined(__x86_64__)
typedef unsigned float_mode;
static float_mode float_mode_enter(void) {
  const float_mode before = _mm_getcsr();
  _mm_setcsr(0x1f80); /* to nearest, subnormals kept, no exception traps */
  return before;
}
static void float_mode_leave(float_mode before) {
  _mm_setcsr(before);
}
#else
typedef fenv_t float_mode;
static float_mode float_mode_enter(void) {
  float_mode before;
  fegetenv(&before);
  fesetenv(FE_DFL_ENV);
  return before;
}
static void float_mode_leave(float_mode before) {
  fesetenv(&before);
}
#endif

/* ---- gradients of one block: elements [at, at + numel) of every contribution ---- */

/* Elements of one block. */
INLINE const zero1__int8_block *int8_block(const void *contribution, int64_t at) {
  return (const zero1__int8_block *)contribution + at / ZERO1__BLOCK;
}

/* A contribution as fp32: where it is, or converted into `buffer`. */
INLINE const float *as_fp32(const void *contribution, zero1__dtype dtype, int64_t at, int64_t numel,
                            float *buffer) {
  float *restrict target = buffer;
  if (dtype == ZERO1_DTYPE_FP32) return (const float *)contribution + at;
  if (dtype == ZERO1_DTYPE_BF16) {
    const uint16_t *restrict source = (const uint16_t *)contribution + at;
    for (int64_t e = 0; e < numel; ++e) target[e] = zero1__bf16_to_fp32(source[e]);
  } else if (dtype == ZERO1__DTYPE_INT8_BLOCKS) {
    const zero1__int8_block *block = int8_block(contribution, at);
    const int8_t *restrict code = block->code + at % ZERO1__BLOCK;
    const float scale = block->scale;
    for (int64_t e = 0; e < numel; ++e) target[e] = zero1__int8_value(code[e], scale);
  } else {
    const float *restrict source = (const float *)contribution + at;
    for (int64_t e = 0; e < numel; ++e) target[e] = zero1__round_to_bf16(source[e]);
  }
  return buffer;
}

/* sum = left + right; sum may be left. */
INLINE void add(float *sum, const float *left, const void *contribution, zero1__dtype dtype,
                int64_t at, int64_t numel) {
  if (dtype == ZERO1_DTYPE_FP32) {
    const float *right = (const float *)contribution + at;
    INDEPENDENT
    for (int64_t e = 0; e < numel; ++e) sum[e] = left[e] + right[e];
  } else if (dtype == ZERO1__DTYPE_FP32_AS_BF16) {
    const float *right = (const float *)contribution + at;
    INDEPENDENT
    for (int64_t e = 0; e < numel; ++e) sum[e] = left[e] + zero1__round_to_bf16(right[e]);
  } else if (dtype == ZERO1__DTYPE_INT8_BLOCKS) {
    const zero1__int8_block *right = int8_block(contribution, at);
    const float scale = right->scale;
    INDEPENDENT
    for (int64_t e = 0; e < numel; ++e) sum[e] = left[e] + zero1__int8_value(right->code[e], scale);
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

/* The sum of one of several groups, as it goes into the sum across groups. */
INLINE const float *sum_one_group(const zero1__sources *sources, int32_t first, int64_t at,
                                  int64_t numel, float *buffer) {
  const float *sum = sum_group(sources, first, at, numel, buffer, buffer);
  if (!sources->round_groups) return sum;
  INDEPENDENT
  for (int64_t e = 0; e < numel; ++e) buffer[e] = zero1__round_to_bf16(sum[e]);
  return buffer;
}

/* The sum of all contributions: in target, or the only one where it is.
 * (Called, not inlined: reduce was faster by a tenth so.) */
static __attribute__((noinline)) const float *sum_block(const zero1__sources *sources, int64_t at,
                                                        int64_t numel, staging *stage,
                                                        float *target) {
  const int32_t count = sources->count, each = sources->group;
  if (count == each) return sum_group(sources, 0, at, numel, stage->sum, target);
  const float *sum = sum_one_group(sources, 0, at, numel, stage->sum);
  for (int32_t k = each; k < count; k += each) {
    const float *group = sum_one_group(sources, k, at, numel, stage->group);
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

/* ---- fetching what comes soon: block_walk.h says why ---- */

/* Asks for a block of an array, into the first-level cache. Lines 0, 4, 8 ..., then 1, 5, 9 ...:
 * one after the other they would lead the hardware's prefetchers on into the hole that may follow.
 */
INLINE void fetch(const void *array, size_t element_bytes, const zero1__block *block) {
  const char *line = (const char *)array + (size_t)block->at * element_bytes;
  const char *end = line + (size_t)block->numel * element_bytes;
  for (int first = 0; first < 4; ++first)
    for (const char *at = line + 64 * first; at < end; at += 4 * 64) __builtin_prefetch(at, 0, 3);
}

INLINE void fetch_sources(const zero1__sources *sources, const zero1__block *block) {
  const int64_t bytes = (int64_t)sizeof(zero1__int8_block);
  const zero1__block packed = {.at = block->at / ZERO1__BLOCK * bytes, .numel = bytes};
  for (int32_t k = 0; k < sources->count; ++k)
    if (sources->dtype == ZERO1__DTYPE_INT8_BLOCKS)
      fetch(sources->contributions[k], 1, &packed);
    else
      fetch(sources->contributions[k], zero1__dtype_bytes(sources->dtype), block);
}

/* ---- reduce ---- */

INLINE void store_sum(float *out, const float *sum, int64_t numel, int finite) {
  if (finite && out == sum) return;
  INDEPENDENT
  for (int64_t e = 0; e < numel; ++e) out[e] = zero1__one_nan(sum[e]);
}

INLINE void reduce_block(const zero1__reduce_job *job, const zero1__slot *slot, int64_t at,
                         int64_t numel, float *target, staging *stage, zero1__stats *stats) {
  const float *sum = sum_block(&job->sources, at, numel, stage, target);
  const int finite = note_block(&job->sources, slot, at, sum, numel, stats);
  if (job->out) store_sum(job->out + at, sum, numel, finite);
}

/* Whether sums can go straight to `out`: not where it is one of the contributions, since those are
 * looked at again if a sum is not finite. */
static int out_is_apart(const zero1__reduce_job *job) {
  for (int32_t k = 0; k < job->sources.count; ++k)
    if (job->out == job->sources.contributions[k]) return 0;
  return job->out != NULL;
}

static __attribute__((noinline)) void reduce_blocks(const zero1__reduce_job *job,
                                                    zero1__range blocks, zero1__stats *stats) {
  staging stage;
  const int apart = out_is_apart(job);
  zero1__block block, soon;
  zero1__block_walk walk = zero1__block_walk_begin(job->layout, job->blocks.begin, blocks);
  while (zero1__block_walk_next(&walk, &block, &soon)) {
    float *target = apart ? job->out + block.at : stage.sum;
    fetch_sources(&job->sources, &soon);
    reduce_block(job, &job->layout->slots[block.slot], block.at, block.numel, target, &stage,
                 stats);
  }
}

static void reduce(const zero1__reduce_job *job, zero1__range blocks, zero1__stats *stats) {
  zero1__stats found;
  zero1__stats_clear(&found);
  const float_mode before = float_mode_enter();
  reduce_blocks(job, blocks, &found);
  float_mode_leave(before);
  if (!stats) return;
  if (job->partial) {
    zero1__exact_sum_clear(&found.squares);
    found.nonfinite_numel = 0;
  }
  zero1__stats_merge(stats, &found);
}

/* ---- update ---- */

INLINE void adam_block(float *restrict master_param, float *restrict exp_avg,
                       float *restrict exp_avg_sq, const float *restrict grad, int64_t numel,
                       float grad_factor, const zero1__adam_scalars *group) {
  const zero1__adam_scalars scalars = *group;
  for (int64_t e = 0; e < numel; ++e) {
    const zero1__adam_element old = {master_param[e], exp_avg[e], exp_avg_sq[e]};
    const zero1__adam_element next = zero1__adam(old, grad[e] * grad_factor, scalars);
    master_param[e] = next.master_param;
    exp_avg[e] = next.exp_avg;
    exp_avg_sq[e] = next.exp_avg_sq;
  }
}

INLINE void store_bf16(uint16_t *restrict param, const float *restrict master_param,
                       int64_t numel) {
  for (int64_t e = 0; e < numel; ++e) param[e] = zero1__fp32_to_bf16(master_param[e]);
}

INLINE void store_rounded(float *restrict param, const float *restrict master_param,
                          int64_t numel) {
  for (int64_t e = 0; e < numel; ++e) param[e] = zero1__round_to_bf16(master_param[e]);
}

INLINE void update_block(const zero1__update_job *job, const zero1__slot *slot, int absent,
                         int64_t at, int64_t numel, staging *stage, zero1__stats *stats) {
  const float *grad = sum_block(&job->sources, at, numel, stage, stage->sum);
  if (stats) note_block(&job->sources, slot, at, grad, numel, stats);
  if (absent) return;
  adam_block(job->master_param + at, job->exp_avg + at, job->exp_avg_sq + at, grad, numel,
             job->verdict->grad_factor, &job->groups[slot->group]);
  if (job->param_dtype == ZERO1_DTYPE_BF16)
    store_bf16((uint16_t *)job->param + at, job->master_param + at, numel);
  else if (job->param_dtype == ZERO1__DTYPE_FP32_AS_BF16)
    store_rounded((float *)job->param + at, job->master_param + at, numel);
}

INLINE void fetch_update(const zero1__update_job *job, const zero1__block *block) {
  fetch_sources(&job->sources, block);
  fetch(job->master_param, sizeof(float), block);
  fetch(job->exp_avg, sizeof(float), block);
  fetch(job->exp_avg_sq, sizeof(float), block);
  if (job->param_dtype != ZERO1_DTYPE_FP32)
    fetch(job->param, zero1__dtype_bytes(job->param_dtype), block);
}

static __attribute__((noinline)) void update_blocks(const zero1__update_job *job,
                                                    zero1__range blocks, zero1__stats *stats) {
  staging stage;
  zero1__block block, soon;
  zero1__block_walk walk = zero1__block_walk_begin(job->layout, job->blocks.begin, blocks);
  while (zero1__block_walk_next(&walk, &block, &soon)) {
    const int absent = job->absent && job->absent[block.slot];
    const zero1__slot *slot = &job->layout->slots[block.slot];
    if (absent && !stats) continue;
    fetch_update(job, &soon);
    if (block.numel == ZERO1__BLOCK)
      update_block(job, slot, absent, block.at, ZERO1__BLOCK, &stage, stats);
    else
      update_block(job, slot, absent, block.at, block.numel, &stage, stats);
  }
}

#include "kernels_line.h" /* another way, of one or two sources, with what is above */

static void update(const zero1__update_job *job, zero1__range blocks, zero1__stats *stats) {
  if (job->verdict->skip) return;
  const float_mode before = float_mode_enter();
  if (suits_lines(job))
    update_lines_of(job, blocks, stats);
  else
    update_blocks(job, blocks, stats);
  float_mode_leave(before);
}

/* ---- master, round, hash ---- */

static __attribute__((noinline)) void master_blocks(const zero1__master_job *job,
                                                    zero1__range blocks) {
  const int keep = job->keep;
  zero1__walk walk = zero1__walk_begin(job->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    const int64_t at = (segment.block - job->blocks.begin) * ZERO1__BLOCK;
    float *restrict master_param = job->master_param + at;
    const uint16_t *restrict bf16 = (const uint16_t *)job->param + at;
    const float *restrict fp32 = (const float *)job->param + at;
    if (job->param_dtype == ZERO1_DTYPE_BF16)
      for (int64_t e = 0; e < segment.numel; ++e)
        master_param[e] = zero1__master_of_bf16(bf16[e], master_param[e], keep);
    else
      for (int64_t e = 0; e < segment.numel; ++e)
        master_param[e] = zero1__master_of_rounded(fp32[e], master_param[e], keep);
  }
}

/* An fp32 parameter is its own master. */
static void master(const zero1__master_job *job, zero1__range blocks) {
  if (job->param_dtype == ZERO1_DTYPE_FP32) return;
  const float_mode before = float_mode_enter();
  master_blocks(job, blocks);
  float_mode_leave(before);
}

static void round_params(const zero1__round_job *job, zero1__range blocks) {
  const float_mode before = float_mode_enter();
  zero1__walk walk = zero1__walk_begin(job->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    float *param = job->param + (segment.block - job->blocks.begin) * ZERO1__BLOCK;
    for (int64_t e = 0; e < segment.numel; ++e) param[e] = zero1__round_to_bf16(param[e]);
  }
  float_mode_leave(before);
}

static uint64_t hash(const zero1__hash_job *job, zero1__range elements) {
  const uint32_t *fp32 = job->data;
  const uint16_t *bf16 = job->data;
  uint64_t sum = 0;
  if (job->dtype == ZERO1_DTYPE_FP32)
    for (int64_t e = elements.begin; e < elements.end; ++e) sum += zero1__mix((uint64_t)e, fp32[e]);
  else
    for (int64_t e = elements.begin; e < elements.end; ++e) sum += zero1__mix((uint64_t)e, bf16[e]);
  return sum;
}

/* ---- gradients of 8 bits ---- */

/* What is to travel: the gradient and what was left of those before. */
INLINE void add_residual(const zero1__int8_job *job, int64_t at, int64_t numel, float *value) {
  float buffer[ZERO1__BLOCK];
  const float *grad = as_fp32(job->grad, job->grad_dtype, at, numel, buffer);
  const float *residual = job->residual + at;
  for (int64_t e = 0; e < numel; ++e) value[e] = grad[e] + residual[e];
}

/* NaNs have the largest bits of all, infinities the next. */
INLINE uint32_t largest_bits(const float *value, int64_t numel) {
  uint32_t most = 0;
  for (int64_t e = 0; e < numel; ++e) {
    const uint32_t bits = zero1__bits(value[e]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return most;
}

static __attribute__((noinline)) void encode_block(const zero1__int8_job *job, int64_t at,
                                                   int64_t numel, zero1__int8_block *block) {
  float value[ZERO1__BLOCK];
  add_residual(job, at, numel, value);
  const float scale = zero1__int8_scale(largest_bits(value, numel));
  block->scale = scale;
  if (!(scale > 0)) numel = 0;
  for (int64_t e = 0; e < numel; ++e) block->code[e] = (int8_t)zero1__int8_code(value[e], scale);
  memset(block->code + numel, 0, (size_t)(ZERO1__BLOCK - numel));
}

static __attribute__((noinline)) void settle_block(const zero1__int8_job *job, int64_t at,
                                                   int64_t numel, const zero1__int8_block *block) {
  float value[ZERO1__BLOCK];
  float *residual = job->residual + at;
  const float scale = block->scale;
  add_residual(job, at, numel, value);
  INDEPENDENT
  for (int64_t e = 0; e < numel; ++e)
    residual[e] = zero1__one_nan(value[e] - zero1__int8_value(block->code[e], scale));
}

static void encode(const zero1__int8_job *job, zero1__range blocks) {
  const float_mode before = float_mode_enter();
  zero1__walk walk = zero1__walk_begin(job->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    const int absent = job->marks[job->layout->slots[segment.slot].param] == job->absent;
    zero1__int8_block *block = job->codes + (segment.block - job->blocks.begin);
    int64_t at = (segment.block - job->blocks.begin) * ZERO1__BLOCK;
    for (int64_t left = segment.numel; left > 0; left -= ZERO1__BLOCK, at += ZERO1__BLOCK, ++block)
      if (absent)
        memset(block, 0, sizeof *block);
      else
        encode_block(job, at, left < ZERO1__BLOCK ? left : ZERO1__BLOCK, block);
  }
  float_mode_leave(before);
}

static void settle(const zero1__int8_job *job, zero1__range blocks) {
  const float_mode before = float_mode_enter();
  zero1__walk walk = zero1__walk_begin(job->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    const zero1__int8_block *block = job->codes + (segment.block - job->blocks.begin);
    int64_t at = (segment.block - job->blocks.begin) * ZERO1__BLOCK;
    if (job->marks[job->layout->slots[segment.slot].param] == job->absent) continue;
    for (int64_t left = segment.numel; left > 0; left -= ZERO1__BLOCK, at += ZERO1__BLOCK, ++block)
      settle_block(job, at, left < ZERO1__BLOCK ? left : ZERO1__BLOCK, block);
  }
  float_mode_leave(before);
}

/* ---- the table ---- */

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)

extern const zero1__kernels JOIN(zero1__kernels_, ZERO1__ISA);
const zero1__kernels JOIN(zero1__kernels_, ZERO1__ISA) = {.isa = TEXT(ZERO1__ISA),
                                                          .reduce = reduce,
                                                          .update = update,
                                                          .master = master,
                                                          .round_params = round_params,
                                                          .encode = encode,
                                                          .settle = settle,
                                                          .hash = hash};
