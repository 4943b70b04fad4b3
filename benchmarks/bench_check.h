/* Whether steps do what they should: a sample of elements against AdamW in double, one step at a
 * time, from gradients and state as they were just before it. */
#ifndef BENCH_CHECK_H
#define BENCH_CHECK_H

#include "bench_subject.h"
#include "reference_adamw.h"

typedef struct bench_sample {
  int64_t flat;                                     /* of all tensors laid end to end */
  int64_t tensor, element;                          /* the same place */
  const float *master_param, *exp_avg, *exp_avg_sq; /* this rank's, or NULL where it owns it not */
} bench_sample;

typedef struct bench_check {
  bench_subject *subject;
  int64_t count;
  bench_sample *samples;     /* [count] the same on every rank */
  reference_adamw *expected; /* [count] of the owner */
  float *mine, *all;         /* [count], [world_size * count] gradients */
} bench_check;

/** Collective; so are the others. */
void bench_check_open(bench_check *check, bench_subject *subject);
void bench_check_close(bench_check *check);

/** Just before step number `count` (the first is 1): notes gradients and state. */
void bench_check_before(bench_check *check);

/** Just after it. Ends all ranks, with a text, where a parameter, a moment, on any rank, is not
 *  what it should be. */
void bench_check_after(bench_check *check, int64_t count, const bench_step_times *times);

/** The norm of all gradients as they are, from a sum over all elements in double. */
double bench_check_norm(const bench_subject *subject);

/** After the first step of both: the baseline's parameters are the optimizer's. */
void bench_check_alike(const bench_check *check, const void *baseline_params);

#endif
