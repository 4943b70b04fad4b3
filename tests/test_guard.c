// sanitizers: address undefined thread
// devices: host standin cuda
// standin-delay: 20
// standin-sanitizers: thread
// quarters: 2
// cost: 20

/* Steps that are skipped: by a gradient that is not finite, by a sum that overflows, by a norm
 * above the threshold. Every rank skips, nothing changes by one bit, and training goes on as if the
 * step had never been. */
#include "trainer.h"

static const trainer_param params[] = {
    {1000, 0, 0}, {7, 0, ZERO1_PARAM_NOT_IN_NORM}, {257, 0, 0}, {1, 0, 0}, {5000, 0, 0},
    {256, 0, 0},  {30, 0, ZERO1_PARAM_FROZEN},
};

static const zero1_group groups[] = {{sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0}};

static const trainer_case base = {.params = params,
                                  .param_count = sizeof params / sizeof *params,
                                  .groups = groups,
                                  .group_count = 1,
                                  .steps = 6,
                                  .guard = 1,
                                  .grad_scale = 0.37,
                                  .bucket_numel = 1500,
                                  .threads = 2,
                                  .share_params = 1,
                                  .overlap = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1};

/* One element of one rank's gradients that is overwritten. */
typedef struct mark {
  int32_t rank;
  int64_t param, element;
  float value;
} mark;

enum { MARKS = 3 };

typedef struct marks {
  mark at[MARKS];
  int32_t count;
} marks;

static void spoil(trainer *self, int64_t param, void *grad) {
  const marks *bad = (const marks *)self->context;
  for (int32_t i = 0; i < bad->count; ++i)
    if (bad->at[i].rank == self->rank && bad->at[i].param == param)
      trainer_store(grad, self->what->grad_dtype, bad->at[i].element, bad->at[i].value);
}

/* What info is expected to say. */
typedef struct verdict {
  int32_t reason;
  int64_t bad_param, nonfinite_numel;
  int32_t bad_rank;
} verdict;

static void check_unchanged(const trainer_result *before, const trainer_result *after) {
  const size_t numel = (size_t)before->numel;
  CHECK(!memcmp(before->owned, after->owned, numel));
  CHECK(!memcmp(before->params, after->params, numel * 4));
  CHECK(!memcmp(before->master_param, after->master_param, numel * 4));
  CHECK(!memcmp(before->exp_avg, after->exp_avg, numel * 4));
  CHECK(!memcmp(before->exp_avg_sq, after->exp_avg_sq, numel * 4));
}

/* The gradients of `step`, spoiled: the step is skipped and leaves no trace. */
static void check_skipped(trainer *self, int32_t step, marks *bad, verdict expected) {
  trainer_result before = trainer_result_make(self->what), after = trainer_result_make(self->what);
  zero1_info info;
  trainer_collect(self, &before);
  const zero1_info old = trainer_info(self);
  self->spoil = spoil;
  self->context = bad;
  trainer_backward(self, step);
  self->spoil = NULL;
  if (self->what->split) {
    CHECK_STATUS(zero1_optimizer_reduce_grads(self->optimizer), ZERO1_OK);
    CHECK_EQ(trainer_info(self).skip_reason, expected.reason);
  }
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_OK);
  info = trainer_info(self);
  CHECK_EQ(info.skipped, 1);
  CHECK_EQ(info.skip_reason, expected.reason);
  CHECK_EQ(info.bad_param, expected.bad_param);
  CHECK_EQ(info.bad_rank, expected.bad_rank);
  CHECK_EQ(info.nonfinite_numel, expected.nonfinite_numel);
  CHECK_EQ(info.count, old.count);
  CHECK_EQ(info.attempts, old.attempts + 1);
  CHECK(expected.reason == ZERO1_SKIP_NORM || isnan(info.grad_norm));
  trainer_collect(self, &after);
  check_unchanged(&before, &after);
  trainer_result_free(&before);
  trainer_result_free(&after);
}

typedef struct guard_case {
  trainer_case train;
  trainer_result reference;
  int32_t world_size, ranks_per_node;
  void (*before_step)(trainer *self, int32_t step);
} guard_case;

