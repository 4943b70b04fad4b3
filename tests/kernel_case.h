/* A shard with everything that kernels meet: parameters of every tail, groups, absent ones, ones
 * left out of the norm, and numbers of every kind. All of a case's memory is one allocation, so
 * that two outcomes are compared with one memcmp, padding included; padding holds POISON. */
#ifndef ZERO1_TESTS_KERNEL_CASE_H
#define ZERO1_TESTS_KERNEL_CASE_H

#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "kernels_host.h"
#include "random.h"
#include "rules.h"

#define CASE_SOURCES_MAX 9
#define POISON 0x7fa5a5a5u /* a NaN: whoever reads it is found out, too */

typedef struct case_options {
  uint64_t seed;
  int32_t count, group; /* contributions, and how many are summed first */
  int32_t rank_begin;
  zero1__dtype grad_dtype, param_dtype;
  int tame;   /* 1: gradients are finite and of ordinary size */
  int params; /* 0: CASE_PARAMS; else only so many of them */
} case_options;

/* All tails 1 .. 255, then parameters of several blocks, with and without a tail. */
#define CASE_PARAMS 264
static inline int64_t case_numel(int param) {
  static const int64_t large[] = {256, 257, 511, 512, 1024, 1279, 320, 2000, 3};
  return param < 255 ? param + 1 : large[param - 255];
}

typedef struct kernel_case {
  case_options options;
  zero1__layout layout;
  zero1__range blocks;
  int64_t numel; /* of every array, padding included */
  char *memory;  /* all arrays, the contributions first */
  size_t memory_bytes, grads_bytes;
  const void *contributions[CASE_SOURCES_MAX];
  float *out, *master_param, *exp_avg, *exp_avg_sq;
  void *param; /* master_param at fp32 */
  uint8_t *absent;
  zero1__adam_scalars groups[2];
  zero1__verdict verdict;
  zero1__stats stats;
} kernel_case;

/* Whether groups' sums are rounded: where a library would, and once more. */
static inline int case_rounds_groups(const case_options *options) {
  return options->grad_dtype == ZERO1__DTYPE_FP32_AS_BF16 ||
         (options->grad_dtype == ZERO1_DTYPE_BF16 && options->seed % 2);
}

/* ---- filling ---- */

static inline float case_gradient(random_state *random, int kind) {
  switch (kind) {
    case 0:
      return random_any(random); /* a whole block of these is not finite */
    case 1:
      return random_tiny(random);
    case 2:
      return random_huge(random); /* sums overflow */
    case 3:
      return random_bits(random) % 64 ? random_unit(random) : -INFINITY;
    default:
      return random_unit(random);
  }
}

static inline void case_fill_grads(kernel_case *c, random_state *random) {
  for (int32_t k = 0; k < c->options.count; ++k)
    for (int64_t block = 0; block < c->blocks.end; ++block) {
      const int kind = c->options.tame ? 4 : (int)(random_bits(random) % 12);
      for (int64_t e = block * ZERO1__BLOCK; e < (block + 1) * ZERO1__BLOCK; ++e) {
        const float value = case_gradient(random, kind);
        if (c->options.grad_dtype != ZERO1_DTYPE_BF16)
          memcpy((char *)(uintptr_t)c->contributions[k] + 4 * e, &value, 4);
        else
          memcpy((char *)(uintptr_t)c->contributions[k] + 2 * e, (char *)&value + 2, 2);
      }
    }
}

static inline void case_fill_state(kernel_case *c, random_state *random) {
  for (int64_t e = 0; e < c->numel; ++e) {
    const int tiny = random_bits(random) % 16 == 0;
    c->out[e] = -1;
    c->master_param[e] = tiny ? random_tiny(random) : random_unit(random);
    c->exp_avg[e] = tiny ? random_tiny(random) : random_unit(random) * 0.25f;
    c->exp_avg_sq[e] = fabsf(tiny ? random_tiny(random) : random_unit(random) * 0.0625f);
    if (c->options.param_dtype == ZERO1_DTYPE_BF16)
      ((uint16_t *)c->param)[e] = zero1__fp32_to_bf16(c->master_param[e]);
    if (c->options.param_dtype == ZERO1__DTYPE_FP32_AS_BF16)
      ((float *)c->param)[e] = zero1__round_to_bf16(c->master_param[e]);
  }
  for (int64_t slot = 0; slot < c->layout.slot_count; ++slot) c->absent[slot] = slot % 7 == 3;
}

static inline void case_poison(kernel_case *c, int64_t from, int64_t to) {
  for (int64_t e = from; e < to; ++e) {
    const uint32_t poison = POISON;
    float *const arrays[] = {c->out, c->master_param, c->exp_avg, c->exp_avg_sq};
    for (int i = 0; i < 4; ++i) memcpy(&arrays[i][e], &poison, 4);
    if (c->options.param_dtype == ZERO1_DTYPE_BF16)
      memcpy((char *)c->param + 2 * e, (const char *)&poison + 2, 2);
    if (c->options.param_dtype == ZERO1__DTYPE_FP32_AS_BF16)
      memcpy((char *)c->param + 4 * e, &poison, 4);
    for (int32_t k = 0; k < c->options.count; ++k) {
      char *grad = (char *)(uintptr_t)c->contributions[k];
      if (c->options.grad_dtype != ZERO1_DTYPE_BF16)
        memcpy(grad + 4 * e, &poison, 4);
      else
        memcpy(grad + 2 * e, (const char *)&poison + 2, 2);
    }
  }
}

