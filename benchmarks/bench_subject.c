#include "bench_subject.h"

#include <inttypes.h>
#include <math.h>

#include "bench_arguments.h"
#include "bench_series.h"
#include "bench_world.h"
#include "rules.h"

/* ---- tensors: 10 elements in 3 tensors begin at 0, 4, 7 ---- */

int64_t bench_tensor_begin(const bench_subject *subject, int64_t index) {
  const int64_t each = subject->numel / subject->tensors, more = subject->numel % subject->tensors;
  return index * each + (index < more ? index : more);
}

int64_t bench_tensor_at(const bench_subject *subject, int64_t flat) {
  int64_t index = flat / (subject->numel / subject->tensors);
  if (index >= subject->tensors) index = subject->tensors - 1;
  while (bench_tensor_begin(subject, index) > flat) --index;
  return index;
}

/* ---- values: a whole number from -128 to 127 over a power of two ---- */

static float scattered(uint32_t seed, int64_t flat) {
  uint32_t x = (uint32_t)flat * 2654435761u + seed * 0x9e3779b9u;
  x = (x ^ x >> 15) * 0x2c1b3c6du;
  return (float)(int8_t)(x >> 24);
}

float bench_initial_param(int64_t flat) {
  return scattered(12345, flat) * 0x1p-9f;
}

float bench_initial_grad(int rank, int64_t flat) {
  return scattered((uint32_t)rank, flat) * 0x1p-7f;
}

float bench_load(const void *array, int64_t at, int64_t dtype) {
  if (dtype == ZERO1_DTYPE_FP32) return ((const float *)array)[at];
  return zero1__bf16_to_fp32(((const uint16_t *)array)[at]);
}

void bench_store(void *array, int64_t at, int64_t dtype, float value) {
  if (dtype == ZERO1_DTYPE_FP32)
    ((float *)array)[at] = value;
  else
    ((uint16_t *)array)[at] = zero1__fp32_to_bf16(value);
}

static void fill(bench_subject *subject) {
  for (int64_t i = 0; i < subject->tensors; ++i) {
    const int64_t begin = bench_tensor_begin(subject, i);
    const int64_t numel = bench_tensor_begin(subject, i + 1) - begin;
    for (int64_t e = 0; e < numel; ++e)
      bench_store(subject->grads[i], e, subject->grad_dtype,
                  bench_initial_grad(subject->rank, begin + e));
    for (int64_t e = 0; subject->rank == 0 && e < numel; ++e)
      bench_store(subject->params[i], e, subject->param_dtype, bench_initial_param(begin + e));
  }
}

/* ---- life ---- */

static void open_comm(bench_subject *subject, const bench_options *options) {
  char text[512] = "";
  zero1_comm_options comm;
  zero1_comm_options_init(&comm, sizeof comm);
  comm.ranks_per_node = (int32_t)options->ranks_per_node;
  comm.error_text = text;
  comm.error_bytes = sizeof text;
  const zero1_status status =
      zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &comm, &subject->comm);
  bench_require(!status, "rank %d: no communicator: %s", subject->rank, text);
}

static zero1_config config_of(const bench_subject *subject, const bench_options *options) {
  zero1_config config;
  zero1_config_init(&config, sizeof config);
  config.param_dtype = (int32_t)options->param_dtype;
  config.grad_dtype = (int32_t)options->grad_dtype;
  config.param_wire_dtype = options->param_wire ? ZERO1_WIRE_BF16 : ZERO1_WIRE_AS_IN_MEMORY;
  config.grad_wire_dtype = options->grad_wire ? ZERO1_WIRE_BF16 : ZERO1_WIRE_AS_IN_MEMORY;
  config.share_params = (int32_t)options->share_params;
  config.overlap = (int32_t)options->overlap;
  config.threads = (int32_t)options->threads;
  config.max_grad_norm = options->clip;
  config.guard = options->clip > 0;
  config.groups = &subject->group;
  config.group_bytes = sizeof subject->group;
  config.group_count = 1;
  if (options->bucket_numel) config.bucket_numel = options->bucket_numel;
  return config;
}

static double create_once(bench_subject *subject, const zero1_config *config,
                          const zero1_param_spec *specs) {
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  const zero1_status status = zero1_optimizer_create(subject->comm, config, specs, sizeof *specs,
                                                     subject->tensors, &subject->optimizer);
  const double create_ms = bench_max(bench_ms_since(begin_ns));
  bench_require(!status, "rank %d: no optimizer: %s", subject->rank,
                zero1_comm_last_error(subject->comm));
  return create_ms;
}

static void create(bench_subject *subject, const zero1_config *config, int64_t times) {
  enum { NAME_BYTES = 32 };
  const size_t tensors = (size_t)subject->tensors;
  zero1_param_spec *specs = bench_alloc(tensors, sizeof *specs);
  int64_t *shapes = bench_alloc(tensors, sizeof *shapes);
  char *names = bench_alloc(tensors, NAME_BYTES);
  for (int64_t i = 0; i < subject->tensors; ++i) {
    shapes[i] = bench_tensor_begin(subject, i + 1) - bench_tensor_begin(subject, i);
    snprintf(names + i * NAME_BYTES, NAME_BYTES, "tensor%" PRId64, i);
    specs[i] = (zero1_param_spec){.name = names + i * NAME_BYTES, .shape = &shapes[i], .ndim = 1};
  }
  bench_series series = {times, bench_alloc((size_t)times, sizeof *series.values)};
  for (int64_t i = 0; i < times; ++i) {
    zero1_optimizer_destroy(&subject->optimizer); /* the one before */
    series.values[i] = create_once(subject, config, specs);
  }
  subject->create_ms = bench_series_quartiles(&series).median;
  free(series.values);
  free(names);
  free(shapes);
  free(specs);
}

