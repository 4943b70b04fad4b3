// devices: standin cuda
// sanitizers: address undefined
// cost: 3

/* The kernels of a device that has memory of its own, against the host's baseline kernels: every
 * byte that a job writes, the padding that it must not touch, and what it finds out. */
#include "device.h"
#include "device_ops.h"
#include "kernel_case.h"

/* ---- a case on the device ---- */

/* What a job points to besides arrays. */
typedef struct numbers {
  zero1__stats stats;
  zero1__verdict verdict;
  zero1__adam_scalars groups[2];
  uint64_t hash;
  int32_t lost;
} numbers;

typedef struct mirror {
  kernel_case *host; /* its arrays are what the device's are copied from and back to */
  zero1__device *device;
  zero1__stream *stream;
  char *memory;
  numbers *numbers;
  const void **visible;                        /* [count] memory of the device */
  const void *contributions[CASE_SOURCES_MAX]; /* the same table on the host */
} mirror;

static void *device_alloc(const mirror *m, size_t bytes) {
  void *memory;
  zero1__error error = {0};
  CHECK_STATUS(m->device->ops->memory_alloc(m->device, bytes, &memory, &error), ZERO1_OK);
  return memory;
}

static void transfer(const mirror *m, void *to, const void *from, size_t bytes) {
  m->device->ops->transfer(m->device, to, from, bytes);
}

/* Where the device has what the case has at `memory`. */
static void *on_device(const mirror *m, const void *memory) {
  return m->memory + ((const char *)memory - m->host->memory);
}

static void mirror_begin(mirror *m, kernel_case *c) {
  const zero1__device_config config = {.kind = ZERO1_DEVICE_CUDA, .index = -1, .threads = 1};
  zero1__error error = {0};
  *m = (mirror){.host = c};
  CHECK_STATUS(zero1__device_create(&config, &m->device, &error), ZERO1_OK);
  CHECK_STATUS(m->device->ops->stream_create(m->device, ZERO1__STREAM_KERNELS, &m->stream, &error),
               ZERO1_OK);
  CHECK_STATUS(m->device->ops->set_layout(m->device, &c->layout, &error), ZERO1_OK);
  m->memory = device_alloc(m, c->memory_bytes);
  m->numbers = device_alloc(m, sizeof *m->numbers);
  m->visible = device_alloc(m, sizeof m->contributions);
  for (int32_t k = 0; k < c->options.count; ++k)
    m->contributions[k] = on_device(m, c->contributions[k]);
  const numbers start = {
      .stats = c->stats, .verdict = c->verdict, .groups = {c->groups[0], c->groups[1]}, .hash = 5};
  transfer(m, m->memory, c->memory, c->memory_bytes);
  transfer(m, m->numbers, &start, sizeof start);
  transfer(m, m->visible, m->contributions, sizeof m->contributions);
}

/* The case has what the device has come to. */
static numbers mirror_read(mirror *m) {
  numbers end;
  zero1__error error = {0};
  m->device->ops->stream_sync(m->device, m->stream);
  CHECK_STATUS(m->device->ops->check(m->device, &error), ZERO1_OK);
  transfer(m, m->host->memory, m->memory, m->host->memory_bytes);
  transfer(m, &end, m->numbers, sizeof end);
  zero1__exact_sum_carry(&end.stats.squares);
  m->host->stats = end.stats;
  return end;
}

static void mirror_end(mirror *m) {
  m->device->ops->memory_free(m->device, m->memory, m->host->memory_bytes);
  m->device->ops->memory_free(m->device, m->numbers, sizeof *m->numbers);
  m->device->ops->memory_free(m->device, m->visible, sizeof m->contributions);
  m->device->ops->stream_destroy(m->device, m->stream);
  m->device->ops->destroy(m->device);
}

static zero1__sources mirror_sources(const mirror *m) {
  zero1__sources sources = case_sources(m->host);
  sources.contributions = m->contributions;
  sources.visible = m->visible;
  return sources;
}

/* ---- reduce ---- */

/* How a job is asked for. */
enum { PLAIN, PARTIAL, STATS_ALONE, IN_PLACE, LOST, REDUCE_WAYS };

