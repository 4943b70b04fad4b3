// devices: standin cuda
// standin-delay: 100
// quarters: 1
// cost: 5
// sanitizers: address undefined thread

/* What optimizers over the NCCL comm come to: the bits of one rank, in a graph, too, and the guard.
 * Ranks are threads, as many as there are GPUs, 4 at most. */
#include "device.h"

#if !defined(ZERO1_TESTS_CUDA) || !__has_include(<nccl.h>)
int main(void) {
  SKIP("a build without CUDA or NCCL");
}
#else
  #include "nccl_world.h"

/* ---- results ---- */

typedef struct promise {
  trainer_case what;
  trainer_result expected;
} promise;

static void keep_promise(zero1_comm *comm, void *arg) {
  const promise *made = (const promise *)arg;
  trainer_result mine;
  int64_t where = 0;
  trainer_run(comm, &made->what, &mine);
  const char *const difference = trainer_difference(&mine, &made->expected, &where);
  if (difference) fprintf(stderr, "%s %" PRId64 " differs\n", difference, where);
  CHECK(!difference);
  trainer_result_free(&mine);
}

/* GPUs, one for each rank; the stand-in has as many as it is told. */
static int32_t most = MOST;

static void check_promise(const trainer_case *what, int32_t ordered, int64_t workspace_bytes) {
  promise made = {.what = *what};
  zero1_comm_options options = options_of(ordered);
  options.workspace_bytes = workspace_bytes;
  trainer_run_alone(what, &made.expected);
  for (int32_t size = 1; size <= most; ++size) {
    made.what.reduce_group = ordered && size == 4 ? 2 : 0;
    run_ranks(size, &options, keep_promise, &made);
  }
  trainer_result_free(&made.expected);
}

static void sums_of_whole_numbers_are_those_of_one_rank(void) {
  for (int32_t ordered = 0; ordered < 2; ++ordered) check_promise(&base, ordered, 0);
}

static void so_are_those_of_bf16(void) {
  trainer_case what = base;
  what.param_dtype = what.grad_dtype = ZERO1_DTYPE_BF16;
  for (int32_t ordered = 0; ordered < 2; ++ordered) check_promise(&what, ordered, 0);
}

static void so_are_those_through_a_ring_of_one_block(void) {
  trainer_case what = base;
  what.bucket_numel = (int64_t)1 << 40;
  what.absences = 1;
  check_promise(&what, 1, 1);
}

static void so_are_those_of_steps_in_halves(void) {
  trainer_case what = base;
  what.split = 1;
  what.overlap = 0;
  for (int32_t ordered = 0; ordered < 2; ++ordered) check_promise(&what, ordered, 0);
}

static void so_are_those_without_guard_and_clipping(void) {
  trainer_case what = base;
  what.guard = 0;
  what.max_grad_norm = 0;
  for (int32_t ordered = 0; ordered < 2; ++ordered) check_promise(&what, ordered, 0);
}

/* Rank 0 has 2^24 and rank 1 has 1, rank 2 has -2^24 and rank 3 has 1: in rank order that is 1, in
 * NCCL's, around the ring, it depends on the shard. */
static void spoil_order(trainer *self, int64_t param, void *grad) {
  static const float values[] = {0x1p24f, 1, -0x1p24f, 1};
  for (int64_t e = 0; e < self->what->params[param].numel; ++e)
    trainer_store(grad, ZERO1_DTYPE_FP32, e, values[self->rank]);
}

static void sum_in_order(zero1_comm *comm, void *arg) {
  double *norm = (double *)arg;
  trainer self;
  zero1_info info;
  trainer_begin(&self, &base, comm);
  self.spoil = spoil_order;
  trainer_step(&self, 0, &info);
  if (self.rank == 0) *norm = info.grad_norm;
  trainer_end(&self);
}

static void ordered_sums_are_in_the_order_of_ranks(void) {
  double norm = 0;
  zero1_comm_options options = options_of(1);
  run_ranks(4, &options, sum_in_order, &norm);
  CHECK(norm == 0.37 * sqrt(1000 + 7 + 257 + 5000));
  options.ordered = 0;
  run_ranks(4, &options, sum_in_order, &norm);
  CHECK(norm != 0.37 * sqrt(1000 + 7 + 257 + 5000)); /* or the test above says nothing */
}

/* ---- the guard ---- */

static void spoil_one(trainer *self, int64_t param, void *grad) {
  if (param == 2 && self->rank == 1) trainer_store(grad, self->what->grad_dtype, 256, NAN);
}

