#include "bench_limit.h"

#include <math.h>
#include <string.h>

#include "bench_world.h"
#include "kernels_host.h"
#include "optimizer.h"

extern const bench_loops bench_loops_baseline;
#ifndef ZERO1__ISA_BASELINE_ONLY
extern const bench_loops bench_loops_avx2, bench_loops_avx512;
#endif

const bench_loops *bench_loops_find(const char *isa) {
  static const bench_loops *const all[] = {
      &bench_loops_baseline,
#ifndef ZERO1__ISA_BASELINE_ONLY
      &bench_loops_avx2,
      &bench_loops_avx512,
#endif
  };
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
    if (strcmp(all[i]->isa, isa) == 0) return all[i];
  bench_require(0, "no loops for %s", isa);
  return NULL;
}

/* ---- the streams ---- */

/* Contributions to this rank's shard of a bucket; [world_size] into `grads`. */
static void find_grads(const zero1_optimizer *optimizer, int64_t bucket, const void **grads) {
  const zero1__channel *channel = optimizer->channel;
  const zero1__chunk *chunk = &channel->chunks[channel->chunk_begin[bucket]];
  for (int32_t k = 0; k < channel->comm->world_size; ++k) {
    const zero1__range slice = zero1__layout_shard(&optimizer->layout, bucket, k);
    grads[k] = channel->in_place ? chunk->sources.contributions[k]
                                 : zero1__buffers_grad(&optimizer->buffers, slice.begin);
  }
}

static void find_streams(bench_limit *limit, const zero1_optimizer *optimizer, int64_t index) {
  const zero1__buffers *buffers = &optimizer->buffers;
  const zero1_config *config = &optimizer->settings.config;
  const int32_t world = optimizer->comm->world_size;
  const zero1__range shard = zero1__layout_shard(&optimizer->layout, index, optimizer->comm->rank);
  bench_bucket *bucket = &limit->buckets[index];
  const void **grads = limit->grads + 2 * index * world, **sums = grads + world;
  const int32_t grad_bytes = (int32_t)zero1__dtype_bytes(config->grad_dtype);
  const void *kept = buffers->grad_shards[index];
  const int reads_again = !limit->two_passes || !kept;
  find_grads(optimizer, index, grads);
  sums[0] = kept;
  bucket->blocks =
      (zero1__layout_numel(&optimizer->layout, shard) + ZERO1__BLOCK - 1) / ZERO1__BLOCK;
  bucket->first = (bench_streams){.grads = grads, .grad_count = world, .grad_bytes = grad_bytes};
  if (world > 1 || config->grad_dtype != ZERO1_DTYPE_FP32)
    bucket->first.sum = (uint32_t *)(uintptr_t)kept;
  bucket->second = (bench_streams){
      .grads = reads_again ? grads : sums,
      .grad_count = reads_again ? world : 1,
      .grad_bytes = reads_again ? grad_bytes : 4,
      .master_param = (uint32_t *)(void *)zero1__buffers_master(buffers, index),
      .exp_avg = (uint32_t *)(void *)zero1__buffers_state(buffers, &buffers->exp_avg, index),
      .exp_avg_sq = (uint32_t *)(void *)zero1__buffers_state(buffers, &buffers->exp_avg_sq, index),
      .param = config->param_dtype == ZERO1_DTYPE_BF16 ? zero1__buffers_param(buffers, shard.begin)
                                                       : NULL};
}

static int bytes_per_param(const bench_limit *limit) {
  const bench_streams *first = &limit->buckets->first, *second = &limit->buckets->second;
  const int reduce = first->grad_count * first->grad_bytes + (first->sum ? 4 : 0);
  const int update = second->grad_count * second->grad_bytes + 24 + (second->param ? 2 : 0);
  return (limit->two_passes ? reduce : 0) + update;
}