/* A training run with something bad before each step: in the end, the bits of one without. */
static void train_rank(int32_t rank, zero1_comm *comm, void *arg) {
  guard_case *const what = (guard_case *)arg;
  trainer_result mine = trainer_result_make(&what->train);
  trainer self;
  int64_t where;
  (void)rank;
  trainer_begin(&self, &what->train, comm);
  for (int32_t step = 0; step < what->train.steps; ++step) {
    zero1_info info;
    what->before_step(&self, step);
    trainer_backward(&self, step);
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
    mine.params_hash[step] = trainer_forward(&self);
    info = trainer_info(&self);
    mine.grad_norm[step] = info.grad_norm;
    mine.clip_coef[step] = info.clip_coef;
    CHECK_EQ(info.skipped, 0);
    CHECK_EQ(info.skip_reason, ZERO1_SKIP_NONE);
    CHECK_EQ(info.count, step + 1);
    CHECK_EQ(info.bad_param, -1);
    CHECK_EQ(info.bad_rank, -1);
    CHECK_EQ(info.nonfinite_numel, 0);
  }
  trainer_collect(&self, &mine);
  CHECK(!trainer_difference(&mine, &what->reference, &where));
  trainer_end(&self);
  trainer_result_free(&mine);
}

/* Over a node, nodes of one rank, nodes of two; every pair of dtypes, in one call and in two. */
static void over_every_way(void (*before_step)(trainer *self, int32_t step), double clip) {
  static const int32_t shapes[][2] = {{3, 0}, {8, 0}, {3, 1}, {4, 2},
                                      {2, 0}, {4, 1}, {8, 4}, {1, 0}};
  for (int32_t i = 0; i < 8; ++i) {
    guard_case what = {.train = base,
                       .world_size = shapes[i][0],
                       .ranks_per_node = shapes[i][1],
                       .before_step = before_step};
    zero1_comm_options options;
    what.train.param_dtype = i & 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    what.train.grad_dtype = i & 2 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    what.train.split = i / 2 % 2;
    what.train.overlap = i % 3 != 0;
    what.train.max_grad_norm = clip;
    trainer_run_alone(&what.train, &what.reference);
    CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
    options.ranks_per_node = what.ranks_per_node;
    options.workspace_bytes = 1;
    check_threads(what.world_size, &options, train_rank, &what);
    trainer_result_free(&what.reference);
  }
}

/* ---- one element ---- */

/* The first and the last of a parameter, of a block, and before padding. */
static void spoil_one_element(trainer *self, int32_t step) {
  static const struct {
    int64_t param, element;
  } places[] = {{0, 0}, {0, 999}, {4, 255}, {4, 256}, {4, 4999}, {1, 0},
                {1, 6}, {3, 0},   {5, 255}, {2, 256}, {2, 255},  {4, 2500}};
  const float values[] = {NAN, INFINITY, -INFINITY, -NAN};
  for (int32_t i = 0; i < 2; ++i) {
    const int32_t turn = 2 * step + i, rank = turn % self->world_size;
    marks bad = {{{rank, places[turn].param, places[turn].element, values[turn % 4]}}, 1};
    check_skipped(self, step, &bad, (verdict){ZERO1_SKIP_NONFINITE, places[turn].param, 1, rank});
  }
}

static void a_nan_or_inf_on_one_rank_makes_every_rank_skip(void) {
  over_every_way(spoil_one_element, 0);
}

static void so_it_does_where_gradients_are_clipped(void) {
  over_every_way(spoil_one_element, 400);
}

/* ---- several ---- */

/* Of two parameters the lower one is named, of two ranks the lower one. */
static void spoil_several_elements(trainer *self, int32_t step) {
  const int32_t last = self->world_size - 1, first = last > 0 ? 1 : 0;
  marks bad = {{{0, 4, 17, NAN}, {last, 2, 256, INFINITY}, {first, 2, 3, NAN}}, 3};
  check_skipped(self, step, &bad, (verdict){ZERO1_SKIP_NONFINITE, 2, 3, first});
}

static void the_lowest_parameter_and_its_lowest_rank_are_named(void) {
  over_every_way(spoil_several_elements, 0);
}

/* Infinities of both signs cancel to NaN: still the gradient's fault, not the sum's. */
static void spoil_with_both_signs(trainer *self, int32_t step) {
  const int32_t last = self->world_size - 1;
  marks bad = {{{0, 5, 9, INFINITY}, {last, 5, 9, -INFINITY}}, 2};
  check_skipped(self, step, &bad, (verdict){ZERO1_SKIP_NONFINITE, 5, 1, 0});
}

static void infinities_that_cancel_are_found(void) {
  over_every_way(spoil_with_both_signs, 0);
}

/* ---- overflow ---- */

/* Ranks next to each other, then the first and the last: inside a node and between two. */
static void spoil_by_overflow(trainer *self, int32_t step) {
  if (self->world_size == 1) return;
  const int32_t other = step % 2 ? 1 : self->world_size - 1;
  marks bad = {{{0, 2, 256, 0x1.8p127f}, {other, 2, 256, 0x1.8p127f}}, 2};
  check_skipped(self, step, &bad, (verdict){ZERO1_SKIP_OVERFLOW, 2, 1, -1});
}