static void meet_nan(zero1_comm *comm, void *arg) {
  const int32_t find = *(const int32_t *)arg;
  zero1_config config = trainer_config(&base);
  trainer self;
  zero1_info info;
  config.find_culprit = find;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_OK);
  self.spoil = spoil_one;
  const uint64_t before = trainer_forward(&self);
  CHECK(trainer_step(&self, 0, &info) == before);
  CHECK_EQ(info.skipped, 1);
  CHECK_EQ(info.skip_reason, ZERO1_SKIP_NONFINITE);
  CHECK_EQ(info.bad_param, find ? 2 : -1);
  CHECK_EQ(info.bad_rank, find ? 1 : -1);
  self.spoil = NULL;
  CHECK(trainer_step(&self, 1, &info) != before);
  CHECK_EQ(info.skipped, 0);
  CHECK_EQ(info.count, 1);
  trainer_end(&self);
}

static void a_nan_is_skipped_and_its_culprit_found_where_that_is_asked_for(void) {
  const zero1_comm_options options = options_of(0);
  for (int32_t find = 0; find < 2; ++find) run_ranks(3, &options, meet_nan, &find);
}

static void ordered_sums_find_it_unasked(void) {
  int32_t find = 1;
  const zero1_comm_options options = options_of(1);
  run_ranks(3, &options, meet_nan, &find);
}

/* ---- a graph ---- */

static void use_graph(zero1_comm *comm, void *arg) {
  trainer_case what = base;
  trainer plain, captured;
  void *inputs[PARAMS];
  cudaGraphExec_t exec;
  (void)arg;
  what.streams = 1;
  trainer_begin(&plain, &what, comm);
  trainer_begin(&captured, &what, comm);
  for (int32_t i = 0; i < PARAMS; ++i) {
    CHECK_CUDA(cudaMalloc(&inputs[i], trainer_grad_bytes(&what, i) + 16));
    CHECK_CUDA(cudaMemset(inputs[i], 0x40 + i + plain.rank, trainer_grad_bytes(&what, i) + 16));
  }
  CHECK_CUDA(cudaDeviceSynchronize());
  for (int32_t i = 0; i <= LAUNCHES; ++i) enqueue_step(&plain, inputs);
  enqueue_step(&captured, inputs);
  CHECK_EQ(trainer_info(&captured).count, 1);
  capture_step(&captured, inputs, &exec);
  for (int32_t i = 0; i < LAUNCHES; ++i) {
    void *const stream = captured.caller.streams[0];
    CHECK_STATUS(zero1_optimizer_replay(captured.optimizer, stream), ZERO1_OK);
    CHECK_CUDA(cudaGraphLaunch(exec, (cudaStream_t)stream));
  }
  CHECK_EQ(trainer_info(&captured).count, 1 + LAUNCHES);
  CHECK_EQ(trainer_info(&plain).count, 1 + LAUNCHES);
  CHECK(trainer_forward(&captured) == trainer_forward(&plain));
  CHECK_CUDA(cudaGraphExecDestroy(exec));
  for (int32_t i = 0; i < PARAMS; ++i) CHECK_CUDA(cudaFree(inputs[i]));
  trainer_end(&captured);
  trainer_end(&plain);
}

static void a_step_can_be_captured(void) {
  for (int32_t ordered = 0; ordered < 2; ++ordered) {
    const zero1_comm_options options = options_of(ordered);
    run_ranks(most < 2 ? most : 2, &options, use_graph, NULL);
  }
}

int main(void) {
  int32_t gpus = 0;
  setenv("ZERO1_STANDIN_DEVICES", "4", 1);
  device_skip_without();
  CHECK_CUDA(cudaGetDeviceCount(&gpus));
  if (gpus < most) most = gpus;
  RUN(sums_of_whole_numbers_are_those_of_one_rank);
  RUN(so_are_those_of_bf16);
  RUN(so_are_those_through_a_ring_of_one_block);
  RUN(so_are_those_of_steps_in_halves);
  RUN(so_are_those_without_guard_and_clipping);
  if (most >= 4) RUN(ordered_sums_are_in_the_order_of_ranks);
  if (most >= 3) RUN(a_nan_is_skipped_and_its_culprit_found_where_that_is_asked_for);
  if (most >= 3) RUN(ordered_sums_find_it_unasked);
  RUN(a_step_can_be_captured);
  return check_summary();
}
#endif
