#include "bench_baseline.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "bench_world.h"
#include "optimizer.h"
#include "rules.h"

/* ---- life ---- */

static void *tensor_alloc(const bench_baseline *baseline, int64_t shards, size_t each) {
  zero1__device *device =
      baseline->subject->optimizer->device; /* in large pages, as the subject's */
  zero1__error error;
  void *memory;
  zero1__error_clear(&error);
  const size_t bytes = (size_t)shards * (size_t)baseline->shard_numel * each;
  const zero1_status status = device->ops->memory_alloc(device, bytes, &memory, &error);
  bench_require(!status, "the baseline: %s", error.text);
  memset(memory, 0, bytes);
  return memory;
}

static void tensor_free(const bench_baseline *baseline, int64_t shards, size_t each, void *memory) {
  zero1__device *device = baseline->subject->optimizer->device;
  device->ops->memory_free(device, memory, (size_t)shards * (size_t)baseline->shard_numel * each);
}

static void fill(bench_baseline *baseline) {
  const bench_subject *subject = baseline->subject;
  const int64_t shard_begin = (int64_t)subject->rank * baseline->shard_numel;
  for (int64_t e = 0; e < subject->numel; ++e) {
    const float grad = bench_initial_grad(subject->rank, e);
    if (baseline->narrow)
      bench_store(baseline->narrow, e, ZERO1_DTYPE_BF16, grad);
    else
      baseline->grads[e] = grad;
    bench_store(baseline->params, e, subject->param_dtype, bench_initial_param(e));
  }
  for (int64_t e = 0; e < baseline->shard_numel && shard_begin + e < subject->numel; ++e)
    baseline->master_param[e] = bench_initial_param(shard_begin + e);
}

static void add_narrow(void *in, void *inout, int *count, MPI_Datatype *type) {
  const uint16_t *const theirs = in;
  uint16_t *const sums = inout;
  (void)type;
  for (int i = 0; i < *count; ++i)
    sums[i] = zero1__fp32_to_bf16(zero1__bf16_to_fp32(sums[i]) + zero1__bf16_to_fp32(theirs[i]));
}

bool bench_baseline_open(bench_baseline *baseline, const bench_subject *subject,
                         const bench_options *options) {
  const int64_t world = subject->world_size, numel = subject->numel;
  const int32_t group = 0, threads = subject->optimizer->settings.config.threads;
  const uint32_t flags = 0;
  const size_t param_bytes = zero1__dtype_bytes((zero1__dtype)subject->param_dtype);
  zero1__error error;
  zero1__error_clear(&error);
  *baseline = (bench_baseline){.subject = subject, .clip = options->clip};
  if (numel / world > INT_MAX - ZERO1__BLOCK) return false;
  zero1_status status = zero1__layout_create(subject->world_size, numel + world * ZERO1__BLOCK, 1,
                                             &numel, &group, &flags, &baseline->layout, &error);
  if (!status) status = zero1__kernels_pick(&baseline->kernels, &error);
  if (!status) status = zero1__pool_create(threads, &baseline->pool, &error);
  bench_require(!status, "the baseline: %s", error.text);
  baseline->stats = bench_alloc((size_t)threads, sizeof *baseline->stats);
  baseline->shard = zero1__layout_shard(&baseline->layout, 0, subject->rank);
  baseline->shard_numel = (int)((baseline->shard.end - baseline->shard.begin) * ZERO1__BLOCK);
  baseline->grads = tensor_alloc(baseline, world, 4);
  baseline->params = tensor_alloc(baseline, world, param_bytes);
  if (options->grad_dtype == ZERO1_DTYPE_BF16) baseline->narrow = tensor_alloc(baseline, world, 2);
  baseline->grad_shard = tensor_alloc(baseline, 1, 4);
  baseline->exp_avg = tensor_alloc(baseline, 1, 4);
  baseline->exp_avg_sq = tensor_alloc(baseline, 1, 4);
  baseline->master_param =
      options->param_dtype == ZERO1_DTYPE_FP32
          ? (float *)baseline->params + (int64_t)subject->rank * baseline->shard_numel
          : tensor_alloc(baseline, 1, 4);
  MPI_Op_create(add_narrow, 1, &baseline->narrow_op);
  fill(baseline);
  return true;
}

void bench_baseline_close(bench_baseline *baseline) {
  const bench_subject *subject = baseline->subject;
  const int64_t world = subject->world_size;
  if (!baseline->grads) return;
  MPI_Op_free(&baseline->narrow_op);
  if (subject->param_dtype != ZERO1_DTYPE_FP32) tensor_free(baseline, 1, 4, baseline->master_param);
  tensor_free(baseline, 1, 4, baseline->exp_avg_sq);
  tensor_free(baseline, 1, 4, baseline->exp_avg);
  tensor_free(baseline, 1, 4, baseline->grad_shard);
  tensor_free(baseline, world, 2, baseline->narrow);
  tensor_free(baseline, world, zero1__dtype_bytes((zero1__dtype)subject->param_dtype),
              baseline->params);
  tensor_free(baseline, world, 4, baseline->grads);
  free(baseline->stats);
  zero1__pool_destroy(baseline->pool);
  zero1__layout_destroy(&baseline->layout);
}

/* ---- kernels on all threads ---- */

