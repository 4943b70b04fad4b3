/* What is measured: an optimizer with its tensors and gradients.
 *
 * Element f of all tensors, laid end to end, has the initial value bench_initial_param(f) and, on
 * rank r, the gradient bench_initial_grad(r, f). Both are exact in bf16. */
#ifndef BENCH_SUBJECT_H
#define BENCH_SUBJECT_H

#include "bench_json.h"
#include "bench_options.h"
#include "zero1/zero1.h"

typedef struct bench_subject {
  int rank, world_size;
  int64_t numel, tensors;
  int64_t param_dtype, grad_dtype;
  int64_t param_wire, grad_wire; /* ZERO1_DTYPE_, too */
  int64_t sent_bytes;            /* of the last step: zero1_info, of the rank that sent most */
  zero1_group group;
  zero1_comm *comm;
  zero1_optimizer *optimizer;
  void **params, **grads; /* [tensors] */
  double create_ms;       /* of zero1_optimizer_create, the slowest rank's; median */
} bench_subject;

/** Times of one step: each the slowest rank's. */
typedef struct bench_step_times {
  double step_ms;  /* from the barrier to the end of zero1_optimizer_info */
  double ready_ms; /* in zero1_optimizer_grad_ready */
  double exchange_ms, reduce_ms, agree_ms, update_ms, gather_ms; /* as zero1_info */
  double grad_norm, clip_coef;
  double first_ms; /* from the barrier until parameter 0, which forward reads first, is there */
  double wait_ms;  /* of zero1_optimizer_wait_param for every tensor, after the step */
  double cpu_ms;   /* that the step took of processors, all ranks together */
} bench_step_times;

/** Collective; so are the others. A failure ends all ranks. */
void bench_subject_open(bench_subject *subject, const bench_options *options);
void bench_subject_close(bench_subject *subject);

bench_step_times bench_subject_step(bench_subject *subject);

/** What parameters and gradients are in memory, and on the wire, which is never wider. */
void bench_json_dtypes(bench_json *object, const bench_options *options);

/** First of tensor `index`'s elements; the tensors' end for index = tensors. */
int64_t bench_tensor_begin(const bench_subject *subject, int64_t index);

/** The tensor that holds element `flat`. */
int64_t bench_tensor_at(const bench_subject *subject, int64_t flat);

float bench_initial_param(int64_t flat);
float bench_initial_grad(int rank, int64_t flat);

/** Element `at` of an array of `dtype`. */
float bench_load(const void *array, int64_t at, int64_t dtype);
void bench_store(void *array, int64_t at, int64_t dtype, float value);

#endif
