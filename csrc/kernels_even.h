/* Update of short runs in a row, all of one length: many small parameters. Part of kernels_host.c.
 *
 * Lines are asked for inside the loop, one at a time and at the same place of the runs that
 * follow, instead of all lines of a run at once as run_walk.h has it for others: memory then works
 * while the divider does. Requests for the second-level cache are dropped while its queue is full,
 * so a line is asked for again with every run that it comes closer; requests for the first level
 * share its few miss buffers and were no faster than none. With 100,000 parameters of 320 elements
 * the kernel took 16 to 21 ms instead of 21 to 23 with two sources, 13 to 14 instead of 17 with
 * one.
 *
 * The runs are of one block or of two, so that the stride from run to run is a constant of the loop
 * and takes no register: with six strides in registers it was a tenth slower. The loop is over
 * lines with an inner loop of one line: the compiler makes vectors of the inner one, which it would
 * not of a loop that prefetches.
 *
 * (Reduce in the same way was a tenth faster for small parameters, but a large one then took 1.4
 * times as long in some processes.) */
#ifndef ZERO1__KERNELS_EVEN_H
#define ZERO1__KERNELS_EVEN_H

#include "kernels_block.h"
#include "run_walk.h"

#define LINE 16 /* fp32 elements */

#define NOINLINE __attribute__((noinline)) static

/* How many runs ahead; not more than ZERO1__RUNS_EVEN. Each request costs an instruction: with five
 * arrays six of them each were slower than four. */
#define FEW_ARRAYS_AHEAD 6
#define FIVE_ARRAYS_AHEAD 4

/* Asks for the line of `element` in each of the next `ahead` runs, the farthest first. */
INLINE void ask(const float *element, int64_t stride, int ahead) {
  _Pragma("GCC unroll 8") for (int k = ahead; k > 0; --k)
      __builtin_prefetch(element + k * stride, 0, 2);
}

static int update_suits_even(const zero1__update_job *job) {
  return job->sources.count <= 2 && job->sources.group == job->sources.count &&
         job->sources.dtype == ZERO1_DTYPE_FP32 && job->param_dtype == ZERO1_DTYPE_FP32;
}

/* The arrays of an update, from one element on. */
typedef struct even_update {
  float *master_param, *exp_avg, *exp_avg_sq;
  const float *left, *right; /* of one source, left, the values are the sums */
  float *sum;
} even_update;

INLINE void ask_update(const even_update *a, int two, int64_t at, int64_t stride) {
  const int ahead = two ? FIVE_ARRAYS_AHEAD : FEW_ARRAYS_AHEAD;
  ask(a->left + at, stride, ahead);
  if (two) ask(a->right + at, stride, ahead);
  ask(a->master_param + at, stride, ahead);
  ask(a->exp_avg + at, stride, ahead);
  ask(a->exp_avg_sq + at, stride, ahead);
}

/* Elements [at, at + numel), by way of lines: what is stored could be what is loaded next. */
INLINE void update_elements(const even_update *a, int two, int64_t at, int numel, float grad_factor,
                            zero1__adam_scalars scalars) {
  float p[LINE], m[LINE], v[LINE], sum[LINE];
  const size_t bytes = (size_t)numel * sizeof(float);
  for (int e = 0; e < numel; ++e) {
    sum[e] = two ? a->left[at + e] + a->right[at + e] : a->left[at + e];
    const zero1__adam_element old = {a->master_param[at + e], a->exp_avg[at + e],
                                     a->exp_avg_sq[at + e]};
    const zero1__adam_element next = zero1__adam(old, sum[e] * grad_factor, scalars);
    p[e] = next.master_param;
    m[e] = next.exp_avg;
    v[e] = next.exp_avg_sq;
  }
  if (two) memcpy(a->sum + at, sum, bytes);
  memcpy(a->master_param + at, p, bytes);
  memcpy(a->exp_avg + at, m, bytes);
  memcpy(a->exp_avg_sq + at, v, bytes);
}

/* Sums and updates in one loop, so that the divider's long work overlaps with the loads. */
INLINE void update_even_block(const even_update *a, int two, int64_t numel, int64_t stride,
                              float grad_factor, const zero1__adam_scalars *group) {
  const zero1__adam_scalars scalars = *group;
  int64_t at = 0;
  for (; at + LINE <= numel; at += LINE) {
    ask_update(a, two, at, stride);
    update_elements(a, two, at, LINE, grad_factor, scalars);
  }
  if (at == numel) return;
  ask_update(a, two, at, stride);
  update_elements(a, two, at, (int)(numel - at), grad_factor, scalars);
}

INLINE void update_strided(const zero1__update_job *job, const zero1__slot *slot,
                           const zero1__run *run, int two, int64_t stride, staging *stage,
                           zero1__stats *stats) {
  const int64_t end = run->at + run->numel;
  const void *const *from = job->sources.contributions;
  for (int64_t at = run->at; at < end; at += ZERO1__BLOCK) {
    const int64_t numel = end - at < ZERO1__BLOCK ? end - at : ZERO1__BLOCK;
    const even_update a = {.master_param = job->master_param + at,
                           .exp_avg = job->exp_avg + at,
                           .exp_avg_sq = job->exp_avg_sq + at,
                           .left = (const float *)from[0] + at,
                           .right = (const float *)from[two] + at,
                           .sum = stage->sum};
    update_even_block(&a, two, numel, stride, job->verdict->grad_factor, &job->groups[slot->group]);
    if (stats) note_block(&job->sources, slot, at, two ? stage->sum : a.left, numel, stats);
  }
}

NOINLINE void update_even_run(const zero1__update_job *job, const zero1__slot *slot,
                              const zero1__run *run, staging *stage, zero1__stats *stats) {
  const int one_block = run->numel <= ZERO1__BLOCK, two = job->sources.count == 2;
  if (one_block && two)
    update_strided(job, slot, run, 1, ZERO1__BLOCK, stage, stats);
  else if (one_block)
    update_strided(job, slot, run, 0, ZERO1__BLOCK, stage, stats);
  else if (two)
    update_strided(job, slot, run, 1, 2 * ZERO1__BLOCK, stage, stats);
  else
    update_strided(job, slot, run, 0, 2 * ZERO1__BLOCK, stage, stats);
}

#endif