typedef struct kernel_run {
  bench_baseline *baseline;
  const zero1__reduce_job *reduce; /* or NULL */
  const zero1__update_job *update; /* or NULL */
} kernel_run;

static void run_part(void *context, int32_t thread, int32_t threads) {
  const kernel_run *run = context;
  bench_baseline *baseline = run->baseline;
  const zero1__range all = run->reduce ? run->reduce->blocks : run->update->blocks;
  const int64_t blocks = all.end - all.begin;
  const zero1__range part = {all.begin + blocks * thread / threads,
                             all.begin + blocks * (thread + 1) / threads};
  if (run->reduce) {
    zero1__stats_clear(&baseline->stats[thread]);
    baseline->kernels->reduce(run->reduce, part, &baseline->stats[thread]);
  } else {
    baseline->kernels->update(run->update, part, NULL);
  }
}

static zero1__sources one_source(const void *const *source, zero1__dtype dtype) {
  return (zero1__sources){.contributions = source, .count = 1, .group = 1, .dtype = dtype};
}

/* The blocks of `narrow`, whose first is at `source`. */
static void widen(bench_baseline *baseline, const void *source, zero1__range blocks, float *out) {
  const zero1__reduce_job job = {.layout = &baseline->layout,
                                 .blocks = blocks,
                                 .sources = one_source(&source, ZERO1_DTYPE_BF16),
                                 .out = out,
                                 .stats = baseline->stats};
  kernel_run run = {baseline, &job, NULL};
  zero1__pool_run(baseline->pool, run_part, &run);
}

/* The sums of this rank's shard, in fp32. */
static void reduce_scatter(bench_baseline *baseline) {
  const zero1__range all = {0, baseline->layout.trainable_blocks};
  const int numel = baseline->shard_numel;
  uint16_t *const sums = (uint16_t *)baseline->grads; /* nobody else needs it then */
  if (baseline->narrow && baseline->narrow_sums) {
    MPI_Reduce_scatter_block(baseline->narrow, sums, numel, MPI_UINT16_T, baseline->narrow_op,
                             MPI_COMM_WORLD);
    widen(baseline, sums, baseline->shard, baseline->grad_shard);
    return;
  }
  if (baseline->narrow) widen(baseline, baseline->narrow, all, baseline->grads);
  MPI_Reduce_scatter_block(baseline->grads, baseline->grad_shard, numel, MPI_FLOAT, MPI_SUM,
                           MPI_COMM_WORLD);
}

/* What gradients are multiplied by. */
static float agree_on_factor(bench_baseline *baseline) {
  const double scale = 1.0 / baseline->subject->world_size;
  const void *const source = baseline->grad_shard;
  const zero1__reduce_job job = {.layout = &baseline->layout,
                                 .blocks = baseline->shard,
                                 .sources = one_source(&source, ZERO1_DTYPE_FP32),
                                 .stats = baseline->stats};
  kernel_run run = {baseline, &job, NULL};
  double mine = 0, squares;
  if (!(baseline->clip > 0)) return (float)scale;
  zero1__pool_run(baseline->pool, run_part, &run);
  for (int32_t i = 0; i < zero1__pool_threads(baseline->pool); ++i)
    mine += zero1__exact_sum_to_double(&baseline->stats[i].squares);
  MPI_Allreduce(&mine, &squares, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  return (float)(scale * fmin(1.0, baseline->clip / (scale * sqrt(squares) + 1e-6)));
}

static void update(bench_baseline *baseline, float factor) {
  const bench_subject *subject = baseline->subject;
  const void *const source = baseline->grad_shard;
  const zero1__verdict verdict = {0, factor};
  const zero1__adam_scalars scalars = zero1__adam_scalars_make(&subject->group, ++baseline->count);
  const size_t param_bytes = zero1__dtype_bytes((zero1__dtype)subject->param_dtype);
  const zero1__update_job job = {
      .layout = &baseline->layout,
      .blocks = baseline->shard,
      .sources = one_source(&source, ZERO1_DTYPE_FP32),
      .verdict = &verdict,
      .groups = &scalars,
      .master_param = baseline->master_param,
      .exp_avg = baseline->exp_avg,
      .exp_avg_sq = baseline->exp_avg_sq,
      .param = (char *)baseline->params +
               (size_t)subject->rank * (size_t)baseline->shard_numel * param_bytes,
      .param_dtype = (zero1__dtype)subject->param_dtype};
  kernel_run run = {baseline, NULL, &job};
  zero1__pool_run(baseline->pool, run_part, &run);
}

/* ---- a repetition ---- */

bench_baseline_times bench_baseline_run(bench_baseline *baseline) {
  const MPI_Datatype type =
      baseline->subject->param_dtype == ZERO1_DTYPE_FP32 ? MPI_FLOAT : MPI_UINT16_T;
  const int numel = baseline->shard_numel;
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  reduce_scatter(baseline);
  const double reduced_ms = bench_ms_since(begin_ns);
  update(baseline, agree_on_factor(baseline));
  const double updated_ms = bench_ms_since(begin_ns);
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, baseline->params, numel, type, MPI_COMM_WORLD);
  const double total_ms = bench_ms_since(begin_ns);
  const double mine[4] = {total_ms, reduced_ms, updated_ms - reduced_ms, total_ms - updated_ms};
  double all[4];
  MPI_Allreduce(mine, all, 4, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return (bench_baseline_times){all[0], all[1], all[2], all[3]};
}
