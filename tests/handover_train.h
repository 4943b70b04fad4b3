/* A few training steps whose gradients are small integers: sums are exact in any order, so whatever
 * the ranks, their parameters after every step are those of one rank that has it all. Included by
 * test_handover.c alone. */
#ifndef ZERO1_TESTS_HANDOVER_TRAIN_H
#define ZERO1_TESTS_HANDOVER_TRAIN_H

#include "handover_hooks.h"

enum { STEPS = 4, PARAMS = 8, MAX_NUMEL = 1100, BLOCKS_PER_SHARD = 3 };

/* 24 blocks, with holes of all sizes. */
static const int64_t SIZES[PARAMS + 1] = {600, 1, 512, 1100, 256, 300, 900, 700, 0};

typedef struct job {
  const char *name;
  int32_t world, ranks_per_node; /* 0: one node */
  int32_t bf16, private_params, no_overlap, one_pass, threads;
  int32_t grads_first; /* writes the next gradients before forward waits for a parameter */
  int32_t broadcast;   /* the waits of sync_params are looked at: armed before it */
  int32_t split;       /* reduce_grads, then step */
  int32_t two;         /* optimizers at a time */
  int32_t int8; /* gradients travel in 8 bits, which hold them; 2: the same gradients as they are */
  int32_t inline_calls; /* as where MPI allows no threads: messages in the caller's own calls */
} job;

/* What every rank has seen, and one rank by itself must have seen. */
typedef struct history {
  float params[STEPS + 1][PARAMS][MAX_NUMEL];  /* as forward of step s reads them */
  float masters[STEPS + 1][PARAMS][MAX_NUMEL]; /* those that the ranks own; all ranks write it */
  double grad_norm[STEPS];
} history;

typedef struct run {
  const job *what;
  int32_t parts; /* ranks whose gradients one rank alone adds up; 0: its own only */
  history *expected;
  history *seen; /* by rank 0 */
} run;