void bench_limit_open(bench_limit *limit, const bench_subject *subject,
                      const bench_options *options) {
  const zero1_optimizer *optimizer = subject->optimizer;
  const zero1__kernels *kernels;
  zero1__error error;
  zero1__error_clear(&error);
  *limit = (bench_limit){.bucket_count = optimizer->layout.bucket_count,
                         .two_passes = options->clip > 0 || !optimizer->channel->in_place,
                         .zero = (uint32_t)(subject->numel < 1)};
  zero1_status status = zero1__kernels_pick(&kernels, &error);
  if (!status)
    status = zero1__pool_create(optimizer->settings.config.threads, &limit->pool, &error);
  bench_require(!status, "the limit: %s", error.text);
  limit->loops = bench_loops_find(kernels->isa);
  const size_t count = (size_t)limit->bucket_count;
  limit->buckets = bench_alloc(count, sizeof *limit->buckets);
  limit->grads = bench_alloc(2 * count * (size_t)subject->world_size, sizeof *limit->grads);
  for (int64_t i = 0; i < limit->bucket_count; ++i) find_streams(limit, optimizer, i);
  limit->bytes_per_param = bytes_per_param(limit);
}

void bench_limit_close(bench_limit *limit) {
  zero1__pool_destroy(limit->pool);
  free(limit->buckets);
  free(limit->grads);
}

/* ---- running ---- */

typedef struct bench_pass {
  bench_limit *limit;
  int64_t begin, end; /* buckets; backwards where end is below */
  int second;
} bench_pass;

static void run_bucket(const bench_pass *pass, int64_t index, int32_t thread, int32_t threads) {
  enum { GRADS_MAX = 64 };
  bench_limit *limit = pass->limit;
  const bench_bucket *bucket = &limit->buckets[index];
  const int64_t begin = bucket->blocks * thread / threads;
  const int64_t end = bucket->blocks * (thread + 1) / threads, at = begin * ZERO1__BLOCK;
  bench_streams part = pass->second ? bucket->second : bucket->first;
  const void *grads[GRADS_MAX];
  bench_require(part.grad_count <= GRADS_MAX, "the limit is for up to %d ranks", GRADS_MAX);
  for (int32_t k = 0; k < part.grad_count; ++k)
    grads[k] = (const char *)part.grads[k] + at * part.grad_bytes;
  part.grads = grads;
  if (part.sum) part.sum += at;
  if (pass->second) {
    part.master_param += at;
    part.exp_avg += at;
    part.exp_avg_sq += at;
    if (part.param) part.param += at;
    limit->loops->update(&part, end - begin, limit->zero, limit->staged);
  } else {
    const uint32_t seen = limit->loops->reduce(&part, end - begin, limit->zero, limit->staged);
    if (seen) limit->sink = seen;
  }
}

static void run_part(void *context, int32_t thread, int32_t threads) {
  const bench_pass *pass = context;
  const int64_t by = pass->begin <= pass->end ? 1 : -1;
  for (int64_t i = pass->begin; i != pass->end; i += by) run_bucket(pass, i, thread, threads);
}

static void run_pass(bench_limit *limit, int second, int64_t begin, int64_t end) {
  const int64_t by = begin <= end ? 1 : -1;
  if (limit->whole) {
    bench_pass pass = {limit, begin, end, second};
    zero1__pool_run(limit->pool, run_part, &pass);
    return;
  }
  for (int64_t i = begin; i != end; i += by) {
    bench_pass pass = {limit, i, i + by, second};
    zero1__pool_run(limit->pool, run_part, &pass);
  }
}

/* Buckets in the step's own order. */
double bench_limit_run(bench_limit *limit) {
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  if (limit->two_passes) {
    run_pass(limit, 0, 0, limit->bucket_count);
    MPI_Barrier(MPI_COMM_WORLD); /* the verdict */
  }
  run_pass(limit, 1, limit->bucket_count - 1, -1);
  return bench_max(bench_ms_since(begin_ns));
}

void bench_limit_tune(bench_limit *limit) {
  enum { WAYS = 4, TRIES = 5 };
  double best[WAYS];
  int fastest = 0;
  for (int way = 0; way < WAYS; ++way) best[way] = INFINITY;
  for (int attempt = 0; attempt < TRIES; ++attempt) {
    for (int way = 0; way < WAYS; ++way) {
      limit->staged = way & 1;
      limit->whole = way >> 1;
      best[way] = fmin(best[way], bench_limit_run(limit));
    }
  }
  for (int way = 1; way < WAYS; ++way)
    if (best[way] < best[fastest]) fastest = way;
  limit->staged = fastest & 1;
  limit->whole = fastest >> 1;
}

const char *bench_limit_way(const bench_limit *limit) {
  if (limit->staged) return limit->whole ? "staged, whole shards" : "staged, bucket by bucket";
  return limit->whole ? "fused, whole shards" : "fused, bucket by bucket";
}