static zero1__reduce_job reduce_job(kernel_case *c, int way) {
  zero1__reduce_job job = case_reduce_job(c);
  if (way == PARTIAL) job.partial = 1;
  if (way == STATS_ALONE) job.out = NULL;
  if (way == IN_PLACE) job.out = (float *)(uintptr_t)c->contributions[c->options.count / 2];
  return job;
}

static void reduce_on_device(mirror *m, int way) {
  zero1__reduce_job job = reduce_job(m->host, way);
  const numbers lost = {.lost = 1};
  if (way == LOST) transfer(m, &m->numbers->lost, &lost.lost, sizeof lost.lost);
  job.sources = mirror_sources(m);
  if (job.out) job.out = on_device(m, job.out);
  job.stats = &m->numbers->stats;
  job.lost = &m->numbers->lost;
  m->device->ops->reduce(m->device, m->stream, &job, NULL);
}

static void check_reduce(case_options options, int way) {
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  kernel_case expected = case_create(options), c = case_create(options);
  mirror m;
  if (way != LOST) {
    const zero1__reduce_job job = reduce_job(&expected, way);
    kernels[isa_count - 1]->reduce(&job, expected.blocks, &expected.stats);
  }
  mirror_begin(&m, &c);
  reduce_on_device(&m, way);
  mirror_read(&m);
  CHECK(case_same(&c, &expected));
  mirror_end(&m);
  case_destroy(&c);
  case_destroy(&expected);
}

/* 1 to 9 contributions, in groups of every size that divides them. */
static void reduce_is_the_hosts_to_the_bit(void) {
  for (int32_t count = 1; count <= 9; ++count)
    for (int32_t group = 1; group <= count; ++group) {
      if (count % group) continue;
      for (int32_t dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1__DTYPE_FP32_AS_BF16; ++dtype) {
        const uint64_t seed = (uint64_t)(count * 100 + group * 10 + dtype);
        const case_options options = {seed, count, group, 3 * (count % 2), dtype, 0, group == 1, 0};
        check_reduce(options, PLAIN);
      }
    }
}

static void every_way_of_asking_for_sums_is_the_hosts(void) {
  for (int way = PARTIAL; way < REDUCE_WAYS; ++way)
    for (int32_t count = 1; count <= 5; count += 2)
      for (int32_t dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1__DTYPE_FP32_AS_BF16; ++dtype) {
        const case_options options = {
            (uint64_t)(way * 10 + count), count, count, 0, dtype, 0, 0, 0};
        if (way == IN_PLACE && dtype == ZERO1_DTYPE_BF16) continue;
        check_reduce(options, way);
      }
}

static void partial_sums_name_nobody(void) {
  const case_options options = {77, 4, 2, -1, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 0, 0};
  check_reduce(options, PLAIN);
}

/* ---- update ---- */

/* A part of the case's blocks: the job's pointers are to its first one. */
static zero1__update_job update_job(const mirror *m, zero1__range blocks, int stats, int absent) {
  kernel_case *c = m->host;
  const int64_t at = blocks.begin * ZERO1__BLOCK;
  const size_t param_at = (size_t)at * zero1__dtype_bytes(c->options.param_dtype);
  zero1__update_job job = case_update_job(c);
  job.blocks = blocks;
  job.sources = mirror_sources(m);
  job.verdict = &m->numbers->verdict;
  job.groups = m->numbers->groups;
  job.absent = absent ? on_device(m, c->absent) : NULL;
  job.master_param = (float *)on_device(m, c->master_param) + at;
  job.exp_avg = (float *)on_device(m, c->exp_avg) + at;
  job.exp_avg_sq = (float *)on_device(m, c->exp_avg_sq) + at;
  job.param = (char *)on_device(m, c->param) + param_at;
  job.stats = stats ? &m->numbers->stats : NULL;
  return job;
}

static void update_on_device(const mirror *m, int stats, int absent) {
  const zero1__update_job job = update_job(m, m->host->blocks, stats, absent);
  m->device->ops->update(m->device, m->stream, &job, NULL);
}

static void update_on_host(kernel_case *c, int stats, int absent) {
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  zero1__update_job job = case_update_job(c);
  if (!stats) job.stats = NULL;
  if (!absent) job.absent = NULL;
  kernels[isa_count - 1]->update(&job, c->blocks, job.stats);
}

