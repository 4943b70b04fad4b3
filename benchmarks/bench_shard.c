#include "bench_shard.h"

#include <string.h>

#include "bench_require.h"
#include "clock.h"

int bench_case_bytes(const bench_case *which) {
  const int grads = which->contributions * (int)zero1__dtype_bytes(which->grad_dtype);
  const int sum = which->contributions > 1 ? 4 : 0;
  const int state = 24 + (which->param_dtype == ZERO1_DTYPE_BF16 ? 2 : 0);
  switch (which->pass) {
    case BENCH_REDUCE:
      return grads + sum;
    case BENCH_TWO_PASSES:
      return grads + grads + state;
    default:
      return grads + state;
  }
}

/* ---- values ---- */

/* Random signs and mantissas; exponents from 2^-8 to 2^-5, of exp_avg_sq from 2^-16 to 2^-13. */
float bench_shard_value(int array, int64_t element) {
  const int squared = array == BENCH_EXP_AVG_SQ;
  uint32_t x = (uint32_t)element * 2654435761u + (uint32_t)array * 0x9e3779b9u;
  x = (x ^ x >> 15) * 0x2c1b3c6du;
  x = (x ^ x >> 12) * 0x297a2d39u;
  x ^= x >> 15;
  const uint32_t exponent = (squared ? 111u : 119u) + (x >> 23 & 3u);
  const uint32_t bits = (x & (squared ? 0x007fffffu : 0x807fffffu)) | exponent << 23;
  return zero1__from_bits(bits);
}

int bench_shard_grads(zero1__dtype dtype) {
  return dtype == ZERO1_DTYPE_FP32 ? BENCH_GRADS_FP32 : BENCH_GRADS_BF16;
}

/* ---- filling, chunk by chunk ---- */

enum { CHUNK_BLOCKS = 4096, CHUNK = CHUNK_BLOCKS * ZERO1__BLOCK };

static void fill_chunk(void *to, int array, zero1__dtype dtype, int64_t begin, int64_t numel) {
  float *fp32 = to;
  uint16_t *bf16 = to;
  if (dtype == ZERO1_DTYPE_FP32)
    for (int64_t e = 0; e < numel; ++e) fp32[e] = bench_shard_value(array, begin + e);
  else
    for (int64_t e = 0; e < numel; ++e)
      bf16[e] = zero1__fp32_to_bf16(bench_shard_value(array, begin + e));
}

/* What reduce will find in 1, 2 and 4 contributions. */
static void expect_chunk(bench_shard *shard, zero1__dtype dtype, int32_t contributions,
                         const void *const *chunks, zero1__range blocks) {
  for (int32_t count = 1; count <= contributions; count *= 2) {
    const zero1__reduce_job job = {
        .layout = &shard->layout,
        .blocks = blocks,
        .sources = {.contributions = chunks, .count = count, .group = count, .dtype = dtype}};
    shard->kernels->reduce(&job, blocks, &shard->expected[dtype][count]);
  }
}

static void fill_grads(bench_shard *shard, zero1__dtype dtype, int32_t contributions) {
  const size_t bytes = zero1__dtype_bytes(dtype);
  void *chunks[BENCH_SOURCES];
  for (int32_t k = 0; k < contributions; ++k) chunks[k] = bench_alloc(CHUNK, bytes);
  for (int32_t k = 0; k <= BENCH_SOURCES; ++k) zero1__stats_clear(&shard->expected[dtype][k]);
  for (int64_t block = 0; block < shard->layout.used_blocks; block += CHUNK_BLOCKS) {
    const int64_t left = shard->layout.used_blocks - block;
    const zero1__range blocks = {block, block + (left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS)};
    const int64_t begin = block * ZERO1__BLOCK, numel = (blocks.end - block) * ZERO1__BLOCK;
    for (int32_t k = 0; k < contributions; ++k) {
      fill_chunk(chunks[k], bench_shard_grads(dtype) + k, dtype, begin, numel);
      shard->device->ops->transfer(shard->device, (char *)shard->grads[dtype][k] + begin * bytes,
                                   chunks[k], (size_t)numel * bytes);
    }
    expect_chunk(shard, dtype, contributions, (const void *const *)chunks, blocks);
  }
  for (int32_t k = 0; k < contributions; ++k) free(chunks[k]);
}

