/* A few training steps of a caller who never waits: every read of a parameter and every write of a
 * gradient is a copy in one of its two streams, ordered by the library's calls alone. Gradients are
 * small integers, so that sums are exact in any order, and whatever the ranks have read is what one
 * rank by itself reads, on the host. Included by test_handover_device.c alone. */
#ifndef ZERO1_TESTS_HANDOVER_DEVICE_TRAIN_H
#define ZERO1_TESTS_HANDOVER_DEVICE_TRAIN_H

#include <math.h>

#include "device.h"
#include "handover_device_hooks.h"

enum { STEPS = 6, SPOILT = 3, PARAMS = 8, STREAMS = DEVICE_STREAMS, BLOCKS_PER_SHARD = 3 };

/* 21 blocks, with holes of all sizes. */
static const int64_t SIZES[PARAMS] = {600, 1, 512, 1100, 256, 300, 900, 700};
enum { TOTAL = 600 + 1 + 512 + 1100 + 256 + 300 + 900 + 700 };

typedef enum way { NODE, EXCHANGE, NCCL, ORDERED } way;

typedef struct job {
  const char *name;
  int32_t world;
  way way;
  int32_t bf16, no_overlap, one_pass;
  double offload;
  int32_t culprit;        /* a parameter: its first block is NaN on rank 1 in one step */
  int32_t grads_first;    /* writes the next gradients before forward waits for a parameter */
  int32_t all;            /* forward waits for all parameters at once */
  int32_t ask;            /* the caller asks for the norm after every step */
  int32_t split;          /* reduce_grads, then step */
  int32_t rewrites;       /* the caller writes its parameters between two steps */
  int32_t begins;         /* the hand-overs of sync_params are looked at */
  int32_t replicas;       /* check_replicas comes while a step is under way */
  int32_t broadcasts;     /* the comm\'s own, by itself, at the end */
  int32_t graph;          /* steps 2, 3 and 5 are one graph */
  int32_t inline_calls;   /* as where MPI allows no threads */
  int32_t race;           /* what is taken out of it is seen by ThreadSanitizer alone */
  double timeout_seconds; /* 0: long */
} job;

/* What the caller has copied, as it lies in the streams' order; memory of the host that both see.
 */
typedef struct history {
  float grads[STEPS][TOTAL];    /* what its gradients are copied from */
  float before[TOTAL];          /* and its first parameters */
  float rewritten[TOTAL];       /* and those of `rewrites` */
  float seen[STEPS + 1][TOTAL]; /* what forward of a step has read */
  float late[STEPS][TOTAL];     /* and backward, after its last gradient */
  float graph_seen[TOTAL], graph_late[TOTAL];
  double norm[STEPS];
  float masters[TOTAL]; /* after sync_params; those that are not this rank's stay 0 */
} history;

typedef struct run {
  const job *what;
  history *expected;
  unsigned char id[128]; /* of NCCL */
} run;

/* One rank. */
typedef struct rank_run {
  const job *what;
  int32_t kind, rank, world; /* kind: ZERO1_DEVICE_; world 1 by itself: sums of all ranks */
  zero1_optimizer *optimizer;
  void *streams[STREAMS];
  history *mine;
} rank_run;

static int64_t offset_of(int param) {
  int64_t offset = 0;
  for (int i = 0; i < param; ++i) offset += SIZES[i];
  return offset;
}

static size_t each_of(const job *what) {
  return what->bf16 ? sizeof(uint16_t) : sizeof(float);
}

/* Element `at` of an array of the job's dtype; the values of these tests fit bf16. */
static void put(const job *what, void *array, int64_t at, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (what->bf16)
    ((uint16_t *)array)[at] = (uint16_t)(bits >> 16);
  else
    ((float *)array)[at] = value;
}

/* ---- numbers ---- */

static int is_absent(const job *what, int step, int param) {
  return !what->graph && step == 1 && param == 5;
}

/* In [-8, 8]; every step of a graph's run has the same, for its graph reads what it has read. */
static float gradient_of(const job *what, int step, int32_t rank, int param, int64_t i) {
  const uint32_t mixed = ((uint32_t)(what->graph ? 0 : step) * 31 + (uint32_t)rank * 17 +
                          (uint32_t)param * 7 + (uint32_t)i) *
                         2654435761u;
  if (what->culprit && param == what->culprit && step == SPOILT && rank == 1 && i < 256) return NAN;
  return is_absent(what, step, param) ? 0 : (float)((int32_t)(mixed >> 20) % 17 - 8);
}