void bench_subject_open(bench_subject *subject, const bench_options *options) {
  *subject = (bench_subject){.numel = options->numel,
                             .tensors = options->tensors,
                             .param_dtype = options->param_dtype,
                             .grad_dtype = options->grad_dtype,
                             .param_wire = options->param_wire,
                             .grad_wire = options->grad_wire};
  MPI_Comm_rank(MPI_COMM_WORLD, &subject->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &subject->world_size);
  zero1_group_init(&subject->group, sizeof subject->group);
  open_comm(subject, options);
  const zero1_config config = config_of(subject, options);
  create(subject, &config, options->creates > 1 ? options->creates : 1);
  subject->params = bench_alloc((size_t)subject->tensors, sizeof *subject->params);
  subject->grads = bench_alloc((size_t)subject->tensors, sizeof *subject->grads);
  for (int64_t i = 0; i < subject->tensors; ++i) {
    zero1_optimizer_param(subject->optimizer, i, &subject->params[i]);
    zero1_optimizer_grad(subject->optimizer, i, &subject->grads[i]);
  }
  fill(subject);
  const zero1_status status = zero1_optimizer_sync_params(subject->optimizer, 0);
  bench_require(!status, "rank %d: sync_params: %s", subject->rank,
                zero1_optimizer_last_error(subject->optimizer));
}

void bench_subject_close(bench_subject *subject) {
  free(subject->params);
  free(subject->grads);
  zero1_optimizer_destroy(&subject->optimizer);
  zero1_comm_destroy(&subject->comm);
}

/* ---- a step ---- */

/* Of all threads of this process. */
static double cpu_ms(void) {
  struct timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return (double)used.tv_sec * 1e3 + (double)used.tv_nsec * 1e-6;
}

/* As forward does; the step is over. */
static double wait_for_params(bench_subject *subject) {
  zero1_status status = ZERO1_OK;
  const int64_t begin_ns = zero1__now_ns();
  for (int64_t i = 0; i < subject->tensors && !status; ++i)
    status = zero1_optimizer_wait_param(subject->optimizer, i, ZERO1_STREAM_DEFAULT);
  const double wait_ms = bench_ms_since(begin_ns);
  bench_require(!status, "rank %d: wait_param: %s", subject->rank,
                zero1_optimizer_last_error(subject->optimizer));
  return wait_ms;
}

bench_step_times bench_subject_step(bench_subject *subject) {
  zero1_optimizer *optimizer = subject->optimizer;
  zero1_info info = {0};
  zero1_status status = ZERO1_OK;
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin_cpu_ms = cpu_ms();
  const int64_t begin_ns = zero1__now_ns();
  for (int64_t i = subject->tensors - 1; i >= 0 && !status; --i)
    status = zero1_optimizer_grad_ready(optimizer, i, ZERO1_STREAM_DEFAULT);
  const double ready_ms = bench_ms_since(begin_ns);
  if (!status) status = zero1_optimizer_step(optimizer);
  if (!status) status = zero1_optimizer_wait_param(optimizer, 0, ZERO1_STREAM_DEFAULT);
  const double first_ms = bench_ms_since(begin_ns);
  if (!status) status = zero1_optimizer_info(optimizer, &info, sizeof info);
  const double step_ms = bench_ms_since(begin_ns);
  double used_ms = cpu_ms() - begin_cpu_ms;
  bench_require(!status, "rank %d: step: %s", subject->rank, zero1_optimizer_last_error(optimizer));
  bench_require(!info.skipped, "rank %d: the step was skipped, for reason %d", subject->rank,
                info.skip_reason);
  const double wait_ms = wait_for_params(subject);
  double mine[10] = {
      step_ms,        ready_ms,       info.exchange_ms, info.reduce_ms, info.agree_ms,
      info.update_ms, info.gather_ms, wait_ms,          first_ms,       (double)info.sent_bytes};
  double all[10];
  MPI_Allreduce(mine, all, 10, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  MPI_Allreduce(MPI_IN_PLACE, &used_ms, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  subject->sent_bytes = (int64_t)all[9];
  return (bench_step_times){.step_ms = all[0],
                            .ready_ms = all[1],
                            .exchange_ms = all[2],
                            .reduce_ms = all[3],
                            .agree_ms = all[4],
                            .update_ms = all[5],
                            .gather_ms = all[6],
                            .grad_norm = info.grad_norm,
                            .clip_coef = info.clip_coef,
                            .wait_ms = all[7],
                            .first_ms = all[8],
                            .cpu_ms = used_ms};
}

void bench_json_dtypes(bench_json *object, const bench_options *options) {
  const int64_t param = options->param_dtype, grad = options->grad_dtype;
  bench_json_text(object, "param_dtype", bench_dtype_name(param));
  bench_json_text(object, "grad_dtype", bench_dtype_name(grad));
  bench_json_text(object, "param_wire", bench_dtype_name(options->param_wire | param));
  bench_json_text(object, "grad_wire", bench_dtype_name(options->grad_wire | grad));
}
