// sanitizers: address undefined thread
// devices: host standin cuda
// standin-sanitizers: thread

/* What config.grad_wire_dtype and param_wire_dtype round, number by number, whichever way the ranks
 * are joined: one rank; 2 of a node, 2 nodes of one; 2 nodes of 2. test_sum_order.c has the sums of
 * many ranks, test_promise.c whole trainings.
 *
 * bf16 has 8 bits: from 1 to 2 its values are 2^-7 = 1/128 apart. */
#include "trainer.h"

enum { RANKS_MAX = 4, NUMEL = 300 }; /* two blocks, the second a short one */

static const zero1_group groups[] = {{sizeof(zero1_group), 0.3, 0.5, 0.5, 1e-8, 0, 1, 0}};
static const trainer_param params[] = {{NUMEL, 0, 0}, {5, 0, ZERO1_PARAM_FROZEN}};

typedef struct wire_case {
  trainer_case train;
  int32_t world_size, ranks_per_node;
  const float *grads; /* [world_size] what each rank's gradient is full of */
  float sum;          /* what comes of them */
  int32_t bad_rank;   /* -1: none */
  zero1_info info[RANKS_MAX];
} wire_case;

static const trainer_case base = {.params = params,
                                  .param_count = 2,
                                  .groups = groups,
                                  .group_count = 1,
                                  .steps = 1,
                                  .guard = 1,
                                  .grad_scale = 1,
                                  .bucket_numel = 512,
                                  .threads = 1,
                                  .share_params = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1};

static void run(wire_case *what, check_rank_fn fn) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->ranks_per_node;
  check_threads(what->world_size, &options, fn, what);
}

/* ---- gradients ---- */

static void fill_grad(trainer *self, int64_t param, void *grad) {
  const wire_case *what = (const wire_case *)self->context;
  for (int64_t e = 0; e < self->what->params[param].numel; ++e)
    trainer_store(grad, self->what->grad_dtype, e, what->grads[self->rank]);
}

/* exp_avg after the first step is half the sum: every bit of it. */
static void check_sum(trainer *self, float sum) {
  const float half = 0.5f * sum;
  int64_t count;
  CHECK_STATUS(zero1_optimizer_owned_count(self->optimizer, &count), ZERO1_OK);
  for (int64_t i = 0; i < count; ++i) {
    zero1_owned owned;
    CHECK_STATUS(zero1_optimizer_owned(self->optimizer, i, 1, &owned, sizeof owned), ZERO1_OK);
    const size_t numel = (size_t)(owned.end - owned.begin);
    const float *const exp_avg = (const float *)device_read(
        &self->caller, owned.exp_avg, numel * sizeof half, self->caller.streams[0]);
    for (size_t e = 0; e < numel; ++e) CHECK(exp_avg[e] == half);
  }
}

static void sum_rank(int32_t rank, zero1_comm *comm, void *arg) {
  wire_case *const what = (wire_case *)arg;
  trainer self;
  trainer_begin(&self, &what->train, comm);
  self.spoil = fill_grad;
  self.context = what;
  trainer_step(&self, 0, &what->info[rank]);
  CHECK_EQ(what->info[rank].skipped, what->bad_rank >= 0);
  CHECK_EQ(what->info[rank].bad_rank, what->bad_rank);
  check_sum(&self, what->bad_rank < 0 ? what->sum : 0);
  trainer_end(&self);
}

typedef struct row {
  int32_t world_size, reduce_group;
  float grads[RANKS_MAX], sum;
} row;

/* In one pass and in two, over every way that there is to so many ranks. */
static void check_rows(const row *rows, size_t count, int32_t grad_dtype, int32_t grad_wire) {
  for (size_t i = 0; i < count; ++i)
    for (int32_t per_node = 0; per_node <= 2; ++per_node)
      for (int32_t guard = 0; guard < 2; ++guard) {
        const row *at = &rows[i];
        if (per_node == 2 && at->world_size < 4) continue;
        wire_case what = {.train = base,
                          .world_size = at->world_size,
                          .ranks_per_node = per_node,
                          .grads = at->grads,
                          .sum = at->sum,
                          .bad_rank = -1};
        what.train.grad_dtype = grad_dtype;
        what.train.grad_wire = grad_wire;
        what.train.guard = guard;
        what.train.reduce_group = at->reduce_group;
        run(&what, sum_rank);
      }
}

/* Halves go to the even neighbour: 1 + 1/256 lies between 1 and 1 + 2/256, and 1 + 3/256 between
 * 1 + 2/256 and 1 + 4/256. Sums have all bits of fp32. */