static inline void case_poison_padding(kernel_case *c) {
  for (int64_t slot = 0; slot < c->layout.slot_count; ++slot) {
    const zero1__slot *at = &c->layout.slots[slot];
    case_poison(c, at->block_begin * ZERO1__BLOCK + at->numel, at[1].block_begin * ZERO1__BLOCK);
  }
}

/* ---- a case, and what to do with it ---- */

static inline kernel_case case_create(case_options options) {
  kernel_case c = {.options = options, .verdict = {0, 0.5f}};
  const int params = options.params ? options.params : CASE_PARAMS;
  int64_t numel[CASE_PARAMS];
  int32_t group[CASE_PARAMS];
  uint32_t flags[CASE_PARAMS];
  for (int i = 0; i < params; ++i) {
    numel[i] = case_numel(CASE_PARAMS - params + i);
    group[i] = i % 2;
    flags[i] = i % 5 == 2 ? ZERO1_PARAM_NOT_IN_NORM : 0;
  }
  CHECK_STATUS(
      zero1__layout_create(1, INT64_C(1) << 40, params, numel, group, flags, &c.layout, NULL),
      ZERO1_OK);
  c.blocks = (zero1__range){0, c.layout.used_blocks};
  c.numel = c.layout.used_blocks * ZERO1__BLOCK;
  const size_t bytes = (size_t)c.numel * 4;
  c.grads_bytes = (size_t)options.count * bytes;
  c.memory_bytes = c.grads_bytes + 5 * bytes + CASE_PARAMS;
  c.memory = calloc(1, c.memory_bytes);
  CHECK(c.memory != NULL);
  char *next = c.memory;
  for (int32_t k = 0; k < options.count; ++k, next += bytes) c.contributions[k] = next;
  c.out = (float *)(void *)next;
  c.master_param = c.out + c.numel;
  c.exp_avg = c.master_param + c.numel;
  c.exp_avg_sq = c.exp_avg + c.numel;
  c.param = options.param_dtype == ZERO1_DTYPE_FP32 ? c.master_param : c.exp_avg_sq + c.numel;
  c.absent = (uint8_t *)(c.exp_avg_sq + 2 * c.numel);
  random_state random = {options.seed};
  case_fill_grads(&c, &random);
  case_fill_state(&c, &random);
  case_poison_padding(&c);
  const zero1_group decoupled = {0, 1e-3, 0.9, 0.999, 1e-8, 0.1, 1, 0};
  const zero1_group l2 = {0, 1e-2, 0.5, 0.75, 1e-6, 0.5, 0, 0};
  c.groups[0] = zero1__adam_scalars_make(&decoupled, 3);
  c.groups[1] = zero1__adam_scalars_make(&l2, 5);
  zero1__stats_clear(&c.stats);
  return c;
}

static inline void case_destroy(kernel_case *c) {
  zero1__layout_destroy(&c->layout);
  free(c->memory);
}

static inline zero1__sources case_sources(const kernel_case *c) {
  return (zero1__sources){.contributions = c->contributions,
                          .visible = c->contributions,
                          .count = c->options.count,
                          .group = c->options.group,
                          .rank_begin = c->options.rank_begin,
                          .dtype = c->options.grad_dtype,
                          .round_groups = case_rounds_groups(&c->options)};
}

static inline zero1__reduce_job case_reduce_job(kernel_case *c) {
  return (zero1__reduce_job){&c->layout, c->blocks, case_sources(c), c->out, &c->stats, 0, NULL};
}

static inline zero1__update_job case_update_job(kernel_case *c) {
  return (zero1__update_job){.layout = &c->layout,
                             .blocks = c->blocks,
                             .sources = case_sources(c),
                             .verdict = &c->verdict,
                             .groups = c->groups,
                             .absent = c->absent,
                             .master_param = c->master_param,
                             .exp_avg = c->exp_avg,
                             .exp_avg_sq = c->exp_avg_sq,
                             .param = c->param,
                             .param_dtype = c->options.param_dtype,
                             .stats = &c->stats};
}

/* Whether two outcomes are the same bytes: arrays, padding, stats. */
static inline int case_same(const kernel_case *a, const kernel_case *b) {
  return a->memory_bytes == b->memory_bytes && !memcmp(a->memory, b->memory, a->memory_bytes) &&
         !memcmp(&a->stats.squares, &b->stats.squares, sizeof a->stats.squares) &&
         a->stats.nonfinite_numel == b->stats.nonfinite_numel &&
         a->stats.culprit == b->stats.culprit;
}

/* The kernels of every instruction set that this processor has; the widest first. */
static inline int case_all_kernels(const zero1__kernels *kernels[3]) {
  static const char *const names[] = {"avx512", "avx2", "baseline"};
  int count = 0;
  for (int i = 0; i < 3; ++i) {
    CHECK(setenv("ZERO1_ISA", names[i], 1) == 0);
    if (zero1__kernels_pick(&kernels[count], NULL) == ZERO1_OK) ++count;
  }
  CHECK(unsetenv("ZERO1_ISA") == 0);
  CHECK(count >= 1);
  return count;
}

#endif