static void check_update(case_options options, int stats, int absent, int skip) {
  kernel_case expected = case_create(options), c = case_create(options);
  mirror m;
  c.verdict.skip = expected.verdict.skip = skip;
  update_on_host(&expected, stats, absent);
  mirror_begin(&m, &c);
  update_on_device(&m, stats, absent);
  mirror_read(&m);
  CHECK(case_same(&c, &expected));
  mirror_end(&m);
  case_destroy(&c);
  case_destroy(&expected);
}

static void update_is_the_hosts_to_the_bit(void) {
  for (int32_t count = 1; count <= 9; ++count)
    for (int32_t dtypes = 0; dtypes < 9; ++dtypes) {
      const case_options options = {.seed = (uint64_t)(count * 10 + dtypes),
                                    .count = count,
                                    .group = count % 2 ? count : 2,
                                    .grad_dtype = dtypes % 3,
                                    .param_dtype = dtypes / 3,
                                    .tame = count == 3};
      check_update(options, 1, 1, 0);
      check_update(options, 0, dtypes == 1, 0);
    }
}

static void a_skipped_update_touches_nothing(void) {
  for (int32_t count = 1; count <= 2; ++count) {
    const case_options options = {.seed = 5, .count = count, .group = count, .param_dtype = 1};
    check_update(options, 1, 1, 1);
  }
}

/* Blocks begin, begin + 1, ... of a job whose arrays start in the middle of the layout, and of a
 * parameter. */
static void jobs_of_any_range_come_to_the_same_bytes(void) {
  for (int32_t bf16 = 0; bf16 < 2; ++bf16) {
    const case_options options = {
        .seed = 6, .count = 1, .group = 1, .grad_dtype = bf16, .param_dtype = bf16};
    kernel_case expected = case_create(options), c = case_create(options);
    random_state random = {3};
    mirror m;
    update_on_host(&expected, 1, 1);
    mirror_begin(&m, &c);
    const char *const grads = (const char *)m.contributions[0];
    for (int64_t begin = 0; begin < c.blocks.end;) {
      int64_t end = begin + (int64_t)(random_bits(&random) % 40); /* empty ones, too */
      if (end > c.blocks.end) end = c.blocks.end;
      m.contributions[0] =
          grads + (size_t)(begin * ZERO1__BLOCK) * zero1__dtype_bytes(options.grad_dtype);
      transfer(&m, m.visible, m.contributions, sizeof m.contributions);
      const zero1__update_job job = update_job(&m, (zero1__range){begin, end}, 1, 1);
      m.device->ops->update(m.device, m.stream, &job, NULL);
      m.device->ops->stream_sync(m.device, m.stream); /* the table is written again */
      begin = end;
    }
    mirror_read(&m);
    CHECK(case_same(&c, &expected));
    mirror_end(&m);
    case_destroy(&c);
    case_destroy(&expected);
  }
}

/* What the comparisons above rest on. */
static void one_bit_in_one_gradient_is_noticed(void) {
  const case_options options = {.seed = 9, .count = 2, .group = 2, .tame = 1};
  kernel_case expected = case_create(options), c = case_create(options);
  mirror m;
  update_on_host(&expected, 1, 1);
  mirror_begin(&m, &c);
  uint32_t bits;
  char *const at =
      (char *)(uintptr_t)m.contributions[1] + (size_t)150 * ZERO1__BLOCK * sizeof(float);
  transfer(&m, &bits, at, sizeof bits);
  bits ^= 0x400000;
  transfer(&m, at, &bits, sizeof bits);
  update_on_device(&m, 1, 1);
  mirror_read(&m);
  memcpy(c.memory, expected.memory, c.grads_bytes); /* the difference that was put in */
  CHECK(!case_same(&c, &expected));
  CHECK(memcmp(&c.stats.squares, &expected.stats.squares, sizeof c.stats.squares) != 0);
  mirror_end(&m);
  case_destroy(&c);
  case_destroy(&expected);
}

/* ---- master, round, hash ---- */

