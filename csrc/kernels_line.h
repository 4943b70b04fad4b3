/* Update line by line: sum, rule and stores of 16 elements at a time, and with each line a request
 * for one that comes soon (block_walk.h). Part of kernels_host.c, built once per instruction set.
 *
 * The divider's long work overlaps with loads, requests are spread over it instead of coming all at
 * once, and sums need no second look. With two sources on a Xeon of 2023 a dense array took 0.86 of
 * the time of block by block, 100,000 parameters of 320 elements 0.71, most of them by the
 * requests: hardware prefetchers, which fetch holes for nothing, lose their way among two runs in
 * turn.
 *
 * For one or two sources: with more, the sums are most of the work, and block by block they are
 * plain loops. The loop over lines has an inner loop of one line: the compiler makes vectors of the
 * inner one, which it would not of a loop that prefetches. */
#ifndef ZERO1__KERNELS_LINE_H
#define ZERO1__KERNELS_LINE_H

#include "block_walk.h"

#define LINE 16 /* elements: 64 bytes of fp32 */

/* Of what the line kernel is built for; constants where it is inlined. */
typedef struct line_form {
  int two; /* sources; else one */
  zero1__dtype grad_dtype, param_dtype;
  int keeps_sums; /* for note_block */
} line_form;

static int is_plain(zero1__dtype dtype) {
  return dtype == ZERO1_DTYPE_FP32 || dtype == ZERO1_DTYPE_BF16;
}

static int suits_lines(const zero1__update_job *job) {
  return job->sources.count <= 2 && job->sources.group == job->sources.count &&
         is_plain(job->sources.dtype) && is_plain(job->param_dtype);
}

INLINE float load_one(const void *array, zero1__dtype dtype, int64_t at) {
  return dtype == ZERO1_DTYPE_FP32 ? ((const float *)array)[at]
                                   : zero1__bf16_to_fp32(((const uint16_t *)array)[at]);
}

INLINE void ask_one(const void *array, size_t element_bytes, int64_t at) {
  __builtin_prefetch((const char *)array + (size_t)at * element_bytes, 0, 2);
}

INLINE void ask_line(const zero1__update_job *job, line_form form, int64_t at) {
  const size_t grad_bytes = zero1__dtype_bytes(form.grad_dtype);
  ask_one(job->sources.contributions[0], grad_bytes, at);
  if (form.two) ask_one(job->sources.contributions[1], grad_bytes, at);
  ask_one(job->master_param, sizeof(float), at);
  ask_one(job->exp_avg, sizeof(float), at);
  ask_one(job->exp_avg_sq, sizeof(float), at);
  if (form.param_dtype == ZERO1_DTYPE_BF16) ask_one(job->param, sizeof(uint16_t), at);
}

/* Elements [at, at + numel), by way of arrays of one line: what is stored could be what is loaded
 * next, for all that the compiler knows. */
INLINE void update_line(const zero1__update_job *job, line_form form, int64_t at, int numel,
                        float grad_factor, zero1__adam_scalars scalars, float *sums) {
  float sum[LINE], p[LINE], m[LINE], v[LINE];
  uint16_t bf16[LINE];
  const size_t bytes = (size_t)numel * sizeof(float);
  for (int e = 0; e < numel; ++e) {
    sum[e] = load_one(job->sources.contributions[0], form.grad_dtype, at + e);
    if (form.two) sum[e] += load_one(job->sources.contributions[1], form.grad_dtype, at + e);
    const zero1__adam_element old = {job->master_param[at + e], job->exp_avg[at + e],
                                     job->exp_avg_sq[at + e]};
    const zero1__adam_element next = zero1__adam(old, sum[e] * grad_factor, scalars);
    p[e] = next.master_param;
    m[e] = next.exp_avg;
    v[e] = next.exp_avg_sq;
    if (form.param_dtype == ZERO1_DTYPE_BF16) bf16[e] = zero1__fp32_to_bf16(p[e]);
  }
  if (form.keeps_sums) memcpy(sums, sum, bytes);
  memcpy(job->master_param + at, p, bytes);
  memcpy(job->exp_avg + at, m, bytes);
  memcpy(job->exp_avg_sq + at, v, bytes);
  if (form.param_dtype == ZERO1_DTYPE_BF16)
    memcpy((uint16_t *)job->param + at, bf16, (size_t)numel * sizeof *bf16);
}

