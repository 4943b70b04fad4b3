// devices: standin cuda
// sanitizers: address undefined thread
// standin-delay: 200

/* A whole step in a CUDA graph: captured once and launched again with other gradients and other
 * rates, a skipped step among them, it comes to the bits of the same steps without a graph. */
#include "trainer.h"

#if !defined(ZERO1_TESTS_CUDA)
int main(void) {
  SKIP("a build without CUDA");
}
#else

static const trainer_param params[] = {
    {1000, 0, 0}, {7, 1, 0}, {257, 0, 0}, {30, 0, ZERO1_PARAM_FROZEN}, {5000, 1, 0}, {0, 0, 0},
};

static const zero1_group groups[] = {
    {sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0},
    {sizeof(zero1_group), 0.002, 0.8, 0.95, 1e-6, 0.03, 0, 0},
};

enum { PARAMS = sizeof params / sizeof *params, STEPS = 9, SKIPPED = 4 };

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
                                  .microbatches = 1};

/* Steps of a run, and what came of them. */
typedef struct history {
  trainer_result result;
  int64_t count[STEPS];
  int32_t skipped[STEPS], skip_reason[STEPS];
} history;

typedef struct graph_case {
  trainer_case train;
  int32_t ask; /* 1: after every step; 0: at the end, all launches being enqueued by then */
  history expected;
} graph_case;

/* One NaN, on the last rank. */
static void spoil(trainer *self, int64_t param, void *grad) {
  if (param == 2 && self->rank + 1 == self->world_size)
    trainer_store(grad, self->what->grad_dtype, 256, NAN);
}

static void before_step(trainer *self, int32_t step) {
  self->spoil = step == SKIPPED && self->what->guard ? spoil : NULL;
}

static void keep(history *to, int32_t step, uint64_t hash, const zero1_info *info) {
  to->result.params_hash[step] = hash;
  to->result.grad_norm[step] = info->grad_norm;
  to->result.clip_coef[step] = info->clip_coef;
  to->count[step] = info->count;
  to->skipped[step] = info->skipped;
  to->skip_reason[step] = info->skip_reason;
}

static void step_without_graph(trainer *self, int32_t step, history *to) {
  zero1_info info;
  before_step(self, step);
  const uint64_t hash = trainer_step(self, step, &info);
  keep(to, step, hash, &info);
}

/* One rank on the host. */
static void expect(const trainer_case *train, history *expected) {
  trainer_case alone = *train;
  zero1_comm *comm;
  trainer self;
  alone.on_host = 1;
  memset(expected, 0, sizeof *expected);
  expected->result = trainer_result_make(train);
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  trainer_begin(&self, &alone, comm);
  for (int32_t step = 0; step < STEPS; ++step) step_without_graph(&self, step, expected);
  trainer_collect(&self, &expected->result);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
  CHECK_EQ(expected->count[STEPS - 1], STEPS - train->guard);
  CHECK_EQ(expected->skipped[SKIPPED], train->guard);
}

/* ---- the graph ---- */

typedef struct graph {
  trainer *self;
  void *inputs[PARAMS]; /* memory of the device, that the graph takes its gradients from */
  void *seen[PARAMS];   /* and that its forward, which comes first, copies the parameters to */
  cudaGraphExec_t exec;
} graph;

/* What follows in stream `to` comes after what is in stream `from`. */
static void join(void *from, void *to) {
  cudaEvent_t event;
  CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  CHECK_CUDA(cudaEventRecord(event, (cudaStream_t)from));
  CHECK_CUDA(cudaStreamWaitEvent((cudaStream_t)to, event, 0));
  CHECK_CUDA(cudaEventDestroy(event));
}

static void forward(graph *g) {
  trainer *const self = g->self;
  for (int32_t i = 0; i < PARAMS; ++i) {
    void *const stream = trainer_stream(self, i);
    void *param;
    CHECK_STATUS(zero1_optimizer_wait_param(self->optimizer, i, stream), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_param(self->optimizer, i, &param), ZERO1_OK);
    device_copy(g->seen[i], param, trainer_param_bytes(self->what, i), stream);
  }
}