static void fill_state(bench_shard *shard) {
  float *const arrays[] = {shard->master_param, shard->exp_avg, shard->exp_avg_sq};
  float *chunk = bench_alloc(CHUNK, sizeof *chunk);
  for (int64_t begin = 0; begin < shard->numel; begin += CHUNK) {
    const int64_t left = shard->numel - begin, numel = left < CHUNK ? left : CHUNK;
    for (int i = 0; i < 3; ++i) {
      fill_chunk(chunk, BENCH_MASTER_PARAM + i, ZERO1_DTYPE_FP32, begin, numel);
      shard->device->ops->transfer(shard->device, arrays[i] + begin, chunk,
                                   (size_t)numel * sizeof *chunk);
    }
  }
  free(chunk);
}

/* ---- life ---- */

static void *take(bench_shard *shard, size_t bytes) {
  zero1__error error = {0};
  void *memory;
  const zero1_status status =
      shard->device->ops->memory_alloc(shard->device, bytes, &memory, &error);
  bench_require(!status, "%s", error.text);
  const int place = shard->owned_count++;
  bench_require(place < (int)(sizeof shard->owned / sizeof *shard->owned), "too many arrays");
  shard->owned[place].memory = memory;
  shard->owned[place].bytes = bytes;
  return memory;
}

static void *take_value(bench_shard *shard, const void *value, size_t bytes) {
  void *memory = take(shard, bytes);
  shard->device->ops->transfer(shard->device, memory, value, bytes);
  return memory;
}

static void take_tables(bench_shard *shard, zero1__dtype dtype, int32_t contributions) {
  const size_t count = (size_t)shard->layout.bucket_count * BENCH_SOURCES;
  const void **table = bench_alloc(count, sizeof *table);
  for (int64_t bucket = 0; bucket < shard->layout.bucket_count; ++bucket) {
    const int64_t begin = zero1__layout_bucket(&shard->layout, bucket).begin * ZERO1__BLOCK;
    for (int32_t k = 0; k < contributions; ++k)
      table[bucket * BENCH_SOURCES + k] =
          (const char *)shard->grads[dtype][k] + (size_t)begin * zero1__dtype_bytes(dtype);
  }
  shard->tables[dtype] = table;
  shard->visible[dtype] = take_value(shard, table, count * sizeof *table);
}

static void take_arrays(bench_shard *shard, const int32_t *contributions) {
  const size_t numel = (size_t)shard->numel;
  for (zero1__dtype dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1_DTYPE_BF16; ++dtype) {
    for (int32_t k = 0; k < contributions[dtype]; ++k)
      shard->grads[dtype][k] = take(shard, numel * zero1__dtype_bytes(dtype));
    take_tables(shard, dtype, contributions[dtype]);
  }
  shard->sum = take(shard, numel * sizeof *shard->sum);
  shard->master_param = take(shard, numel * sizeof *shard->master_param);
  shard->exp_avg = take(shard, numel * sizeof *shard->exp_avg);
  shard->exp_avg_sq = take(shard, numel * sizeof *shard->exp_avg_sq);
  shard->param = take(shard, numel * sizeof *shard->param);
}

static void take_scalars(bench_shard *shard) {
  zero1_group group;
  zero1_group_init(&group, sizeof group);
  shard->group_value = zero1__adam_scalars_make(&group, 10);
  shard->verdict_value = (zero1__verdict){0, 0.5f};
  shard->group = take_value(shard, &shard->group_value, sizeof shard->group_value);
  shard->verdict = take_value(shard, &shard->verdict_value, sizeof shard->verdict_value);
  shard->stats = take(shard, sizeof *shard->stats);
}