static float to_float(const void *array, int64_t i, int32_t bf16) {
  uint32_t bits;
  if (!bf16) return ((const float *)array)[i];
  bits = (uint32_t)((const uint16_t *)array)[i] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Values that bf16 holds. */
static void from_float(void *array, int64_t i, int32_t bf16, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (bf16)
    ((uint16_t *)array)[i] = (uint16_t)(bits >> 16);
  else
    ((float *)array)[i] = value;
}

/* Step 1: parameter 5 is absent everywhere; step 2: parameter 3 on rank 0. */
static int is_absent(int step, int32_t rank, int param) {
  return (step == 1 && param == 5) || (step == 2 && param == 3 && rank == 0);
}

/* In [-8, 8], of another sign pattern every step. With int8 the first of each block is 127, so that
 * its scale is 1. */
static float gradient_of(const job *what, int step, int32_t rank, int param, int64_t i) {
  if (is_absent(step, rank, param)) return 0;
  if (what->int8 && i % 256 == 0) return 127;
  const uint32_t mixed =
      ((uint32_t)step * 31 + (uint32_t)rank * 17 + (uint32_t)param * 7 + (uint32_t)i) * 2654435761u;
  return (float)((int32_t)(mixed >> 20) % 17 - 8);
}

static zero1_optimizer *create(zero1_comm *comm, const job *what, int32_t scale_world) {
  zero1_optimizer *optimizer;
  zero1_config config;
  zero1_param_spec specs[PARAMS + 1] = {0};
  char names[PARAMS + 1][8];
  for (int i = 0; i <= PARAMS; ++i) {
    snprintf(names[i], sizeof names[i], "p%d", i);
    specs[i].name = names[i];
    specs[i].shape = &SIZES[i];
    specs[i].ndim = 1;
  }
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.bucket_numel = (int64_t)BLOCKS_PER_SHARD * what->world * 256;
  config.threads = what->threads ? what->threads : 1;
  config.share_params = !what->private_params;
  config.overlap = !what->no_overlap;
  config.guard = !what->one_pass;
  config.max_grad_norm = what->one_pass ? 0 : 100;
  config.grad_scale = 1.0 / scale_world;
  config.timeout_seconds = 10;
  if (what->int8 == 1) config.grad_wire_dtype = ZERO1_WIRE_INT8;
  config.param_dtype = config.grad_dtype = what->bf16 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
  CHECK_STATUS(zero1_optimizer_create(comm, &config, specs, sizeof *specs, PARAMS + 1, &optimizer),
               ZERO1_OK);
  return optimizer;
}

static void write_params(zero1_optimizer *optimizer, const job *what) {
  for (int i = 0; i < PARAMS; ++i) {
    void *param;
    CHECK_STATUS(zero1_optimizer_param(optimizer, i, &param), ZERO1_OK);
    for (int64_t j = 0; j < SIZES[i]; ++j)
      from_float(param, j, what->bf16, (float)((i + j) % 64) / 16);
  }
}

static void mark(zero1_optimizer *optimizer, const run *self, int32_t rank, int step, int param) {
  const int absent = self->parts ? is_absent(step, 1, param) : is_absent(step, rank, param);
  CHECK_STATUS(absent ? zero1_optimizer_grad_absent(optimizer, param, NULL)
                      : zero1_optimizer_grad_ready(optimizer, param, NULL),
               ZERO1_OK);
}

static void write_grads(zero1_optimizer *optimizer, const run *self, int32_t rank, int step) {
  for (int i = PARAMS - 1; i >= 0; --i) {
    void *grad;
    hooks_call = "wait_grad";
    CHECK_STATUS(zero1_optimizer_wait_grad(optimizer, i, NULL), ZERO1_OK);
    hooks_call = "";
    CHECK_STATUS(zero1_optimizer_grad(optimizer, i, &grad), ZERO1_OK);
    if (i == 0 || i == PARAMS / 2) slow_caller(rank);
    for (int64_t j = 0; j < SIZES[i]; ++j) {
      float sum = 0;
      for (int32_t part = 0; part < self->parts; ++part)
        sum += gradient_of(self->what, step, part, i, j);
      from_float(grad, j, self->what->bf16,
                 self->parts ? sum : gradient_of(self->what, step, rank, i, j));
    }
    if (!self->what->grads_first) mark(optimizer, self, rank, step, i);
  }
}

static void same(const char *what, int step, int param, int64_t i, double value, double expected) {
  if (value == expected) return;
  fprintf(stderr, "step %d: %s %d [%lld] is %.9g, not %.9g\n", step, what, param, (long long)i,
          value, expected);
  CHECK(!"bits that do not depend on the ranks");
}

static void read_params(zero1_optimizer *optimizer, run *self, int32_t rank, int step) {
  for (int i = 0; i < PARAMS; ++i) {
    void *param;
    hooks_call = "wait_param";
    CHECK_STATUS(zero1_optimizer_wait_param(optimizer, i, NULL), ZERO1_OK);
    hooks_call = "";
    CHECK_STATUS(zero1_optimizer_param(optimizer, i, &param), ZERO1_OK);
    for (int64_t j = 0; j < SIZES[i]; ++j) {
      const float value = to_float(param, j, self->what->bf16);
      if (self->expected)
        same("parameter", step, i, j, value, self->expected->params[step][i][j]);
      else if (rank == 0)
        self->seen->params[step][i][j] = value;
    }
  }
}

static void read_masters(zero1_optimizer *optimizer, run *self, int step) {
  int64_t count;
  zero1_owned owned;
  CHECK_STATUS(zero1_optimizer_owned_count(optimizer, &count), ZERO1_OK);
  for (int64_t at = 0; at < count; ++at) {
    CHECK_STATUS(zero1_optimizer_owned(optimizer, at, 1, &owned, sizeof owned), ZERO1_OK);
    for (int64_t j = owned.begin; j < owned.end; ++j) {
      const float value = owned.master_param[j - owned.begin];
      if (self->expected)
        same("master", step, (int)owned.param, j, value,
             self->expected->masters[step][owned.param][j]);
      else
        self->seen->masters[step][owned.param][j] = value;
    }
  }
}

static void read_norm(zero1_optimizer *optimizer, run *self, int step) {
  zero1_info info;
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.count, step + 1);
  if (self->expected)
    same("norm", step, -1, 0, info.grad_norm, self->expected->grad_norm[step]);
  else
    self->seen->grad_norm[step] = info.grad_norm;
}

/* Odd steps are asked about at once, the others when their parameters have been read. */
static void train(zero1_optimizer *optimizer, run *self, int32_t rank) {
  for (int step = 0; step < STEPS; ++step) {
    if (self->what->grads_first) write_grads(optimizer, self, rank, step);
    CHECK_STATUS(zero1_optimizer_wait_param(optimizer, PARAMS, NULL), ZERO1_OK);
    read_params(optimizer, self, rank, step);
    if (step && step % 2) read_norm(optimizer, self, step - 1);
    if (!self->what->grads_first) write_grads(optimizer, self, rank, step);
    for (int i = PARAMS - 1; i >= 0 && self->what->grads_first; --i)
      mark(optimizer, self, rank, step, i);
    if (self->what->split) CHECK_STATUS(zero1_optimizer_reduce_grads(optimizer), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_OK);
    if (step % 2) read_norm(optimizer, self, step);
  }
  CHECK_STATUS(zero1_optimizer_wait_param(optimizer, PARAMS, NULL), ZERO1_OK);
  read_params(optimizer, self, rank, STEPS);
  read_masters(optimizer, self, STEPS);
}