static void make_inputs(rank_run *self) {
  const job *const what = self->what;
  for (int param = 0; param < PARAMS; ++param)
    for (int64_t i = 0; i < SIZES[param]; ++i) {
      const int64_t at = offset_of(param) + i;
      put(what, self->mine->before, at, (float)((param + i) % 64) / 16);
      put(what, self->mine->rewritten, at, (float)((param + i) % 32) / 8 - 7);
      for (int step = 0; step < STEPS; ++step) {
        float sum = 0;
        for (int32_t rank = 0; rank < what->world && self->world == 1; ++rank)
          sum += gradient_of(what, step, rank, param, i);
        put(what, self->mine->grads[step], at,
            self->world == 1 ? sum : gradient_of(what, step, self->rank, param, i));
      }
    }
}

/* ---- the caller's own work ---- */

static int stream_of(int param) {
  return param % STREAMS;
}

static void copy(rank_run *self, int param, int stream, void *to, const void *from) {
  const size_t bytes = (size_t)SIZES[param] * each_of(self->what);
  if (self->kind == ZERO1_DEVICE_HOST)
    memcpy(to, from, bytes);
  else
    device_copy(to, from, bytes, self->streams[stream]);
}

static char *place_in(const rank_run *self, float *array, int param) {
  return (char *)array + (size_t)offset_of(param) * each_of(self->what);
}

static void read_param(rank_run *self, int param, float *to) {
  void *tensor;
  CHECK_STATUS(zero1_optimizer_param(self->optimizer, param, &tensor), ZERO1_OK);
  hooks_hold_up(stream_of(param), "read");
  copy(self, param, stream_of(param), place_in(self, to, param), tensor);
}

/* In the first stream. */
static void write_params(rank_run *self, float *from) {
  for (int i = 0; i < PARAMS; ++i) {
    void *tensor;
    CHECK_STATUS(zero1_optimizer_param(self->optimizer, i, &tensor), ZERO1_OK);
    hooks_hold_up(0, "write");
    copy(self, i, 0, tensor, place_in(self, from, i));
  }
}

static void write_grad(rank_run *self, int step, int param) {
  void *tensor;
  hooks_call("wait_grad");
  CHECK_STATUS(zero1_optimizer_wait_grad(self->optimizer, param, self->streams[stream_of(param)]),
               ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_grad(self->optimizer, param, &tensor), ZERO1_OK);
  hooks_hold_up(stream_of(param), "write");
  copy(self, param, stream_of(param), tensor, place_in(self, self->mine->grads[step], param));
}

/* What follows in stream `to` comes after what is in stream `from`. */
static void join(void *from, void *to) {
  cudaEvent_t event;
  CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  CHECK_CUDA(cudaEventRecord(event, (cudaStream_t)from));
  CHECK_CUDA(cudaStreamWaitEvent((cudaStream_t)to, event, 0));
  CHECK_CUDA(cudaEventDestroy(event));
}

/* The calling thread waits for the caller's streams, and for nothing of the library's. */
static void sync_streams(rank_run *self) {
  for (int i = 0; i < STREAMS && self->kind == ZERO1_DEVICE_CUDA; ++i)
    CHECK_CUDA(cudaStreamSynchronize((cudaStream_t)self->streams[i]));
}

/* ---- a step ---- */

static void wait_params(rank_run *self) {
  hooks_call("wait_params");
  for (int i = 0; i < STREAMS; ++i)
    CHECK_STATUS(zero1_optimizer_wait_params(self->optimizer, self->streams[i]), ZERO1_OK);
}

static void forward(rank_run *self, float *seen) {
  if (self->what->all) wait_params(self);
  for (int i = 0; i < PARAMS; ++i) {
    hooks_call("wait_param");
    if (!self->what->all)
      CHECK_STATUS(zero1_optimizer_wait_param(self->optimizer, i, self->streams[stream_of(i)]),
                   ZERO1_OK);
    read_param(self, i, seen);
  }
}