static void every_gradient_is_rounded_ones_own_too(void) {
  static const row rows[] = {
      {1, 0, {1 + 1.0f / 256}, 1},
      {1, 0, {1 + 3.0f / 256}, 1 + 4.0f / 256},
      {1, 0, {1 + 1.0f / 256 + 0x1p-20f}, 1 + 2.0f / 256},
      {2, 0, {1 + 1.0f / 256, 0x1p-20f}, 1 + 0x1p-20f},
      {2, 0, {1 + 3.0f / 256, 1 + 1.0f / 256}, 2 + 4.0f / 256},
      {4, 4, {1 + 1.0f / 256, 1 + 1.0f / 256, 1 + 1.0f / 256, 0x1p-20f}, 3 + 0x1p-20f},
  };
  check_rows(rows, sizeof rows / sizeof *rows, ZERO1_DTYPE_FP32, ZERO1_WIRE_BF16);
}

/* 1 + 2^-10 rounds to 1, whether the two ranks share memory or not. One group's sum is not rounded:
 * nothing is summed across groups. */
static void sums_of_groups_are_rounded_where_there_are_several(void) {
  static const row rows[] = {
      {4, 2, {1, 0x1p-10f, 1, 0x1p-10f}, 2},
      {4, 4, {1, 0x1p-10f, 1, 0x1p-10f}, 2 + 0x1p-9f},
      {4, 1, {1, 0x1p-10f, 1, 0x1p-10f}, 2 + 0x1p-9f},
      {2, 2, {1, 0x1p-10f}, 1 + 0x1p-10f},
  };
  check_rows(rows, sizeof rows / sizeof *rows, ZERO1_DTYPE_FP32, ZERO1_WIRE_BF16);
  check_rows(rows, sizeof rows / sizeof *rows, ZERO1_DTYPE_BF16, ZERO1_WIRE_BF16);
}

/* Nothing is rounded but what was asked for. */
static void a_wire_as_wide_as_memory_or_wider_rounds_nothing(void) {
  static const row coarse[] = {{4, 2, {1, 0x1p-10f, 1, 0x1p-10f}, 2 + 0x1p-9f},
                               {2, 0, {1, 0x1p-10f}, 1 + 0x1p-10f}};
  static const row fine[] = {{2, 0, {1 + 1.0f / 256, 0x1p-20f}, 1 + 1.0f / 256 + 0x1p-20f}};
  for (int32_t wire = ZERO1_WIRE_AS_IN_MEMORY; wire <= ZERO1_WIRE_FP32; ++wire) {
    check_rows(coarse, 2, ZERO1_DTYPE_BF16, wire);
    check_rows(fine, 1, ZERO1_DTYPE_FP32, wire);
  }
}

/* The largest bf16 is 255 * 2^120; from halfway to the next one it is infinite. */
static void a_gradient_beyond_the_largest_bf16_is_not_finite(void) {
  static const float grads[2][2] = {{1, 0x1.fefffep+127f}, {1, 0x1.ffp+127f}};
  for (int32_t per_node = 0; per_node <= 1; ++per_node)
    for (int32_t over = 0; over < 2; ++over) {
      wire_case what = {.train = base,
                        .world_size = 2,
                        .ranks_per_node = per_node,
                        .grads = grads[over],
                        .sum = 0x1.fep+127f,
                        .bad_rank = over ? 1 : -1};
      what.train.grad_wire = ZERO1_WIRE_BF16;
      run(&what, sum_rank);
      for (int32_t rank = 0; rank < 2; ++rank) {
        CHECK_EQ(what.info[rank].bad_param, over ? 0 : -1);
        CHECK_EQ(what.info[rank].nonfinite_numel, over ? NUMEL : 0);
      }
    }
}

/* ---- parameters ---- */

static void write_params(trainer *self, zero1_comm *comm, float value) {
  for (int32_t i = 0; i < 2 && trainer_may_write(self, comm, 0); ++i) {
    float *const param = (float *)trainer_begin_param(self, i);
    for (int64_t e = 0; e < params[i].numel; ++e) param[e] = value;
    trainer_end_param(self, i, param);
  }
}

static void check_params(trainer *self, float trainable, float frozen) {
  const float expected[] = {trainable, frozen};
  for (int32_t i = 0; i < 2; ++i) {
    const float *const param = (const float *)trainer_read_param(self, i, self->caller.streams[0]);
    for (int64_t e = 0; e < params[i].numel; ++e) CHECK(param[e] == expected[i]);
  }
}