static void backward(graph *g) {
  trainer *const self = g->self;
  for (int32_t i = PARAMS - 1; i >= 0; --i) {
    void *const stream = trainer_stream(self, i);
    void *grad;
    if (trainer_is_frozen(self, i)) continue;
    CHECK_STATUS(zero1_optimizer_wait_grad(self->optimizer, i, stream), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_grad(self->optimizer, i, &grad), ZERO1_OK);
    device_copy(grad, g->inputs[i], trainer_grad_bytes(self->what, i), stream);
    CHECK_STATUS(zero1_optimizer_grad_ready(self->optimizer, i, stream), ZERO1_OK);
  }
}

/* The streams of the caller begin and end as one. */
static void capture(graph *g) {
  trainer *const self = g->self;
  void *const *const streams = self->caller.streams;
  cudaGraph_t recorded;
  CHECK_CUDA(cudaStreamBeginCapture((cudaStream_t)streams[0], cudaStreamCaptureModeThreadLocal));
  join(streams[0], streams[1]);
  forward(g);
  backward(g);
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_params(self->optimizer, streams[0]), ZERO1_OK);
  join(streams[1], streams[0]);
  CHECK_CUDA(cudaStreamEndCapture((cudaStream_t)streams[0], &recorded));
  CHECK_CUDA(cudaGraphInstantiate(&g->exec, recorded, 0));
  CHECK_CUDA(cudaGraphDestroy(recorded));
}

static void begin_graph(graph *g, trainer *self) {
  *g = (graph){.self = self};
  for (int32_t i = 0; i < PARAMS; ++i) {
    CHECK_CUDA(cudaMalloc(&g->inputs[i], trainer_grad_bytes(self->what, i) + 16));
    CHECK_CUDA(cudaMalloc(&g->seen[i], trainer_param_bytes(self->what, i) + 16));
  }
  capture(g);
}

static void end_graph(graph *g) {
  device_sync(&g->self->caller);
  CHECK_CUDA(cudaGraphExecDestroy(g->exec));
  for (int32_t i = 0; i < PARAMS; ++i) {
    CHECK_CUDA(cudaFree(g->inputs[i]));
    CHECK_CUDA(cudaFree(g->seen[i]));
  }
}

/* The gradients of a step, where the graph takes them from. */
static void write_inputs(graph *g, int32_t step) {
  trainer *const self = g->self;
  const trainer_case *what = self->what;
  for (int32_t i = 0; i < PARAMS; ++i) {
    const size_t bytes = trainer_grad_bytes(what, i);
    void *const input = device_begin_write(&self->caller, g->inputs[i], bytes);
    for (int64_t e = 0; e < params[i].numel; ++e) {
      const int32_t whole = trainer_grad(what, self->world_size, self->rank, step, i, e);
      trainer_store(input, what->grad_dtype, e, (float)whole);
    }
    if (self->spoil) self->spoil(self, i, input);
    device_end_write(&self->caller, g->inputs[i], input, bytes, self->caller.streams[0]);
  }
}

static uint64_t hash_of(graph *g, void *const *tensors) {
  const trainer_case *what = g->self->what;
  uint64_t hash = 0;
  for (int32_t i = 0; i < PARAMS; ++i) {
    const void *const param = device_read(&g->self->caller, tensors[i],
                                          trainer_param_bytes(what, i), g->self->caller.streams[0]);
    for (int64_t e = 0; e < params[i].numel; ++e)
      hash = trainer_scatter(hash, trainer_load_bits(param, what->param_dtype, e), 0, 0);
  }
  return hash;
}

static uint64_t hash_of_params(graph *g) {
  void *tensors[PARAMS];
  for (int32_t i = 0; i < PARAMS; ++i)
    CHECK_STATUS(zero1_optimizer_param(g->self->optimizer, i, &tensors[i]), ZERO1_OK);
  return hash_of(g, tensors);
}

static void launch(graph *g, int32_t step) {
  trainer *const self = g->self;
  void *const stream = self->caller.streams[0];
  before_step(self, step);
  write_inputs(g, step);
  trainer_set_lr(self, step);
  CHECK_STATUS(zero1_optimizer_replay(self->optimizer, stream), ZERO1_OK);
  CHECK_CUDA(cudaGraphLaunch(g->exec, (cudaStream_t)stream));
}

/* ---- a run: two steps without the graph, then with it, the last one without ---- */

enum { CAPTURED = 2, LAST = STEPS - 1 };

static void replay(graph *g, const graph_case *what, history *mine) {
  for (int32_t step = CAPTURED; step < LAST; ++step) {
    launch(g, step);
    if (!what->ask) continue;
    const zero1_info info = trainer_info(g->self);
    CHECK_EQ(info.attempts, step + 1);
    CHECK(hash_of(g, g->seen) == mine->result.params_hash[step - 1]);
    keep(mine, step, hash_of_params(g), &info);
  }
}