static void mark(rank_run *self, int step, int param) {
  void *const stream = self->streams[stream_of(param)];
  hooks_call("grad_ready");
  CHECK_STATUS(is_absent(self->what, step, param)
                   ? zero1_optimizer_grad_absent(self->optimizer, param, stream)
                   : zero1_optimizer_grad_ready(self->optimizer, param, stream),
               ZERO1_OK);
}

static void backward(rank_run *self, int step, float *late) {
  for (int i = PARAMS - 1; i >= 0; --i) {
    if (!self->what->grads_first) write_grad(self, step, i);
    mark(self, step, i);
  }
  for (int i = 0; i < PARAMS; ++i) read_param(self, i, late);
}

static void update(rank_run *self) {
  hooks_call("reduce_grads");
  if (self->what->split) CHECK_STATUS(zero1_optimizer_reduce_grads(self->optimizer), ZERO1_OK);
  hooks_call("step");
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_OK);
}

static void ask(rank_run *self, int step) {
  zero1_info info;
  hooks_call("info");
  CHECK_STATUS(zero1_optimizer_info(self->optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.count, step + 1 - (self->what->culprit && step >= SPOILT));
  if (self->what->culprit && step == SPOILT && self->world > 1) CHECK_EQ(info.bad_rank, 1);
  self->mine->norm[step] = info.grad_norm;
}

/* Between two steps; its first stream is the one that the library comes after. */
static void rewrite(rank_run *self) {
  wait_params(self);
  if (self->kind == ZERO1_DEVICE_CUDA) join(self->streams[1], self->streams[0]);
  write_params(self, self->mine->rewritten);
  hooks_call("params_changed");
  CHECK_STATUS(zero1_optimizer_params_changed(self->optimizer), ZERO1_OK);
}

static void check_replicas(rank_run *self) {
  hooks_call("check_replicas");
  CHECK_STATUS(zero1_optimizer_check_replicas(self->optimizer, NULL), ZERO1_OK);
}

static void train_step(rank_run *self, int step) {
  const job *const what = self->what;
  if (what->grads_first)
    for (int i = PARAMS - 1; i >= 0; --i) write_grad(self, step, i);
  forward(self, self->mine->seen[step]);
  if (what->rewrites && step == 2) rewrite(self);
  backward(self, step, self->mine->late[step]);
  update(self);
  if (what->replicas && step == 3) check_replicas(self);
  if (what->ask) ask(self, step);
}

/* ---- steps as a graph ---- */

static cudaGraphExec_t capture(rank_run *self) {
  cudaGraph_t recorded;
  cudaGraphExec_t exec;
  const cudaStream_t first = (cudaStream_t)self->streams[0];
  CHECK_CUDA(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal));
  join(self->streams[0], self->streams[1]);
  forward(self, self->mine->graph_seen);
  backward(self, 0, self->mine->graph_late);
  update(self);
  wait_params(self);
  join(self->streams[1], self->streams[0]);
  CHECK_CUDA(cudaStreamEndCapture(first, &recorded));
  CHECK_CUDA(cudaGraphInstantiate(&exec, recorded, 0));
  CHECK_CUDA(cudaGraphDestroy(recorded));
  return exec;
}

/* The second stream is the graph's as well. */
static void launch(rank_run *self, cudaGraphExec_t exec, int step) {
  history *const mine = self->mine;
  void *const first = self->streams[0];
  hooks_call("replay");
  join(self->streams[1], first);
  CHECK_STATUS(zero1_optimizer_replay(self->optimizer, first), ZERO1_OK);
  CHECK_CUDA(cudaGraphLaunch(exec, (cudaStream_t)first));
  device_copy(mine->seen[step], mine->graph_seen, sizeof mine->graph_seen, first);
  device_copy(mine->late[step], mine->graph_late, sizeof mine->graph_late, first);
  join(first, self->streams[1]);
}

/* Steps 0, 1 and 4 come one by one. */
static void train_graph(rank_run *self) {
  train_step(self, 0);
  train_step(self, 1);
  const cudaGraphExec_t exec = capture(self);
  launch(self, exec, 2);
  launch(self, exec, 3);
  train_step(self, 4);
  launch(self, exec, 5);
  forward(self, self->mine->seen[STEPS]);
  sync_streams(self);
  CHECK_CUDA(cudaGraphExecDestroy(exec));
}