/* One block, while `soon` is asked for: line by line as far as both go. */
INLINE void update_lines(const zero1__update_job *job, line_form form, const zero1__block *block,
                         const zero1__block *soon, float *sums) {
  const zero1__adam_scalars scalars = job->groups[job->layout->slots[block->slot].group];
  const float grad_factor = job->verdict->grad_factor;
  const int64_t whole = block->numel / LINE * LINE;
  const int64_t both = whole < soon->numel ? whole : soon->numel;
  int64_t e = 0;
  for (; e < both; e += LINE) {
    ask_line(job, form, soon->at + e);
    update_line(job, form, block->at + e, LINE, grad_factor, scalars, sums + e);
  }
  for (int64_t rest = e; rest < soon->numel; rest += LINE) ask_line(job, form, soon->at + rest);
  for (; e < whole; e += LINE)
    update_line(job, form, block->at + e, LINE, grad_factor, scalars, sums + e);
  if (e < block->numel)
    update_line(job, form, block->at + e, (int)(block->numel - e), grad_factor, scalars, sums + e);
}

INLINE void update_by_line(const zero1__update_job *job, line_form form, zero1__range blocks,
                           zero1__stats *stats) {
  staging stage;
  zero1__block block, soon;
  zero1__block_walk walk = zero1__block_walk_begin(job->layout, job->blocks.begin, blocks);
  while (zero1__block_walk_next(&walk, &block, &soon)) {
    const zero1__slot *slot = &job->layout->slots[block.slot];
    if (job->absent && job->absent[block.slot]) {
      if (stats) update_block(job, slot, 1, block.at, block.numel, &stage, stats);
      continue;
    }
    update_lines(job, form, &block, &soon, stage.sum);
    if (form.keeps_sums) note_block(&job->sources, slot, block.at, stage.sum, block.numel, stats);
  }
}

/* The forms: whole loops with constants in them. The job's copy is the function's own, so that its
 * pointers stay in registers: the caller's could be overwritten by what is stored. */
#define FORM(name, two, grad_dtype, param_dtype)                                                \
  static __attribute__((noinline)) void name(const zero1__update_job *job, zero1__range blocks, \
                                             zero1__stats *stats) {                             \
    const void *sources[2] = {job->sources.contributions[0], job->sources.contributions[two]};  \
    zero1__update_job own = *job;                                                               \
    own.sources.contributions = sources;                                                        \
    if (stats)                                                                                  \
      update_by_line(&own, (line_form){two, grad_dtype, param_dtype, 1}, blocks, stats);        \
    else                                                                                        \
      update_by_line(&own, (line_form){two, grad_dtype, param_dtype, 0}, blocks, NULL);         \
  }

FORM(lines_1_fp32_fp32, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32)
FORM(lines_1_fp32_bf16, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16)
FORM(lines_1_bf16_fp32, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_FP32)
FORM(lines_1_bf16_bf16, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16)
FORM(lines_2_fp32_fp32, 1, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32)
FORM(lines_2_fp32_bf16, 1, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16)
FORM(lines_2_bf16_fp32, 1, ZERO1_DTYPE_BF16, ZERO1_DTYPE_FP32)
FORM(lines_2_bf16_bf16, 1, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16)

static void update_lines_of(const zero1__update_job *job, zero1__range blocks,
                            zero1__stats *stats) {
  typedef void (*form_fn)(const zero1__update_job *, zero1__range, zero1__stats *);
  static const form_fn forms[2][2][2] = {
      {{lines_1_fp32_fp32, lines_1_fp32_bf16}, {lines_1_bf16_fp32, lines_1_bf16_bf16}},
      {{lines_2_fp32_fp32, lines_2_fp32_bf16}, {lines_2_bf16_fp32, lines_2_bf16_bf16}}};
  forms[job->sources.count == 2][job->sources.dtype == ZERO1_DTYPE_BF16]
       [job->param_dtype == ZERO1_DTYPE_BF16](job, blocks, stats);
}

#endif