static void check_alike(const graph_case *what, const history *mine) {
  const history *const expected = &what->expected;
  int64_t where;
  CHECK(!trainer_difference(&mine->result, &expected->result, &where));
  for (int32_t step = 0; step < STEPS; ++step) {
    CHECK_EQ(mine->count[step], expected->count[step]);
    CHECK_EQ(mine->skipped[step], expected->skipped[step]);
    CHECK_EQ(mine->skip_reason[step], expected->skip_reason[step]);
  }
}

static void train_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const graph_case *what = (const graph_case *)arg;
  history mine = what->ask ? (history){0} : what->expected;
  trainer self;
  graph g;
  (void)rank;
  mine.result = trainer_result_make(&what->train);
  if (!what->ask) /* what nobody asks for */
    for (int32_t step = CAPTURED; step < LAST; ++step) {
      mine.result.params_hash[step] = what->expected.result.params_hash[step];
      mine.result.grad_norm[step] = what->expected.result.grad_norm[step];
      mine.result.clip_coef[step] = what->expected.result.clip_coef[step];
    }
  trainer_begin(&self, &what->train, comm);
  for (int32_t step = 0; step < CAPTURED; ++step) step_without_graph(&self, step, &mine);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  begin_graph(&g, &self);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  CHECK_EQ(trainer_info(&self).attempts, CAPTURED); /* nothing has run yet */
  replay(&g, what, &mine);
  CHECK_EQ(trainer_info(&self).attempts, LAST);
  step_without_graph(&self, LAST, &mine);
  trainer_collect(&self, &mine.result);
  check_alike(what, &mine);
  end_graph(&g);
  trainer_end(&self);
  trainer_result_free(&mine.result);
}

static void check_case(const trainer_case *train) {
  graph_case what = {.train = *train};
  expect(train, &what.expected);
  for (what.ask = 0; what.ask < 2; ++what.ask)
    for (int32_t world_size = 1; world_size <= 2; ++world_size)
      check_threads(world_size, NULL, train_rank, &what);
  trainer_result_free(&what.expected.result);
}

static void a_graph_comes_to_the_bits_of_its_steps(void) {
  trainer_case train = base;
  for (train.streams = 1; train.streams <= 2; ++train.streams) check_case(&train);
}

static void so_it_does_from_bf16_without_overlap(void) {
  trainer_case train = base;
  train.param_dtype = train.grad_dtype = ZERO1_DTYPE_BF16;
  train.overlap = 0;
  check_case(&train);
}

static void so_it_does_where_reduce_and_update_are_one_pass(void) {
  trainer_case train = base;
  train.guard = 0;
  train.max_grad_norm = 0;
  check_case(&train);
}

/* ---- what cannot be captured ---- */

static void try_capture(int32_t rank, zero1_comm *comm, void *arg) {
  const double offload = *(const double *)arg;
  zero1_config config = trainer_config(&base);
  cudaGraph_t recorded;
  zero1_info info;
  trainer self;
  (void)rank;
  config.offload = offload;
  CHECK_STATUS(trainer_try_create(&self, &base, comm, &config), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_OK);
  const cudaStream_t stream = (cudaStream_t)self.caller.streams[0];
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CHECK_STATUS(zero1_optimizer_grad_ready(self.optimizer, 0, stream), ZERO1_ERR_UNSUPPORTED);
  CHECK(strstr(zero1_optimizer_last_error(self.optimizer), "graph"));
  CHECK_CUDA(cudaStreamEndCapture(stream, &recorded));
  CHECK_CUDA(cudaGraphDestroy(recorded));
  CHECK_STATUS(zero1_optimizer_replay(self.optimizer, stream),
               offload > 0 ? ZERO1_ERR_STATE : ZERO1_ERR_UNSUPPORTED);
  trainer_step(&self, 0, &info); /* no harm done */
  CHECK_EQ(info.count, 1);
  trainer_end(&self);
}

static void a_step_that_needs_the_host_is_refused(void) {
  zero1_comm_options options;
  double offload = 0;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = 1;
  check_threads(2, &options, try_capture, &offload);
  offload = 0.5;
  check_threads(1, NULL, try_capture, &offload);
}