static void train(rank_run *self) {
  if (self->what->graph && self->kind == ZERO1_DEVICE_CUDA) {
    train_graph(self);
  } else {
    for (int step = 0; step < STEPS; ++step) train_step(self, step);
    forward(self, self->mine->seen[STEPS]);
    sync_streams(self);
  }
  ask(self, STEPS - 1);
}

/* ---- what was read ---- */

static void same(const rank_run *self, const char *what, int step, const float *read,
                 const float *expected) {
  const size_t each = each_of(self->what);
  for (int64_t at = 0; at < TOTAL; ++at) {
    if (!memcmp((const char *)read + at * (int64_t)each,
                (const char *)expected + at * (int64_t)each, each))
      continue;
    fprintf(stderr, "rank %d: %s of step %d: element %lld is another\n", self->rank, what, step,
            (long long)at);
    CHECK(!"bits that do not depend on the ranks");
  }
}

static void compare(const rank_run *self, const history *expected) {
  for (int step = 0; step <= STEPS; ++step)
    same(self, "forward", step, self->mine->seen[step], expected->seen[step]);
  for (int step = 0; step < STEPS; ++step) {
    same(self, "backward", step, self->mine->late[step], expected->late[step]);
    CHECK(!memcmp(&self->mine->norm[step], &expected->norm[step], sizeof(double)));
  }
}

/* By a stream of its own: nothing of the library's orders it. */
static void copy_now(void *to, const void *from, size_t bytes) {
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  device_copy(to, from, bytes, stream);
  CHECK_CUDA(cudaStreamSynchronize(stream));
  CHECK_CUDA(cudaStreamDestroy(stream));
}

/* sync_params has set them when it returns: bf16's are the parameters, in fp32. */
static void check_masters(rank_run *self) {
  int64_t count;
  CHECK_STATUS(zero1_optimizer_owned_count(self->optimizer, &count), ZERO1_OK);
  for (int64_t at = 0; at < count; ++at) {
    zero1_owned owned;
    CHECK_STATUS(zero1_optimizer_owned(self->optimizer, at, 1, &owned, sizeof owned), ZERO1_OK);
    const int64_t numel = owned.end - owned.begin;
    copy_now(self->mine->masters, owned.master_param, (size_t)numel * sizeof(float));
    for (int64_t i = 0; i < numel; ++i)
      CHECK(self->mine->masters[i] == (float)((owned.param + owned.begin + i) % 64) / 16);
  }
}

/* When it returns, every rank has the root's values, and the root may write. */
static void broadcast(rank_run *self) {
  zero1__channel *const channel = self->optimizer->channel;
  zero1__error error = {0};
  hooks_call("broadcast");
  for (int32_t round = 1; round <= 3; ++round) {
    int32_t got;
    if (self->rank == 0 && is_slow(hooks_here, "root")) sleep_us(10000 * hooks.times);
    if (self->rank == 0) copy_now(channel->params, &round, sizeof round);
    CHECK_STATUS(channel->ops->broadcast(channel, 0, &error), ZERO1_OK);
    copy_now(&got, channel->params, sizeof got);
    CHECK_EQ(got, round);
  }
}

/* What rank 1 changes by itself is found. */
static void diverge(rank_run *self) {
  const float changed = 1000;
  int32_t diverged;
  if (self->rank == 1) copy_now(self->optimizer->channel->params, &changed, sizeof changed);
  hooks_call("check_replicas");
  CHECK_STATUS(zero1_optimizer_check_replicas(self->optimizer, &diverged), ZERO1_ERR_DIVERGED);
  CHECK_EQ(diverged, 1);
}

/* ---- a rank ---- */

static void create(rank_run *self, zero1_comm *comm) {
  const job *const what = self->what;
  zero1_config config;
  zero1_param_spec specs[PARAMS] = {0};
  char names[PARAMS][8];
  for (int i = 0; i < PARAMS; ++i) {
    snprintf(names[i], sizeof names[i], "p%d", i);
    specs[i] = (zero1_param_spec){.name = names[i], .shape = &SIZES[i], .ndim = 1};
  }
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.bucket_numel = (int64_t)BLOCKS_PER_SHARD * what->world * 256;
  config.threads = 1;
  config.overlap = !what->no_overlap;
  config.guard = !what->one_pass;
  config.max_grad_norm = what->one_pass ? 0 : 100;
  config.grad_scale = 1.0 / what->world;
  config.timeout_seconds = what->timeout_seconds > 0 ? what->timeout_seconds : 15;
  config.param_dtype = config.grad_dtype = what->bf16 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
  config.device = self->kind;
  if (self->kind == ZERO1_DEVICE_CUDA) {
    config.offload = what->offload;
    config.find_culprit = what->culprit > 0;
    config.stream = self->streams[0];
  }
  CHECK_STATUS(
      zero1_optimizer_create(comm, &config, specs, sizeof *specs, PARAMS, &self->optimizer),
      ZERO1_OK);
}