static void a_sum_of_finite_gradients_that_overflows_is_told_apart(void) {
  over_every_way(spoil_by_overflow, 0);
}

/* fp32's largest numbers have squares beyond fp32, not beyond the norm. */
static void large_gradients_that_do_not_overflow_are_no_reason(void) {
  trainer_case train = base;
  zero1_comm *comm;
  zero1_info info;
  trainer self;
  marks bad = {{{0, 4, 17, 0x1.8p127f}}, 1};
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  train.grad_scale = 0x1p-127;
  trainer_begin(&self, &train, comm);
  self.spoil = spoil;
  self.context = &bad;
  trainer_step(&self, 0, &info);
  CHECK_EQ(info.skipped, 0);
  CHECK(info.grad_norm == 1.5);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
}

/* ---- the norm ---- */

/* Steps 1 and 3 of the made-up gradients are the large ones: their sums go up to 100 and 50. */
static void skip_large_steps(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *train = (const trainer_case *)arg;
  trainer_result before = trainer_result_make(train), after = trainer_result_make(train);
  int64_t count = 0;
  trainer self;
  (void)rank;
  trainer_begin(&self, train, comm);
  CHECK_STATUS(zero1_optimizer_set_skip_grad_norm(self.optimizer, 300), ZERO1_OK);
  for (int32_t step = 0; step < 5; ++step) {
    const int large = step == 1 || step == 3;
    zero1_info info;
    trainer_collect(&self, &before);
    trainer_step(&self, step, &info);
    trainer_collect(&self, &after);
    count += !large;
    CHECK_EQ(info.skipped, large);
    CHECK_EQ(info.skip_reason, large ? ZERO1_SKIP_NORM : ZERO1_SKIP_NONE);
    CHECK((info.grad_norm > 300) == large);
    CHECK_EQ(info.count, count);
    CHECK_EQ(info.attempts, step + 1);
    CHECK_EQ(info.bad_param, -1);
    if (large) check_unchanged(&before, &after);
  }
  trainer_end(&self);
  trainer_result_free(&before);
  trainer_result_free(&after);
}

static void a_step_above_the_norm_threshold_is_skipped(void) {
  zero1_comm_options options;
  trainer_case train = base;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  for (options.ranks_per_node = 0; options.ranks_per_node < 2; ++options.ranks_per_node)
    for (train.guard = 0; train.guard < 2; ++train.guard)
      check_threads(2 + train.guard, &options, skip_large_steps, &train);
}

/* ---- without the guard ---- */

static int is_nan_bits(uint32_t bits) {
  return (bits & 0x7fffffffu) > 0x7f800000u;
}

static void let_through(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *train = (const trainer_case *)arg;
  trainer_result after = trainer_result_make(train);
  marks bad = {{{1, 4, 4999, INFINITY}}, 1};
  zero1_info info;
  trainer self;
  (void)rank;
  trainer_begin(&self, train, comm);
  self.spoil = spoil;
  self.context = &bad;
  trainer_step(&self, 0, &info);
  CHECK_EQ(info.skipped, 0);
  CHECK_EQ(info.count, 1);
  CHECK_EQ(info.nonfinite_numel, 1);
  CHECK_EQ(info.bad_param, 4);
  CHECK_EQ(info.bad_rank, 1);
  CHECK(isnan(info.grad_norm));
  trainer_collect(&self, &after);
  for (int64_t e = 0; e < after.numel; ++e)
    CHECK_EQ(is_nan_bits(after.params[e]), e == trainer_offset(train, 4) + 4999);
  trainer_end(&self);
  trainer_result_free(&after);
}

/* In one pass on a node, in two between nodes. */
static void without_the_guard_it_goes_through(void) {
  zero1_comm_options options;
  trainer_case train = base;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  train.guard = 0;
  for (options.ranks_per_node = 0; options.ranks_per_node < 3; ++options.ranks_per_node)
    for (train.grad_dtype = 0; train.grad_dtype < 2; ++train.grad_dtype)
      for (train.split = 0; train.split < 2; ++train.split)
        check_threads(4, &options, let_through, &train);
}

int main(void) {
  device_skip_without();
  RUN(a_nan_or_inf_on_one_rank_makes_every_rank_skip);
  RUN(so_it_does_where_gradients_are_clipped);
  RUN(the_lowest_parameter_and_its_lowest_rank_are_named);
  RUN(infinities_that_cancel_are_found);
  RUN(a_sum_of_finite_gradients_that_overflows_is_told_apart);
  RUN(large_gradients_that_do_not_overflow_are_no_reason);
  RUN(a_step_above_the_norm_threshold_is_skipped);
  RUN(without_the_guard_it_goes_through);
  return check_summary();
}
