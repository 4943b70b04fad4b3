#include "bench_sample.h"

#include <inttypes.h>
#include <string.h>

#include "bench_require.h"

enum { SAMPLE_BLOCKS = 48 };

void bench_sample_open(bench_sample *sample, bench_shard *shard) {
  const int64_t all = shard->layout.used_blocks;
  const int64_t count = all < SAMPLE_BLOCKS ? all : SAMPLE_BLOCKS;
  *sample = (bench_sample){shard, count, bench_alloc((size_t)count, sizeof *sample->blocks)};
  for (int64_t i = 0; i < count; ++i) {
    /* one in each of `count` equal parts, at random but in the first and the last */
    const int64_t begin = i * all / count, end = (i + 1) * all / count;
    const int64_t random = (int64_t)(zero1__mix((uint64_t)i, 1) >> 1) % (end - begin);
    sample->blocks[i].block = i == 0 ? 0 : i == count - 1 ? all - 1 : begin + random;
  }
}

void bench_sample_close(bench_sample *sample) {
  free(sample->blocks);
}

/* ---- memory of the device ---- */

/* An array of which a pass rewrites elements, with the sample's copy of one block. */
typedef struct sampled_array {
  const char *name;
  char *device;
  void *mine;
  size_t element_bytes;
} sampled_array;

/* Those that a case writes; the count of them. */
static int written_by(const bench_shard *shard, const bench_case *which, bench_sample_block *block,
                      sampled_array arrays[4]) {
  if (which->pass == BENCH_REDUCE) {
    arrays[0] = (sampled_array){"sum", (char *)shard->sum, block->sum, 4};
    return which->contributions > 1;
  }
  arrays[0] = (sampled_array){"master_param", (char *)shard->master_param, block->master_param, 4};
  arrays[1] = (sampled_array){"exp_avg", (char *)shard->exp_avg, block->exp_avg, 4};
  arrays[2] = (sampled_array){"exp_avg_sq", (char *)shard->exp_avg_sq, block->exp_avg_sq, 4};
  arrays[3] = (sampled_array){"param", (char *)shard->param, block->param, 2};
  return which->param_dtype == ZERO1_DTYPE_BF16 ? 4 : 3;
}

static char *place_of(const sampled_array *array, const bench_sample_block *block) {
  return array->device + (size_t)(block->block * ZERO1__BLOCK) * array->element_bytes;
}

/* What is only written, and never read, has to be written by this pass, not by one before. */
static void poison(bench_shard *shard, const sampled_array *array,
                   const bench_sample_block *block) {
  unsigned char bytes[ZERO1__BLOCK * sizeof(float)];
  memset(bytes, 0xa5, sizeof bytes);
  shard->device->ops->transfer(shard->device, place_of(array, block), bytes,
                               ZERO1__BLOCK * array->element_bytes);
}

/* ---- what should be ---- */

static void fill_grads(const bench_case *which, const bench_sample_block *block, float *grads) {
  const size_t bytes = zero1__dtype_bytes(which->grad_dtype);
  for (int32_t k = 0; k < which->contributions; ++k)
    for (int64_t e = 0; e < ZERO1__BLOCK; ++e) {
      const float value = bench_shard_value(bench_shard_grads(which->grad_dtype) + k,
                                            block->block * ZERO1__BLOCK + e);
      const uint16_t narrow = zero1__fp32_to_bf16(value);
      memcpy((char *)(grads + k * ZERO1__BLOCK) + (size_t)e * bytes,
             bytes == 4 ? (const void *)&value : (const void *)&narrow, bytes);
    }
}