static void replay_nothing(int32_t rank, zero1_comm *comm, void *arg) {
  trainer self;
  (void)rank;
  (void)arg;
  trainer_begin(&self, &base, comm);
  CHECK_STATUS(zero1_optimizer_replay(self.optimizer, self.caller.streams[0]), ZERO1_ERR_STATE);
  trainer_end(&self);
}

static void there_is_no_replay_without_a_capture(void) {
  check_threads(2, NULL, replay_nothing, NULL);
}

/* ---- graphs used otherwise than they are captured for ---- */

/* A rate may change after the capture, a limit that needs another pass may not. */
static void limit_after_capture(int32_t rank, zero1_comm *comm, void *arg) {
  trainer_case train = base;
  trainer self;
  graph g;
  (void)rank;
  (void)arg;
  train.guard = 0;
  train.max_grad_norm = 0;
  trainer_begin(&self, &train, comm);
  begin_graph(&g, &self);
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, 1), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_replay(self.optimizer, self.caller.streams[0]), ZERO1_ERR_STATE);
  CHECK(strstr(zero1_optimizer_last_error(self.optimizer), "captured again"));
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, 0), ZERO1_OK);
  launch(&g, 0);
  CHECK_EQ(trainer_info(&self).count, 1);
  end_graph(&g);
  trainer_end(&self);
}

static void a_limit_that_needs_another_pass_is_refused(void) {
  check_threads(2, NULL, limit_after_capture, NULL);
}

/* It has run by then: the next info says so, once, and goes on counting from there. */
static void launch_unannounced(int32_t rank, zero1_comm *comm, void *arg) {
  trainer self;
  graph g;
  zero1_info info;
  (void)rank;
  (void)arg;
  trainer_begin(&self, &base, comm);
  begin_graph(&g, &self);
  launch(&g, 0);
  CHECK_EQ(trainer_info(&self).count, 1);
  write_inputs(&g, 1);
  CHECK_CUDA(cudaGraphLaunch(g.exec, (cudaStream_t)self.caller.streams[0]));
  device_sync(&self.caller);
  CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_ERR_STATE);
  CHECK(strstr(zero1_optimizer_last_error(self.optimizer), "zero1_optimizer_replay"));
  CHECK_EQ(info.count, 2);
  launch(&g, 2);
  CHECK_EQ(trainer_info(&self).count, 3);
  end_graph(&g);
  trainer_end(&self);
}

static void a_launch_that_was_not_announced_is_told(void) {
  check_threads(2, NULL, launch_unannounced, NULL);
}

static void capture_two(int32_t rank, zero1_comm *comm, void *arg) {
  trainer self;
  cudaGraph_t recorded;
  zero1_info info;
  (void)rank;
  (void)arg;
  trainer_begin(&self, &base, comm);
  const cudaStream_t stream = (cudaStream_t)self.caller.streams[0];
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int32_t i = PARAMS - 1; i >= 0; --i)
    if (!trainer_is_frozen(&self, i))
      CHECK_STATUS(zero1_optimizer_grad_ready(self.optimizer, i, stream), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_params(self.optimizer, stream), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_grad_ready(self.optimizer, 0, stream), ZERO1_ERR_STATE);
  CHECK(strstr(zero1_optimizer_last_error(self.optimizer), "one step"));
  CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_ERR_STATE);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_ERR_STATE);
  CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, NULL), ZERO1_ERR_STATE);
  CHECK_CUDA(cudaStreamEndCapture(stream, &recorded)); /* which is as good as it was */
  CHECK_CUDA(cudaGraphDestroy(recorded));
  trainer_step(&self, 0, &info);
  CHECK_EQ(info.count, 1);
  trainer_end(&self);
}

static void a_graph_holds_one_step_and_nothing_that_waits(void) {
  check_threads(2, NULL, capture_two, NULL);
}

int main(void) {
  device_skip_without();
  RUN(a_graph_comes_to_the_bits_of_its_steps);
  RUN(so_it_does_from_bf16_without_overlap);
  RUN(so_it_does_where_reduce_and_update_are_one_pass);
  RUN(a_step_that_needs_the_host_is_refused);
  RUN(there_is_no_replay_without_a_capture);
  RUN(a_limit_that_needs_another_pass_is_refused);
  RUN(a_launch_that_was_not_announced_is_told);
  RUN(a_graph_holds_one_step_and_nothing_that_waits);
  return check_summary();
}
#endif
