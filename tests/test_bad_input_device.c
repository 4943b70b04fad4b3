// sanitizers: address undefined thread
// devices: standin
// timeout: 120

/* What can be wrong with a device: none, an old driver, no such index, too little memory, streams
 * that are not of it, a device that fails in a step. Every rank gets the same status, a text that
 * names the cause, and nothing is left behind. */
#include <stdlib.h>

#include "misuse.h"
#include "standin/standin.h"

enum { RANKS = 2 };

/* ---- create, and what it leaves ---- */

typedef struct attempt {
  void (*change)(int32_t rank, zero1_config *config);
  zero1_status expected;
  const char *text;
} attempt;

static zero1_status try_create(zero1_comm *comm, const zero1_config *config,
                               zero1_optimizer **optimizer) {
  zero1_param_spec specs[MISUSE_PARAMS];
  misuse_specs(specs);
  return zero1_optimizer_create(comm, config, specs, sizeof *specs, MISUSE_PARAMS, optimizer);
}

static void attempt_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const attempt *const what = (const attempt *)arg;
  zero1_optimizer *optimizer = NULL;
  zero1_config config;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.device = ZERO1_DEVICE_CUDA;
  config.threads = 1;
  config.bucket_numel = 1024;
  if (what->change) what->change(rank, &config);
  CHECK_STATUS(try_create(comm, &config, &optimizer), what->expected);
  CHECK(!optimizer);
  CHECK_TEXT(zero1_comm_last_error(comm), what->text);
}

static void check_nothing_lives(void) {
  const standin_live live = standin_live_objects();
  CHECK_EQ(live.device_memories, 0);
  CHECK_EQ(live.host_memories, 0);
  CHECK_EQ(live.streams, 0);
  CHECK_EQ(live.events, 0);
}

static void attempt_all(const attempt *what) {
  check_threads(RANKS, NULL, attempt_rank, (void *)(uintptr_t)what);
  check_nothing_lives();
}

/* With a variable of the stand-in's environment. */
static void attempt_where(const char *name, const char *value, const attempt *what) {
  setenv(name, value, 1);
  standin_reload();
  attempt_all(what);
  unsetenv(name);
  standin_reload();
}

static void without_a_device_create_says_so_in_the_drivers_words(void) {
  const attempt none = {NULL, ZERO1_ERR_NO_DEVICE, "no CUDA-capable device is detected"};
  const attempt old = {NULL, ZERO1_ERR_NO_DEVICE, "driver version is insufficient"};
  attempt_where("ZERO1_STANDIN_FAIL", "no-device", &none);
  attempt_where("ZERO1_STANDIN_FAIL", "no-driver", &old);
  attempt_where("ZERO1_STANDIN_FAIL", "old-driver", &old);
}

/* 64 KiB: there is not even room for the optimizer's first table. Rank 0 alone asks for more. */
static void ask_for_more(int32_t rank, zero1_config *config) {
  (void)rank;
  config->param_dtype = ZERO1_DTYPE_BF16;
}

static void too_little_memory_names_what_was_asked_for_and_what_is_free(void) {
  const attempt asked = {ask_for_more, ZERO1_ERR_MEMORY, "bytes"};
  const attempt free_of = {ask_for_more, ZERO1_ERR_MEMORY, "free"};
  attempt_where("ZERO1_STANDIN_MEMORY", "65536", &asked);
  attempt_where("ZERO1_STANDIN_MEMORY", "65536", &free_of);
}

/* ---- configurations ---- */

static void index_of_no_gpu(int32_t rank, zero1_config *config) {
  if (rank == 1) config->device_index = 3;
}
static void kind_of_no_device(int32_t rank, zero1_config *config) {
  (void)rank;
  config->device = 7;
}
static void offload_of_more_than_all(int32_t rank, zero1_config *config) {
  (void)rank;
  config->offload = 1.5;
}
static void offload_from_the_host(int32_t rank, zero1_config *config) {
  (void)rank;
  config->device = ZERO1_DEVICE_HOST;
  config->offload = 0.5;
}
static void culprit_neither_yes_nor_no(int32_t rank, zero1_config *config) {
  (void)rank;
  config->find_culprit = 2;
}
static void gradients_of_8_bits(int32_t rank, zero1_config *config) {
  (void)rank;
  config->grad_wire_dtype = ZERO1_WIRE_INT8;
}
static void reserved_field(int32_t rank, zero1_config *config) {
  (void)rank;
  config->reserved = 1;
}
static void one_rank_on_the_host(int32_t rank, zero1_config *config) {
  if (rank == 1) config->device = ZERO1_DEVICE_HOST;
}
static void one_rank_offloads(int32_t rank, zero1_config *config) {
  if (rank == 1) config->offload = 0.5;
}