/* Block's copies, as they are before the pass, become what they will be after it. */
static void expect(const bench_shard *shard, const bench_case *which, bench_sample_block *block) {
  float grads[BENCH_SOURCES * ZERO1__BLOCK];
  const void *contributions[BENCH_SOURCES];
  zero1__stats stats;
  fill_grads(which, block, grads);
  for (int k = 0; k < BENCH_SOURCES; ++k) contributions[k] = grads + k * ZERO1__BLOCK;
  const zero1__range blocks = {block->block, block->block + 1};
  const zero1__sources sources = {.contributions = contributions,
                                  .count = which->contributions,
                                  .group = which->contributions,
                                  .dtype = which->grad_dtype};
  zero1__stats_clear(&stats);
  const zero1__reduce_job reduce = {.layout = &shard->layout,
                                    .blocks = blocks,
                                    .sources = sources,
                                    .out = block->sum,
                                    .stats = &stats};
  const int bf16 = which->param_dtype == ZERO1_DTYPE_BF16;
  const zero1__update_job update = {
      .layout = &shard->layout,
      .blocks = blocks,
      .sources = sources,
      .verdict = &shard->verdict_value,
      .groups = &shard->group_value,
      .master_param = block->master_param,
      .exp_avg = block->exp_avg,
      .exp_avg_sq = block->exp_avg_sq,
      .param = bf16 ? (void *)block->param : (void *)block->master_param,
      .param_dtype = which->param_dtype};
  if (which->pass == BENCH_REDUCE)
    shard->kernels->reduce(&reduce, blocks, &stats);
  else
    shard->kernels->update(&update, blocks, NULL);
}

void bench_sample_before(bench_sample *sample, const bench_case *which) {
  bench_shard *shard = sample->shard;
  zero1__stats stats;
  for (int64_t i = 0; i < sample->count; ++i) {
    bench_sample_block *block = &sample->blocks[i];
    sampled_array arrays[4];
    const int count = written_by(shard, which, block, arrays);
    for (int k = 0; k < count; ++k) {
      if (which->pass == BENCH_REDUCE || k == 3)
        poison(shard, &arrays[k], block);
      else
        shard->device->ops->transfer(shard->device, arrays[k].mine, place_of(&arrays[k], block),
                                     ZERO1__BLOCK * arrays[k].element_bytes);
    }
    expect(shard, which, block);
  }
  zero1__stats_clear(&stats);
  shard->device->ops->transfer(shard->device, shard->stats, &stats, sizeof stats);
}

/* ---- what is ---- */

static void compare(const bench_shard *shard, const bench_case *which, const sampled_array *array,
                    const bench_sample_block *block) {
  unsigned char found[ZERO1__BLOCK * sizeof(float)];
  const zero1__range blocks = {block->block, block->block + 1};
  const int64_t numel = zero1__layout_numel(&shard->layout, blocks);
  const size_t each = array->element_bytes;
  shard->device->ops->transfer(shard->device, found, place_of(array, block), ZERO1__BLOCK * each);
  for (int64_t e = 0; e < numel; ++e) {
    uint32_t is = 0, should_be = 0;
    memcpy(&is, found + (size_t)e * each, each);
    memcpy(&should_be, (const char *)array->mine + (size_t)e * each, each);
    bench_require(is == should_be,
                  "wrong result: %s: %s of element %" PRId64 " of block %" PRId64 " is 0x%" PRIx32
                  ", not 0x%" PRIx32,
                  which->name, array->name, e, block->block, is, should_be);
  }
}

static void compare_stats(const bench_shard *shard, const bench_case *which) {
  const zero1__stats *should_be = &shard->expected[which->grad_dtype][which->contributions];
  zero1__stats found;
  if (which->pass == BENCH_UPDATE) return;
  shard->device->ops->transfer(shard->device, &found, shard->stats, sizeof found);
  zero1__exact_sum_carry(&found.squares); /* devices add limbs one by one */
  bench_require(!memcmp(&found, should_be, sizeof found),
                "wrong result: %s: the sum of squares is %.17g, not %.17g, or it counts %" PRId64
                " non-finite elements, not %" PRId64,
                which->name, zero1__exact_sum_to_double(&found.squares),
                zero1__exact_sum_to_double(&should_be->squares), found.nonfinite_numel,
                should_be->nonfinite_numel);
}

void bench_sample_after(const bench_sample *sample, const bench_case *which) {
  for (int64_t i = 0; i < sample->count; ++i) {
    sampled_array arrays[4];
    const int count = written_by(sample->shard, which, &sample->blocks[i], arrays);
    for (int k = 0; k < count; ++k) compare(sample->shard, which, &arrays[k], &sample->blocks[i]);
  }
  compare_stats(sample->shard, which);
}