static float rounded(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Masters, which are memory of their own; returns one of them, or 0 where this rank owns none. */
static float check_masters(trainer *self, const float *expected) {
  int64_t count;
  float master = 0;
  CHECK_STATUS(zero1_optimizer_owned_count(self->optimizer, &count), ZERO1_OK);
  for (int64_t i = 0; i < count; ++i) {
    zero1_owned owned;
    CHECK_STATUS(zero1_optimizer_owned(self->optimizer, i, 1, &owned, sizeof owned), ZERO1_OK);
    const size_t numel = (size_t)(owned.end - owned.begin);
    const float *const masters = (const float *)device_read(
        &self->caller, owned.master_param, numel * sizeof master, self->caller.streams[0]);
    master = masters[0];
    for (size_t e = 0; e < numel; ++e) CHECK(masters[e] == (expected ? *expected : master));
  }
  return master;
}

/* What the caller writes goes into the masters, all of it; parameters are what they round to, on
 * every rank, before a step and after it. */
static void publish_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const wire_case *const what = (const wire_case *)arg;
  const float written = 1 + 0x1p-10f, changed = 3 + 0x1p-12f;
  trainer self;
  zero1_info info;
  (void)rank;
  trainer_begin(&self, &what->train, comm);
  write_params(&self, comm, written);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_OK);
  check_params(&self, 1, written);
  check_masters(&self, &written);
  self.spoil = fill_grad;
  self.context = arg;
  trainer_step(&self, 0, &info);
  const float master = check_masters(&self, NULL);
  if (master != 0) {
    CHECK(master < 0.8f && rounded(master) != master); /* a step of lr, which is 0.3 */
    check_params(&self, rounded(master), written);
  }
  CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, NULL), ZERO1_OK);
  /* Nothing was written: masters keep the bits that parameters do not have. */
  CHECK_STATUS(zero1_optimizer_params_changed(self.optimizer), ZERO1_OK);
  if (master != 0) check_masters(&self, &master);
  zero1_comm_barrier(comm);
  write_params(&self, comm, changed);
  CHECK_STATUS(zero1_optimizer_params_changed(self.optimizer), ZERO1_OK);
  check_params(&self, 3, changed);
  check_masters(&self, &changed);
  trainer_end(&self);
}

static void parameters_are_their_masters_rounded_on_every_rank(void) {
  static const float grads[RANKS_MAX] = {0.3f, 0.3f, 0.3f, 0.3f};
  static const int32_t shapes[][2] = {{1, 0}, {2, 0}, {2, 1}, {3, 1}, {4, 2}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i)
    for (int32_t share = 0; share < 2; ++share)
      for (int32_t guard = 0; guard < 2; ++guard) {
        wire_case what = {.train = base,
                          .world_size = shapes[i][0],
                          .ranks_per_node = shapes[i][1],
                          .grads = grads,
                          .bad_rank = -1};
        if (share && shapes[i][1] == 2) continue; /* the root writes its own node's alone */
        what.train.share_params = share;
        what.train.guard = guard;
        what.train.param_wire = ZERO1_WIRE_BF16;
        run(&what, publish_rank);
      }
}

/* ---- bytes ---- */

/* 2 nodes of one rank: each sends the half of a gradient that it does not own, and the half of the
 * parameters that it does; 2 blocks, of 256 and 44 elements. */
static void half_the_bytes_are_sent(void) {
  static const float grads[] = {1, 1};
  for (int32_t wires = 0; wires < 4; ++wires) {
    wire_case what = {.train = base,
                      .world_size = 2,
                      .ranks_per_node = 1,
                      .grads = grads,
                      .sum = 2,
                      .bad_rank = -1};
    what.train.grad_wire = wires & 1 ? ZERO1_WIRE_BF16 : ZERO1_WIRE_FP32;
    what.train.param_wire = wires & 2 ? ZERO1_WIRE_BF16 : ZERO1_WIRE_FP32;
    run(&what, sum_rank);
    const int64_t grad = wires & 1 ? 2 : 4, param = wires & 2 ? 2 : 4;
    CHECK_EQ(what.info[0].sent_bytes, 44 * grad + 256 * param);
    CHECK_EQ(what.info[1].sent_bytes, 256 * grad + 44 * param);
  }
}

int main(void) {
  device_skip_without();
  RUN(every_gradient_is_rounded_ones_own_too);
  RUN(sums_of_groups_are_rounded_where_there_are_several);
  RUN(a_wire_as_wide_as_memory_or_wider_rounds_nothing);
  RUN(a_gradient_beyond_the_largest_bf16_is_not_finite);
  RUN(parameters_are_their_masters_rounded_on_every_rank);
  RUN(half_the_bytes_are_sent);
  return check_summary();
}