static void bad_configurations_are_named(void) {
  static const attempt attempts[] = {
      {index_of_no_gpu, ZERO1_ERR_INVALID, "device_index"},
      {kind_of_no_device, ZERO1_ERR_INVALID, "config.device is 7"},
      {offload_of_more_than_all, ZERO1_ERR_INVALID, "config.offload is 1.5"},
      {offload_from_the_host, ZERO1_ERR_INVALID, "config.offload is 0.5"},
      {culprit_neither_yes_nor_no, ZERO1_ERR_INVALID, "config.find_culprit is 2"},
      {gradients_of_8_bits, ZERO1_ERR_UNSUPPORTED, "config.grad_wire_dtype is ZERO1_WIRE_INT8"},
      {reserved_field, ZERO1_ERR_INVALID, "config.reserved"},
      {one_rank_on_the_host, ZERO1_ERR_MISMATCH, "config.device"},
      {one_rank_offloads, ZERO1_ERR_MISMATCH, "config.offload"},
  };
  for (size_t i = 0; i < sizeof attempts / sizeof *attempts; ++i) attempt_all(&attempts[i]);
}

/* ---- streams ---- */

static cudaStream_t stream_on(int device) {
  cudaStream_t stream;
  CHECK_CUDA(cudaSetDevice(device));
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK_CUDA(cudaSetDevice(0));
  return stream;
}

static void foreign_stream_rank(int32_t rank, zero1_comm *comm, void *arg) {
  zero1_optimizer *optimizer = NULL;
  zero1_config config;
  cudaStream_t own = stream_on(0), foreign = stream_on(1);
  (void)rank;
  (void)arg;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.device = ZERO1_DEVICE_CUDA;
  config.device_index = 0;
  config.stream = foreign;
  CHECK_STATUS(try_create(comm, &config, &optimizer), ZERO1_ERR_INVALID);
  CHECK_TEXT(zero1_comm_last_error(comm), "device 1");
  config.stream = own;
  CHECK_STATUS(try_create(comm, &config, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, foreign), ZERO1_ERR_INVALID);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "device 1");
  CHECK_STATUS(zero1_optimizer_wait_param(optimizer, 0, foreign), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_optimizer_zero_grad(optimizer, foreign), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_optimizer_wait_param(optimizer, 0, own), ZERO1_OK); /* it goes on */
  zero1_optimizer_destroy(&optimizer);
  CHECK_CUDA(cudaStreamDestroy(own));
  CHECK_CUDA(cudaSetDevice(1));
  CHECK_CUDA(cudaStreamDestroy(foreign));
  CHECK_CUDA(cudaSetDevice(0));
}

static void a_stream_of_another_device_is_refused(void) {
  setenv("ZERO1_STANDIN_DEVICES", "2", 1);
  standin_reload();
  check_threads(RANKS, NULL, foreign_stream_rank, NULL);
  check_nothing_lives();
  unsetenv("ZERO1_STANDIN_DEVICES");
  standin_reload();
}

/* ---- in a step ---- */

static void run_step(zero1_optimizer *optimizer) {
  for (int64_t i = 0; i < MISUSE_PARAMS; ++i)
    (void)zero1_optimizer_grad_ready(optimizer, i, ZERO1_STREAM_DEFAULT);
  (void)zero1_optimizer_step(optimizer);
}

/* After it the handle is spent, and says what has spent it. */
static void faulty_rank(int32_t rank, zero1_comm *comm, void *arg) {
  zero1_optimizer *optimizer = NULL;
  zero1_config config;
  zero1_info info;
  (void)rank;
  (void)arg;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.device = ZERO1_DEVICE_CUDA;
  config.timeout_seconds = 5;
  config.stream = device_thread_stream();
  CHECK_STATUS(try_create(comm, &config, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  run_step(optimizer);
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
  standin_device_fault(cudaErrorIllegalAddress);
  run_step(optimizer);
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_ERR_DEVICE);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "illegal memory access");
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, ZERO1_STREAM_DEFAULT), ZERO1_ERR_SPENT);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "illegal memory access");
  standin_device_fault(cudaSuccess); /* so that what is left can be freed */
  zero1_optimizer_destroy(&optimizer);
}

static void a_device_that_fails_in_a_step_spends_the_handle(void) {
  setenv("ZERO1_TEST_DEVICE", "cuda", 1);
  check_threads(1, NULL, faulty_rank, NULL);
  check_nothing_lives();
}

int main(void) {
  RUN(without_a_device_create_says_so_in_the_drivers_words);
  RUN(too_little_memory_names_what_was_asked_for_and_what_is_free);
  RUN(bad_configurations_are_named);
  RUN(a_stream_of_another_device_is_refused);
  RUN(a_device_that_fails_in_a_step_spends_the_handle);
  return check_summary();
}