/* 10 elements in 3 tensors: 4, 3, 3. */
static void lay_out(bench_shard *shard, const bench_shard_options *options) {
  const size_t tensors = (size_t)options->tensors;
  int64_t *numel = bench_alloc(tensors, sizeof *numel);
  int32_t *group = bench_alloc(tensors, sizeof *group);
  uint32_t *flags = bench_alloc(tensors, sizeof *flags);
  zero1__error error = {0};
  for (int64_t i = 0; i < options->tensors; ++i)
    numel[i] = options->numel / options->tensors + (i < options->numel % options->tensors);
  const int64_t bucket_numel = options->bucket_numel ? options->bucket_numel : INT64_C(1) << 40;
  const zero1_status status = zero1__layout_create(1, bucket_numel, options->tensors, numel, group,
                                                   flags, &shard->layout, &error);
  bench_require(!status, "%s", error.text);
  shard->numel = shard->layout.trainable_blocks * ZERO1__BLOCK;
  free(flags);
  free(group);
  free(numel);
}

static void prepare_device(bench_shard *shard) {
  const zero1__device_ops *ops = shard->device->ops;
  zero1__error error = {0};
  bench_require(!zero1__kernels_pick(&shard->kernels, &error), "%s", error.text);
  const zero1_status layout =
      ops->set_layout ? ops->set_layout(shard->device, &shard->layout, &error) : ZERO1_OK;
  bench_require(!layout, "%s", error.text);
  const zero1_status stream =
      ops->stream_create(shard->device, ZERO1__STREAM_KERNELS, &shard->stream, &error);
  bench_require(!stream, "%s", error.text);
}

bool bench_shard_open(bench_shard *shard, const bench_shard_options *options, zero1__error *error) {
  const zero1__device_config config = {
      .kind = options->device, .index = -1, .threads = options->threads, .stream = NULL};
  memset(shard, 0, sizeof *shard);
  const zero1_status status = zero1__device_create(&config, &shard->device, error);
  if (status == ZERO1_ERR_NO_DEVICE || status == ZERO1_ERR_UNSUPPORTED) return false;
  bench_require(!status, "%s", error->text);
  lay_out(shard, options);
  prepare_device(shard);
  take_arrays(shard, options->contributions);
  take_scalars(shard);
  for (zero1__dtype dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1_DTYPE_BF16; ++dtype)
    fill_grads(shard, dtype, options->contributions[dtype]);
  fill_state(shard);
  return true;
}

void bench_shard_close(bench_shard *shard) {
  const zero1__device_ops *ops = shard->device->ops;
  ops->stream_destroy(shard->device, shard->stream);
  for (int i = 0; i < shard->owned_count; ++i)
    ops->memory_free(shard->device, shard->owned[i].memory, shard->owned[i].bytes);
  ops->destroy(shard->device);
  for (int dtype = 0; dtype < 2; ++dtype) free(shard->tables[dtype]);
  zero1__layout_destroy(&shard->layout);
}

/* ---- passes ---- */

static zero1__sources sources_of(const bench_shard *shard, const bench_case *which,
                                 int64_t bucket) {
  const int64_t at = bucket * BENCH_SOURCES;
  return (zero1__sources){.contributions = shard->tables[which->grad_dtype] + at,
                          .visible = shard->visible[which->grad_dtype] + at,
                          .count = which->contributions,
                          .group = which->contributions,
                          .dtype = which->grad_dtype};
}