/* Parameters that only rank 0 has. */
static void begin_params(rank_run *self) {
  if (self->rank == 0) write_params(self, self->mine->before);
  hooks_call("sync_params");
  CHECK_STATUS(zero1_optimizer_sync_params(self->optimizer, 0), ZERO1_OK);
}

static void begin_streams(rank_run *self) {
  void *memory;
  for (int i = 0; i < STREAMS; ++i) {
    cudaStream_t stream;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    self->streams[i] = stream;
  }
  CHECK_CUDA(cudaHostAlloc(&memory, sizeof *self->mine, cudaHostAllocDefault));
  self->mine = memset(memory, 0, sizeof *self->mine);
}

static void end_streams(rank_run *self) {
  sync_streams(self);
  for (int i = 0; i < STREAMS; ++i) CHECK_CUDA(cudaStreamDestroy((cudaStream_t)self->streams[i]));
  CHECK_CUDA(cudaFreeHost(self->mine));
}

/* The ranks over NCCL, or the comm that they have. */
static zero1_comm *comm_of(const run *all, zero1_comm *threads, int32_t rank) {
  zero1_comm_options options;
  zero1_comm *comm;
  threads->inline_calls = all->what->inline_calls;
  if (all->what->way != NCCL && all->what->way != ORDERED) return threads;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ordered = all->what->way == ORDERED;
  options.workspace_bytes = 1; /* chunks of one block: the ring goes round many times */
  CHECK_STATUS(
      zero1_comm_create_nccl_id(rank, all->what->world, all->id, sizeof all->id, &options, &comm),
      ZERO1_OK);
  return comm;
}

static void train_rank(int32_t rank, zero1_comm *threads, void *arg) {
  const run *const all = arg;
  rank_run self = {.what = all->what,
                   .kind = ZERO1_DEVICE_CUDA,
                   .rank = rank,
                   .world = zero1_comm_world_size(threads)};
  zero1_comm *comm = comm_of(all, threads, rank);
  begin_streams(&self);
  make_inputs(&self);
  create(&self, comm);
  hooks_begin(self.optimizer, rank, self.streams, STREAMS);
  if (self.what->begins) hooks_arm();
  begin_params(&self);
  if (self.what->begins) check_masters(&self);
  CHECK_STATUS(zero1_comm_barrier(threads), ZERO1_OK);
  if (!self.what->begins) hooks_arm();
  train(&self);
  compare(&self, all->expected);
  if (self.what->broadcasts) broadcast(&self);
  if (self.what->replicas) diverge(&self);
  hooks_end();
  zero1_optimizer_destroy(&self.optimizer);
  end_streams(&self);
  if (comm != threads) zero1_comm_destroy(&comm);
}

/* What one rank by itself comes to, on the host. The caller frees it. */
static history *expect(const job *what) {
  rank_run self = {.what = what, .kind = ZERO1_DEVICE_HOST, .world = 1};
  zero1_comm *comm;
  self.mine = calloc(1, sizeof *self.mine);
  CHECK(self.mine);
  for (int i = 0; i < STREAMS; ++i) self.streams[i] = ZERO1_STREAM_DEFAULT;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  make_inputs(&self);
  create(&self, comm);
  begin_params(&self);
  train(&self);
  zero1_optimizer_destroy(&self.optimizer);
  zero1_comm_destroy(&comm);
  return self.mine;
}

/* Trains on threads; ends the process where anything differs. */
static void check_job(const job *what) {
  run all = {.what = what, .expected = expect(what)};
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->way == EXCHANGE;
  options.workspace_bytes = 1;
  options.timeout_seconds = 15;
  if (what->way == NCCL || what->way == ORDERED)
    CHECK_STATUS(zero1_nccl_unique_id(all.id, sizeof all.id), ZERO1_OK);
  check_threads(what->world, &options, train_rank, &all);
  free(all.expected);
}

#endif
