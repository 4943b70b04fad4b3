/* Optimizers over the NCCL comm, ranks as threads, a GPU each: what the tests of it share. */
#ifndef ZERO1_TESTS_NCCL_WORLD_H
#define ZERO1_TESTS_NCCL_WORLD_H

#include <nccl.h>
#include <time.h>

#include "trainer.h"
#if defined(ZERO1_TESTS_STANDIN)
  #include "standin_nccl.h"
#endif

static const trainer_param params[] = {
    {1000, 0, 0}, {7, 1, 0}, {257, 0, 0}, {30, 0, ZERO1_PARAM_FROZEN}, {5000, 1, 0}, {0, 0, 0},
};

static const zero1_group groups[] = {
    {sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0},
    {sizeof(zero1_group), 0.002, 0.8, 0.95, 1e-6, 0.03, 0, 0},
};

enum { PARAMS = sizeof params / sizeof *params, STEPS = 5, MOST = 4 };

static const trainer_case base = {.params = params,
                                  .param_count = PARAMS,
                                  .groups = groups,
                                  .group_count = 2,
                                  .steps = STEPS,
                                  .guard = 1,
                                  .schedule = 1,
                                  .grad_scale = 0.37,
                                  .max_grad_norm = 400,
                                  .bucket_numel = 1500,
                                  .threads = 1,
                                  .overlap = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1,
                                  .streams = 2};

static inline int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void sleep_ms(int64_t ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static inline zero1_comm_options options_of(int32_t ordered) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ordered = ordered;
  options.timeout_seconds = 60;
  return options;
}

/* ---- ranks as threads ---- */

typedef struct world {
  int32_t size;
  zero1_comm_options options;
  unsigned char id[ZERO1_NCCL_ID_BYTES];
  void (*fn)(zero1_comm *comm, void *arg); /* NULL: alone(rank) makes its own */
  void (*alone)(struct world *world, int32_t rank);
  void *arg;
} world;

typedef struct rank_thread {
  pthread_t thread;
  world *in;
  int32_t rank;
} rank_thread;

static inline void *rank_main(void *context) {
  const rank_thread *self = (const rank_thread *)context;
  world *in = self->in;
  zero1_comm *comm;
  char text[300] = "";
  check__thread_rank = self->rank;
  CHECK_CUDA(cudaSetDevice(self->rank));
  if (in->alone) {
    in->alone(in, self->rank);
    return NULL;
  }
  zero1_comm_options options = in->options;
  options.error_text = text;
  options.error_bytes = sizeof text;
  const zero1_status status =
      zero1_comm_create_nccl_id(self->rank, in->size, in->id, sizeof in->id, &options, &comm);
  if (status) fprintf(stderr, "%s\n", text);
  CHECK_STATUS(status, ZERO1_OK);
  CHECK(!strcmp(zero1_comm_backend(comm), "nccl"));
  in->fn(comm, in->arg);
  zero1_comm_destroy(&comm);
  return NULL;
}

static inline void run_world(world *in) {
  rank_thread ranks[MOST];
  CHECK(in->size <= MOST);
  CHECK_STATUS(zero1_nccl_unique_id(in->id, sizeof in->id), ZERO1_OK);
  for (int32_t r = 0; r < in->size; ++r) {
    ranks[r] = (rank_thread){.in = in, .rank = r};
    CHECK(!pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]));
  }
  for (int32_t r = 0; r < in->size; ++r) CHECK(!pthread_join(ranks[r].thread, NULL));
#if defined(ZERO1_TESTS_STANDIN)
  CHECK_EQ(standin_nccl_live_comms(), 0);
#endif
}

/* fn(comm, arg) on each of `size` ranks. */
static inline void run_ranks(int32_t size, const zero1_comm_options *options,
                             void (*fn)(zero1_comm *comm, void *arg), void *arg) {
  world in = {.size = size, .options = *options, .fn = fn, .arg = arg};
  run_world(&in);
}

/* ---- a graph ---- */

enum { LAUNCHES = 4 };

/* Gradients that the step finds in memory of the device; all in one stream. */
static inline void enqueue_step(trainer *self, void *const *inputs) {
  void *const stream = self->caller.streams[0];
  for (int32_t i = PARAMS - 1; i >= 0; --i) {
    void *grad;
    if (trainer_is_frozen(self, i)) continue;
    CHECK_STATUS(zero1_optimizer_wait_grad(self->optimizer, i, stream), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_grad(self->optimizer, i, &grad), ZERO1_OK);
    device_copy(grad, inputs[i], trainer_grad_bytes(self->what, i), stream);
    CHECK_STATUS(zero1_optimizer_grad_ready(self->optimizer, i, stream), ZERO1_OK);
  }
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_params(self->optimizer, stream), ZERO1_OK);
}

static inline void capture_step(trainer *self, void *const *inputs, cudaGraphExec_t *exec) {
  const cudaStream_t stream = (cudaStream_t)self->caller.streams[0];
  cudaGraph_t recorded;
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue_step(self, inputs);
  CHECK_CUDA(cudaStreamEndCapture(stream, &recorded));
  CHECK_CUDA(cudaGraphInstantiate(exec, recorded, 0));
  CHECK_CUDA(cudaGraphDestroy(recorded));
}

#endif