/* Some parameters are no longer what their masters round to. */
static void change_params(kernel_case *c) {
  uint16_t *const param = c->param;
  uint32_t *const fp32 = c->param; /* the lower bits, too */
  for (int64_t e = 0; e < c->numel && c->options.param_dtype == ZERO1_DTYPE_BF16; e += 3)
    param[e] ^= (uint16_t)(e % 5);
  for (int64_t e = 0; e < c->numel && c->options.param_dtype == ZERO1__DTYPE_FP32_AS_BF16; e += 3)
    fp32[e] ^= (uint32_t)(e % 5) << (e % 2 ? 0 : 16);
}

static void check_master(int32_t param_dtype, int32_t keep) {
  const case_options options = {.seed = 11, .count = 1, .group = 1, .param_dtype = param_dtype};
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  kernel_case expected = case_create(options), c = case_create(options);
  mirror m;
  change_params(&expected);
  change_params(&c);
  zero1__master_job job = {&expected.layout, expected.blocks,       expected.param,
                           param_dtype,      expected.master_param, keep};
  kernels[isa_count - 1]->master(&job, job.blocks);
  mirror_begin(&m, &c);
  job.layout = &c.layout;
  job.param = on_device(&m, c.param);
  job.master_param = on_device(&m, c.master_param);
  m.device->ops->master(m.device, m.stream, &job);
  mirror_read(&m);
  CHECK(case_same(&c, &expected));
  mirror_end(&m);
  case_destroy(&c);
  case_destroy(&expected);
}

static void masters_are_the_hosts_to_the_bit(void) {
  for (int32_t keep = 0; keep < 2; ++keep) {
    check_master(ZERO1_DTYPE_BF16, keep);
    check_master(ZERO1_DTYPE_FP32, keep);
    check_master(ZERO1__DTYPE_FP32_AS_BF16, keep);
  }
}

static void rounded_params_are_the_hosts_to_the_bit(void) {
  const case_options options = {.seed = 12, .count = 1, .group = 1};
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  kernel_case expected = case_create(options), c = case_create(options);
  float *const param = (float *)(uintptr_t)expected.contributions[0]; /* numbers of every kind */
  mirror m;
  zero1__round_job job = {&expected.layout, expected.blocks, param};
  kernels[isa_count - 1]->round_params(&job, job.blocks);
  mirror_begin(&m, &c);
  job.layout = &c.layout;
  job.param = on_device(&m, c.contributions[0]);
  m.device->ops->round_params(m.device, m.stream, &job);
  mirror_read(&m);
  CHECK(case_same(&c, &expected));
  mirror_end(&m);
  case_destroy(&c);
  case_destroy(&expected);
}

/* Whatever its begin and end: from the first gradient, whose padding is elements here. */
static void hashes_are_the_hosts_to_the_bit(void) {
  const zero1__range ranges[] = {{0, 1},     {0, 0},        {1, 7},   {255, 257},
                                 {0, 40000}, {3000, 30001}, {13, 14}, {8, 4096}};
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  const case_options options = {.seed = 13, .count = 1, .group = 1};
  kernel_case c = case_create(options);
  mirror m;
  mirror_begin(&m, &c);
  uint64_t expected = 5; /* it is added to */
  for (int32_t dtype = ZERO1_DTYPE_FP32; dtype <= ZERO1_DTYPE_BF16; ++dtype)
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; ++i) {
      zero1__hash_job job = {c.contributions[0], dtype, ranges[i], NULL};
      expected += kernels[isa_count - 1]->hash(&job, job.elements);
      job.data = m.contributions[0];
      job.hash = &m.numbers->hash;
      m.device->ops->hash(m.device, m.stream, &job);
    }
  CHECK(mirror_read(&m).hash == expected);
  mirror_end(&m);
  case_destroy(&c);
}

int main(void) {
  device_skip_without();
  RUN(reduce_is_the_hosts_to_the_bit);
  RUN(every_way_of_asking_for_sums_is_the_hosts);
  RUN(partial_sums_name_nobody);
  RUN(update_is_the_hosts_to_the_bit);
  RUN(a_skipped_update_touches_nothing);
  RUN(jobs_of_any_range_come_to_the_same_bytes);
  RUN(one_bit_in_one_gradient_is_noticed);
  RUN(masters_are_the_hosts_to_the_bit);
  RUN(rounded_params_are_the_hosts_to_the_bit);
  RUN(hashes_are_the_hosts_to_the_bit);
  return check_summary();
}