static void reduce(bench_shard *shard, const bench_case *which, int64_t bucket) {
  const zero1__range blocks = zero1__layout_bucket(&shard->layout, bucket);
  const int sums = which->pass == BENCH_REDUCE && which->contributions > 1;
  const zero1__reduce_job job = {.layout = &shard->layout,
                                 .blocks = blocks,
                                 .sources = sources_of(shard, which, bucket),
                                 .out = sums ? shard->sum + blocks.begin * ZERO1__BLOCK : NULL,
                                 .stats = shard->stats};
  shard->device->ops->reduce(shard->device, shard->stream, &job, NULL);
}

static void update(bench_shard *shard, const bench_case *which, int64_t bucket) {
  const zero1__range blocks = zero1__layout_bucket(&shard->layout, bucket);
  const int64_t at = blocks.begin * ZERO1__BLOCK;
  const int bf16 = which->param_dtype == ZERO1_DTYPE_BF16;
  const zero1__update_job job = {
      .layout = &shard->layout,
      .blocks = blocks,
      .sources = sources_of(shard, which, bucket),
      .verdict = shard->verdict,
      .groups = shard->group,
      .master_param = shard->master_param + at,
      .exp_avg = shard->exp_avg + at,
      .exp_avg_sq = shard->exp_avg_sq + at,
      .param = bf16 ? (void *)(shard->param + at) : (void *)(shard->master_param + at),
      .param_dtype = which->param_dtype,
      .stats = which->pass == BENCH_ONE_PASS ? shard->stats : NULL};
  shard->device->ops->update(shard->device, shard->stream, &job, NULL);
}

static void enqueue(bench_shard *shard, const bench_case *which) {
  const int64_t buckets = shard->layout.bucket_count;
  if (which->pass == BENCH_REDUCE || which->pass == BENCH_TWO_PASSES)
    for (int64_t bucket = 0; bucket < buckets; ++bucket) reduce(shard, which, bucket);
  if (which->pass != BENCH_REDUCE)
    for (int64_t bucket = 0; bucket < buckets; ++bucket) update(shard, which, bucket);
}

int64_t bench_shard_launches(const bench_shard *shard, const bench_case *which) {
  return shard->layout.bucket_count * (which->pass == BENCH_TWO_PASSES ? 2 : 1);
}

/* Several, so that the time between two enqueued calls counts for nothing. */
static void copy(bench_shard *shard) {
  const zero1__device_ops *ops = shard->device->ops;
  const size_t bytes = (size_t)shard->numel * sizeof(float);
  for (int k = 0; k < BENCH_SOURCES; ++k) {
    const void *from = shard->grads[ZERO1_DTYPE_FP32][k];
    if (ops->copy)
      ops->copy(shard->device, shard->stream, shard->sum, from, bytes);
    else
      memcpy(shard->sum, from, bytes);
  }
}

/* A case, or with NULL the copy. */
static double timed(bench_shard *shard, const bench_case *which) {
  const zero1__device_ops *ops = shard->device->ops;
  zero1__error error = {0};
  int64_t elapsed_ns = 0;
  ops->stream_sync(shard->device, shard->stream);
  const int64_t begin_ns = zero1__now_ns();
  if (ops->time_begin) ops->time_begin(shard->device, shard->stream, &elapsed_ns);
  if (which)
    enqueue(shard, which);
  else
    copy(shard);
  if (ops->time_end) ops->time_end(shard->device, shard->stream);
  ops->stream_sync(shard->device, shard->stream);
  if (ops->times)
    ops->times(shard->device);
  else
    elapsed_ns = zero1__now_ns() - begin_ns;
  if (ops->check) bench_require(!ops->check(shard->device, &error), "%s", error.text);
  return (double)elapsed_ns * 1e-6;
}

double bench_shard_run(bench_shard *shard, const bench_case *which) {
  return timed(shard, which);
}

int64_t bench_shard_copy_bytes(const bench_shard *shard) {
  return shard->numel * (int64_t)(2 * sizeof(float) * BENCH_SOURCES);
}

double bench_shard_copy(bench_shard *shard) {
  return timed(shard, NULL);
}