/* A private copy that one rank changes by itself is found out. */
static void diverge(zero1_optimizer *optimizer, const job *what, int32_t rank) {
  int32_t diverged;
  void *param;
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_OK);
  if (what->world == 1 || (!what->private_params && what->ranks_per_node != 1)) return;
  CHECK_STATUS(zero1_optimizer_param(optimizer, 2, &param), ZERO1_OK);
  if (rank == 1) from_float(param, 5, what->bf16, 1000);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, &diverged), ZERO1_ERR_DIVERGED);
  CHECK_EQ(diverged, 1);
}

/* A step that fails is told by whoever waits for a parameter, one without elements too. */
static void fail_a_step(zero1_optimizer *optimizer, int32_t rank) {
  for (int i = PARAMS; i >= (rank == 0 ? 1 : 0); --i)
    CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, i, NULL), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(optimizer), rank == 0 ? ZERO1_ERR_STATE : ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_param(optimizer, PARAMS, NULL),
               rank == 0 ? ZERO1_OK : ZERO1_ERR_STATE);
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, NULL), ZERO1_OK);
}

/* The call by itself: when it returns, every rank has the root's values, and the root may write. */
static void broadcast_again(zero1_optimizer *optimizer, const job *what, int32_t rank) {
  zero1__channel *const channel = optimizer->channel;
  zero1__error error = {0};
  void *param;
  if (!what->private_params && what->ranks_per_node != 1) return;
  CHECK_STATUS(zero1_optimizer_param(optimizer, 2, &param), ZERO1_OK);
  for (int round = 1; round <= 2; ++round) {
    for (int64_t i = 0; i < SIZES[2]; ++i)
      if (rank == 0) from_float(param, i, what->bf16, (float)round);
    CHECK_STATUS(channel->ops->broadcast(channel, 0, &error), ZERO1_OK);
    for (int64_t i = 0; i < SIZES[2]; ++i)
      same("broadcast", round, 2, i, to_float(param, i, what->bf16), round);
  }
}

/* A second optimizer on the same comm, driven by a thread of its own. */
typedef struct second {
  pthread_t thread;
  zero1_optimizer *optimizer;
  run *self;
  int32_t rank;
} second;

static void *train_second(void *context) {
  second *const at = context;
  check__thread_rank = at->rank;
  train(at->optimizer, at->self, at->rank);
  return NULL;
}

static void train_both(zero1_optimizer *optimizer, zero1_comm *comm, run *self, int32_t rank) {
  second at = {.self = self, .rank = rank};
  at.optimizer = create(comm, self->what, self->what->world);
  if (rank == 0) write_params(at.optimizer, self->what);
  CHECK_STATUS(zero1_optimizer_sync_params(at.optimizer, 0), ZERO1_OK);
  CHECK(!pthread_create(&at.thread, NULL, train_second, &at));
  train(optimizer, self, rank);
  CHECK(!pthread_join(at.thread, NULL));
  CHECK_STATUS(zero1_optimizer_check_replicas(at.optimizer, NULL), ZERO1_OK);
  zero1_optimizer_destroy(&at.optimizer);
}

static void train_rank(int32_t rank, zero1_comm *comm, void *arg) {
  run *const self = arg;
  const job *const what = self->what;
  if (what->inline_calls) comm->inline_calls = 1;
  hooks_on_wire(comm);
  zero1_optimizer *optimizer = create(comm, what, what->world);
  hooks_know(comm, optimizer);
  if (rank == 0) write_params(optimizer, what);
  if (what->broadcast) hooks_arm();
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  read_masters(optimizer, self, 0);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  if (!what->broadcast) hooks_arm();
  if (what->two)
    train_both(optimizer, comm, self, rank);
  else
    train(optimizer, self, rank);
  fail_a_step(optimizer, rank);
  diverge(optimizer, what, rank);
  broadcast_again(optimizer, what, rank);
  zero1_optimizer_destroy(&optimizer);
  CHECK(!optimizer);
}

/* What one rank by itself comes to. The caller frees it. */
static history *expect(const job *what) {
  history *const expected = calloc(1, sizeof *expected);
  zero1_comm *comm;
  const hooks_plan plan = hooks;
  CHECK(expected);
  hooks = (hooks_plan){0};
  run alone = {what, what->world, NULL, expected};
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  job one = *what;
  one.private_params = 0;
  if (what->int8) one.int8 = 2;
  alone.what = &one;
  zero1_optimizer *optimizer = create(comm, &one, what->world);
  write_params(optimizer, &one);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  read_masters(optimizer, &alone, 0);
  train(optimizer, &alone, 0);
  zero1_optimizer_destroy(&optimizer);
  zero1_comm_destroy(&comm);
  hooks = plan;
  return expected;
}

/* Trains on threads; ends the process where anything differs. */
static void compare(const job *what) {
  history *const expected = expect(what);
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->ranks_per_node;
  options.workspace_bytes = 1; /* chunks of one block: the ring goes round many times */
  options.timeout_seconds = 10;
  hooks_world = what->world;
  run self = {what, 0, expected, NULL};
  check_threads(what->world, &options, train_rank, &self);
  free(expected);
}

#endif
