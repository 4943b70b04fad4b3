/* Shared by the tests of what goes wrong: a small optimizer on any path, and what an error's text
 * must contain. */
#ifndef ZERO1_TESTS_MISUSE_H
#define ZERO1_TESTS_MISUSE_H

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "device.h"
#include "zero1/zero1.h"

/* The text says what it must. */
#define CHECK_TEXT(text, part) misuse__text(__FILE__, __LINE__, (text), (part))

static inline void misuse__text(const char *file, int line, const char *text, const char *part) {
  if (strstr(text, part)) return;
  check__place(file, line);
  fprintf(stderr, "\"%s\" does not contain \"%s\"\n", text, part);
  check__exit(1);
}

/* Three parameters: "w" [2, 300], "b" [5] and "out" [700]; 256 elements a block, so 3, 1 and 3. */
enum { MISUSE_PARAMS = 3 };
static const int64_t misuse_w[] = {2, 300}, misuse_b[] = {5}, misuse_out[] = {700};

static inline void misuse_specs(zero1_param_spec specs[MISUSE_PARAMS]) {
  memset(specs, 0, MISUSE_PARAMS * sizeof *specs);
  specs[0].name = "w";
  specs[0].shape = misuse_w;
  specs[0].ndim = 2;
  specs[1].name = "b";
  specs[1].shape = misuse_b;
  specs[1].ndim = 1;
  specs[2].name = "out";
  specs[2].shape = misuse_out;
  specs[2].ndim = 1;
}

static inline void misuse_config(zero1_config *config) {
  CHECK_STATUS(zero1_config_init(config, sizeof *config), ZERO1_OK);
  config->threads = 1;
  config->bucket_numel = 1024;
  config->device = device_of_test();
  if (device_is_cuda()) config->stream = device_thread_stream();
}

/* The paths: 0 the node's, 1 between nodes, 2 both, as for 4 ranks on two nodes. */
enum { MISUSE_PATHS = 3 };

static inline int32_t misuse_world(int path) {
  return path == 2 ? 4 : 3;
}

static inline void misuse_options(int path, double timeout_seconds, zero1_comm_options *options) {
  CHECK_STATUS(zero1_comm_options_init(options, sizeof *options), ZERO1_OK);
  options->ranks_per_node = path;
  options->timeout_seconds = timeout_seconds;
}

static inline zero1_status misuse_create(zero1_comm *comm, zero1_optimizer **optimizer) {
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  misuse_config(&config);
  misuse_specs(specs);
  return zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, optimizer);
}

/* The first element of a tensor, or of a part of it, becomes 1. */
static inline void misuse_set_first(void *tensor, void *stream) {
  static const float one = 1;
  if (device_is_cuda())
    device_copy(tensor, &one, sizeof one, stream);
  else
    *(float *)tensor = 1;
}

/* What it is by now. */
static inline float misuse_first(const void *tensor) {
  device_caller caller;
  float value;
  device_caller_begin(&caller, device_of_test(), sizeof value);
  value = *(const float *)device_read(&caller, tensor, sizeof value, caller.streams[0]);
  device_caller_end(&caller);
  return value;
}

/* Gradients of 1, all of them ready. */
static inline zero1_status misuse_backward(zero1_optimizer *optimizer) {
  void *const stream = device_thread_stream();
  zero1_status status = zero1_optimizer_zero_grad(optimizer, stream);
  for (int64_t i = zero1_optimizer_param_count(optimizer) - 1; i >= 0 && !status; --i) {
    void *grad;
    status = zero1_optimizer_grad(optimizer, i, &grad);
    if (grad) misuse_set_first(grad, stream);
    if (!status && grad) status = zero1_optimizer_grad_ready(optimizer, i, stream);
  }
  return status;
}

/* Waits for the last step, and says what became of it: on CUDA wait_params holds back a stream. */
static inline zero1_status misuse_wait(zero1_optimizer *optimizer) {
  zero1_info info;
  const zero1_status status = zero1_optimizer_wait_params(optimizer, device_thread_stream());
  if (status || !device_is_cuda()) return status;
  return zero1_optimizer_info(optimizer, &info, sizeof info);
}

/* One whole step; the status is that of the call that told of a failure first. */
static inline zero1_status misuse_step(zero1_optimizer *optimizer) {
  zero1_status status = misuse_backward(optimizer);
  if (!status) status = zero1_optimizer_step(optimizer);
  return status ? status : misuse_wait(optimizer);
}

/* The optimizer works: it is synchronised, makes a step, and its replicas agree. */
static inline void misuse_check_works(zero1_optimizer *optimizer) {
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_OK);
}

static inline double misuse_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
