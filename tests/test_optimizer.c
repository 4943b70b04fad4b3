// sanitizers: address undefined thread
// quarters: 2
// cost: 3
// devices: host standin cuda
// standin-delay: 50

/* The optimizer's calls, one by one, over every way between ranks. What training computes is in
 * test_promise.c and test_adamw.c. */
#include "trainer.h"

static const trainer_param params[] = {
    {1000, 0, 0}, {7, 1, 0}, {257, 0, 0}, {30, 0, ZERO1_PARAM_FROZEN}, {5000, 1, 0},
};

static const zero1_group groups[] = {
    {sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0},
    {sizeof(zero1_group), 0.002, 0.8, 0.95, 1e-6, 0.03, 0, 0},
};

static const trainer_case base = {.params = params,
                                  .param_count = sizeof params / sizeof *params,
                                  .groups = groups,
                                  .group_count = 2,
                                  .steps = 5,
                                  .guard = 1,
                                  .grad_scale = 0.37,
                                  .max_grad_norm = 400,
                                  .bucket_numel = 1500,
                                  .threads = 1,
                                  .overlap = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1};

/* What a test's ranks work on. */
typedef struct context {
  trainer_case train;
  trainer_result reference;
} context;

/* Runs fn on 4 ranks of one node, on 3 nodes of one, on 2 nodes of 2, and on one rank. */
static void over_every_way(check_rank_fn fn, const trainer_case *train) {
  static const int32_t shapes[][2] = {{4, 0}, {3, 1}, {4, 2}, {1, 0}};
  context self = {.train = *train};
  trainer_run_alone(train, &self.reference);
  for (int i = 0; i < 4; ++i) {
    zero1_comm_options options;
    CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
    options.ranks_per_node = shapes[i][1];
    options.workspace_bytes = 1;
    check_threads(shapes[i][0], &options, fn, &self);
  }
  trainer_result_free(&self.reference);
}

static void check_alike(trainer *self, trainer_result *mine, const trainer_result *reference) {
  int64_t where;
  trainer_collect(self, mine);
  CHECK(!trainer_difference(mine, reference, &where));
}

static void keep(trainer_result *result, int32_t step, uint64_t hash, const zero1_info *info) {
  result->params_hash[step] = hash;
  result->grad_norm[step] = info->grad_norm;
  result->clip_coef[step] = info->clip_coef;
}

/* ---- drop_grads ---- */

static void drop(trainer *self, int32_t step) {
  const zero1_info before = trainer_info(self);
  const uint64_t hash = trainer_forward(self);
  trainer_backward(self, step + 1);
  if (step % 2) CHECK_STATUS(zero1_optimizer_reduce_grads(self->optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_drop_grads(self->optimizer), ZERO1_OK);
  const zero1_info after = trainer_info(self);
  CHECK_EQ(after.skipped, 1);
  CHECK_EQ(after.skip_reason, ZERO1_SKIP_DROPPED);
  CHECK_EQ(after.count, before.count);
  CHECK_EQ(after.attempts, before.attempts + 1);
  CHECK(trainer_forward(self) == hash);
}

static void drop_between_steps(int32_t rank, zero1_comm *comm, void *arg) {
  context *const what = (context *)arg;
  trainer_result mine = trainer_result_make(&what->train);
  trainer self;
  (void)rank;
  trainer_begin(&self, &what->train, comm);
  for (int32_t step = 0; step < what->train.steps; ++step) {
    drop(&self, step);
    trainer_backward(&self, step);
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
    const uint64_t hash = trainer_forward(&self);
    const zero1_info info = trainer_info(&self);
    keep(&mine, step, hash, &info);
  }
  check_alike(&self, &mine, &what->reference);
  trainer_end(&self);
  trainer_result_free(&mine);
}

static void dropped_gradients_change_nothing(void) {
  over_every_way(drop_between_steps, &base);
}

/* ---- two optimizers ---- */

static void interleave(int32_t rank, zero1_comm *comm, void *arg) {
  context *const what = (context *)arg;
  trainer_case other = what->train;
  trainer_result mine[2], others;
  trainer both[2];
  (void)rank;
  other.params = params + 2;
  other.param_count = 2;
  other.bucket_numel = 1;
  other.max_grad_norm = 0;
  trainer_run_alone(&other, &others);
  trainer_begin(&both[0], &what->train, comm);
  trainer_begin(&both[1], &other, comm);
  mine[0] = trainer_result_make(&what->train);
  mine[1] = trainer_result_make(&other);
  for (int32_t step = 0; step < other.steps; ++step) {
    for (int i = 0; i < 2; ++i) trainer_backward(&both[i], step);
    for (int i = 1; i >= 0; --i) CHECK_STATUS(zero1_optimizer_step(both[i].optimizer), ZERO1_OK);
    for (int i = 0; i < 2; ++i) {
      const uint64_t hash = trainer_forward(&both[i]);
      const zero1_info info = trainer_info(&both[i]);
      keep(&mine[i], step, hash, &info);
    }
  }
  check_alike(&both[0], &mine[0], &what->reference);
  check_alike(&both[1], &mine[1], &others);
  for (int i = 0; i < 2; ++i) {
    trainer_end(&both[i]);
    trainer_result_free(&mine[i]);
  }
  trainer_result_free(&others);
}

static void two_optimizers_of_one_comm_do_not_disturb_each_other(void) {
  over_every_way(interleave, &base);
}

/* ---- parameters that the caller writes ---- */

/* Each rank's parameters say whose they are. */
static void fill(trainer *self, float value) {
  for (int32_t i = 0; i < self->what->param_count; ++i) {
    void *const param = trainer_begin_param(self, i);
    for (int64_t e = 0; e < self->what->params[i].numel; ++e)
      trainer_store(param, self->what->param_dtype, e, value);
    trainer_end_param(self, i, param);
  }
}

static void check_filled(trainer *self, trainer_result *now, const trainer_result *before,
                         float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  trainer_collect(self, now);
  for (int64_t e = 0; e < now->numel; ++e) {
    CHECK_EQ(now->params[e], bits);
    if (!now->owned[e]) continue;
    CHECK_EQ(now->master_param[e], bits);
    CHECK_EQ(now->exp_avg[e], before->exp_avg[e]);
    CHECK_EQ(now->exp_avg_sq[e], before->exp_avg_sq[e]);
  }
}

static void sync_from_every_root(int32_t rank, zero1_comm *comm, void *arg) {
  const context *what = (const context *)arg;
  trainer_result before = trainer_result_make(&what->train),
                 now = trainer_result_make(&what->train);
  zero1_info info;
  trainer self;
  trainer_begin(&self, &what->train, comm);
  trainer_step(&self, 0, &info);
  trainer_collect(&self, &before);
  CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, 0), ZERO1_OK);
  trainer_collect(&self, &now);
  for (int64_t e = 0; e < now.numel; ++e) {
    CHECK_EQ(now.params[e], before.params[e]);
    if (now.owned[e]) CHECK_EQ(now.master_param[e], now.params[e]); /* lower bits are gone */
  }
  for (int32_t root = 0; root < self.world_size; ++root) {
    CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
    if (trainer_may_write(&self, comm, root)) fill(&self, (float)rank + 1.5f);
    CHECK_STATUS(zero1_optimizer_sync_params(self.optimizer, root), ZERO1_OK);
    check_filled(&self, &now, &before, (float)root + 1.5f);
    CHECK_EQ(trainer_info(&self).count, 1);
  }
  trainer_end(&self);
  trainer_result_free(&before);
  trainer_result_free(&now);
}

static void every_root_gives_its_parameters_to_all(void) {
  trainer_case train = base;
  over_every_way(sync_from_every_root, &train);
  train.param_dtype = ZERO1_DTYPE_BF16;
  over_every_way(sync_from_every_root, &train);
  train.share_params = 1;
  over_every_way(sync_from_every_root, &train);
}

/* Element 256 of parameter 2 is written, the others are left. */
static void write_one_element(int32_t rank, zero1_comm *comm, void *arg) {
  const context *what = (const context *)arg;
  trainer_result before = trainer_result_make(&what->train),
                 now = trainer_result_make(&what->train);
  const int64_t written = trainer_offset(&what->train, 2) + 256;
  int64_t lower_bits = 0;
  trainer self;
  (void)rank;
  trainer_begin(&self, &what->train, comm);
  for (int32_t step = 0; step < 3; ++step) {
    zero1_info info;
    trainer_step(&self, step, &info);
  }
  trainer_collect(&self, &before);
  void *const param = trainer_begin_change(&self, 2);
  trainer_store(param, what->train.param_dtype, 256, 0.75f);
  trainer_end_param(&self, 2, param);
  CHECK_STATUS(zero1_optimizer_params_changed(self.optimizer), ZERO1_OK);
  trainer_collect(&self, &now);
  for (int64_t e = 0; e < now.numel; ++e) {
    CHECK_EQ(now.params[e], e == written ? 0x3f400000 : before.params[e]);
    if (!now.owned[e]) continue;
    CHECK_EQ(now.master_param[e], e == written ? 0x3f400000 : before.master_param[e]);
    CHECK_EQ(now.exp_avg[e], before.exp_avg[e]);
    lower_bits += (now.master_param[e] & 0xffff) != 0;
  }
  CHECK(lower_bits > 0 || !self.rank); /* rank 0 may own nothing but short ones */
  trainer_end(&self);
  trainer_result_free(&before);
  trainer_result_free(&now);
}

static void masters_keep_their_lower_bits_where_the_parameter_is_unchanged(void) {
  trainer_case train = base;
  over_every_way(write_one_element, &train);
  train.param_dtype = ZERO1_DTYPE_BF16;
  over_every_way(write_one_element, &train);
}

/* Each rank halves its own copy as soon as it may: no peer that still copies sees it halved. */
static void halve_after_every_step(int32_t rank, zero1_comm *comm, void *arg) {
  const context *what = (const context *)arg;
  trainer self;
  (void)rank;
  trainer_begin(&self, &what->train, comm);
  for (int32_t step = 0; step < what->train.steps; ++step) {
    trainer_backward(&self, step);
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_wait_params(self.optimizer, trainer_stream(&self, 0)), ZERO1_OK);
    for (int32_t i = 0; i < what->train.param_count; ++i) {
      float *const param = (float *)trainer_begin_change(&self, i);
      for (int64_t e = 0; e < what->train.params[i].numel; ++e) param[e] *= 0.5f;
      trainer_end_param(&self, i, param);
    }
    CHECK_STATUS(zero1_optimizer_params_changed(self.optimizer), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, NULL), ZERO1_OK);
  }
  trainer_end(&self);
}

static void parameters_may_be_written_once_they_were_waited_for(void) {
  over_every_way(halve_after_every_step, &base);
}

/* ---- replicas ---- */

static void flip_one_bit(trainer *self, int64_t param, int64_t element) {
  uint32_t *const bits = (uint32_t *)trainer_begin_change(self, param);
  bits[element] ^= 1;
  trainer_end_param(self, param, bits);
}

/* The last rank's, in a parameter that trains and in one that is frozen. */
static void flip_and_check(int32_t rank, zero1_comm *comm, void *arg) {
  const context *what = (const context *)arg;
  zero1_info info;
  trainer self;
  int32_t found;
  trainer_begin(&self, &what->train, comm);
  trainer_step(&self, 0, &info);
  CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, &found), ZERO1_OK);
  CHECK_EQ(found, -1);
  const int32_t last = self.world_size - 1;
  for (int64_t param = 1; last > 0 && param < 4; ++param) {
    const int64_t element = what->train.params[param].numel - 1;
    if (rank == last) flip_one_bit(&self, param, element);
    CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, &found), ZERO1_ERR_DIVERGED);
    CHECK_EQ(found, last);
    if (rank == last) flip_one_bit(&self, param, element);
    CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, NULL), ZERO1_OK);
  }
  trainer_end(&self);
}

static void a_rank_whose_parameters_differ_by_one_bit_is_found(void) {
  over_every_way(flip_and_check, &base);
}

/* ---- gradients that are not there ---- */

static void mark_all(trainer *self, int64_t absent, int on_all) {
  void *const stream = trainer_stream(self, 0);
  for (int64_t i = self->what->param_count - 1; i >= 0; --i) {
    if (trainer_is_frozen(self, i)) continue;
    void *const grad = trainer_begin_grad(self, i);
    for (int64_t e = 0; e < self->what->params[i].numel; ++e)
      trainer_store(grad, self->what->grad_dtype, e, 8.0f); /* where absent, rubbish */
    trainer_end_grad(self, i, grad);
    if (i == absent && (on_all || self->rank > 0))
      CHECK_STATUS(zero1_optimizer_grad_absent(self->optimizer, i, stream), ZERO1_OK);
    else
      CHECK_STATUS(zero1_optimizer_grad_ready(self->optimizer, i, stream), ZERO1_OK);
  }
}

/* Parameter 4 absent on all ranks: as if it were frozen for this step. On all but rank 0: as if
 * the others' gradients were zero. */
static void leave_one_out(int32_t rank, zero1_comm *comm, void *arg) {
  const context *what = (const context *)arg;
  trainer_result before = trainer_result_make(&what->train),
                 now = trainer_result_make(&what->train);
  const int64_t begin = trainer_offset(&what->train, 4), end = begin + what->train.params[4].numel;
  zero1_info info;
  trainer self;
  (void)rank;
  trainer_begin(&self, &what->train, comm);
  trainer_step(&self, 0, &info);
  trainer_collect(&self, &before);
  mark_all(&self, 4, 1);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  trainer_collect(&self, &now);
  CHECK_CLOSE(trainer_info(&self).grad_norm, 0.37 * 8 * self.world_size * sqrt(1264), 1e-15, 0);
  for (int64_t e = 0; e < now.numel; ++e) {
    const int frozen = e >= trainer_offset(&what->train, 3) && e < begin;
    const int same = frozen || (e >= begin && e < end);
    CHECK_EQ(now.params[e] == before.params[e], same);
    if (now.owned[e]) CHECK_EQ(now.exp_avg_sq[e] == before.exp_avg_sq[e], same);
    if (now.owned[e]) CHECK_EQ(now.exp_avg[e] == before.exp_avg[e], same);
  }
  mark_all(&self, 4, 0);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  const double squares = 1264.0 * self.world_size * self.world_size + 5000.0;
  CHECK_CLOSE(trainer_info(&self).grad_norm, 0.37 * 8 * sqrt(squares), 1e-15, 0);
  trainer_end(&self);
  trainer_result_free(&before);
  trainer_result_free(&now);
}

static void an_absent_gradient_leaves_its_parameter_alone_or_counts_as_zero(void) {
  trainer_case train = base;
  train.max_grad_norm = 0;
  over_every_way(leave_one_out, &train);
  train.guard = 0;
  over_every_way(leave_one_out, &train);
}

/* ---- errors ---- */

/* What waiting says, now and when the step is over. */
static zero1_status told_twice(trainer *self) {
  void *const stream = trainer_stream(self, 0);
  const zero1_status first = zero1_optimizer_wait_params(self->optimizer, stream);
  device_sync(&self->caller);
  const zero1_status second = zero1_optimizer_wait_params(self->optimizer, stream);
  CHECK(!first || !second);
  return first ? first : second;
}

/* Rank 0 forgets a gradient, and knows it from step itself: waiting tells the others alone. On a
 * device whose ranks agree through the host, info is the first to find out. */
static void forget_a_gradient(int32_t rank, zero1_comm *comm, void *arg) {
  const context *what = (const context *)arg;
  trainer self;
  trainer_begin(&self, &what->train, comm);
  for (int32_t round = 0; round < 3; ++round) {
    zero1_info info;
    for (int64_t i = rank ? 0 : 1; i < self.what->param_count; ++i)
      if (!trainer_is_frozen(&self, i)) trainer_mark(&self, round, i);
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), rank ? ZERO1_OK : ZERO1_ERR_STATE);
    const zero1_status told = told_twice(&self);
    if (rank && (!device_is_cuda() || told))
      CHECK_STATUS(told, ZERO1_ERR_STATE);
    else
      CHECK_STATUS(told, ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_ERR_STATE);
    CHECK_EQ(info.skip_reason, ZERO1_SKIP_ERROR);
    trainer_step(&self, round, &info); /* and nothing is told of it any more */
    CHECK_EQ(info.count, round + 1);
  }
  trainer_end(&self);
}

static void an_error_is_told_to_each_rank_once(void) {
  over_every_way(forget_a_gradient, &base);
}

/* ---- hyper-parameters ---- */

/* beta1 0 makes exp_avg the gradient itself: what came of scale and clipping can be read there. */
static float exp_avg_after(trainer *self, float grad) {
  void *const stream = trainer_stream(self, 0);
  const size_t bytes = trainer_grad_bytes(self->what, 0);
  zero1_owned owned;
  void *tensor;
  CHECK_STATUS(zero1_optimizer_wait_params(self->optimizer, stream), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_grad(self->optimizer, 0, &tensor), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_zero_grad(self->optimizer, stream), ZERO1_OK);
  float *const values = (float *)device_begin_change(&self->caller, tensor, bytes, stream);
  CHECK(values[0] == 0 && values[1] == 0);
  values[1] += grad;
  device_end_write(&self->caller, tensor, values, bytes, stream);
  CHECK_STATUS(zero1_optimizer_grad_ready(self->optimizer, 0, stream), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_owned(self->optimizer, 0, 1, &owned, sizeof owned), ZERO1_OK);
  return ((const float *)device_read(&self->caller, owned.exp_avg, bytes, stream))[1];
}

static void what_is_set_between_steps_is_in_effect_from_the_next(void) {
  static const trainer_param two[] = {{2, 0, 0}};
  trainer_case train = base;
  zero1_comm *comm;
  zero1_group group;
  trainer self;
  train.params = two;
  train.param_count = 1;
  train.guard = 0;
  train.max_grad_norm = 0;
  train.grad_scale = 0;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  trainer_begin(&self, &train, comm);
  CHECK_STATUS(zero1_optimizer_get_group(self.optimizer, 0, &group, sizeof group), ZERO1_OK);
  CHECK(group.lr == 0.01 && group.beta2 == 0.999 && group.decoupled_weight_decay == 1);
  group.beta1 = 0;
  CHECK_STATUS(zero1_optimizer_set_group(self.optimizer, 0, &group, sizeof group), ZERO1_OK);
  CHECK(exp_avg_after(&self, 3) == 3); /* the default scale is 1 / world_size */
  CHECK_STATUS(zero1_optimizer_set_grad_scale(self.optimizer, 0.25), ZERO1_OK);
  CHECK(exp_avg_after(&self, 3) == 0.75f);
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, 0.5), ZERO1_OK);
  CHECK(exp_avg_after(&self, 8) == (float)(2 * (0.5 / (2 + 1e-6))));
  CHECK(trainer_info(&self).clip_coef == 0.5 / (2 + 1e-6));
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, 2), ZERO1_OK);
  CHECK(exp_avg_after(&self, 8) == (float)(2 / (2 + 1e-6) * 0.25) * 8);
  CHECK(trainer_info(&self).clip_coef == 2 / (2 + 1e-6));
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, 2 + 1e-6), ZERO1_OK);
  CHECK(exp_avg_after(&self, 8) == 2);
  CHECK(trainer_info(&self).clip_coef == 1);
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, 0), ZERO1_OK);
  CHECK(exp_avg_after(&self, 8) == 2);
  CHECK_STATUS(zero1_optimizer_set_skip_grad_norm(self.optimizer, 1), ZERO1_OK);
  CHECK(exp_avg_after(&self, 12) == 2); /* skipped */
  CHECK_EQ(trainer_info(&self).skip_reason, ZERO1_SKIP_NORM);
  CHECK_EQ(trainer_info(&self).count, 6);
  trainer_end(&self);
  zero1_comm_destroy(&comm);
}

/* On rank 0 alone: where it took part in the step, the ranks would go apart. */
static void scale_after_reduce(int32_t rank, zero1_comm *comm, void *arg) {
  context *const what = (context *)arg;
  trainer_result mine = trainer_result_make(&what->train);
  trainer self;
  trainer_begin(&self, &what->train, comm);
  for (int32_t step = 0; step < what->train.steps; ++step) {
    trainer_backward(&self, step);
    CHECK_STATUS(zero1_optimizer_reduce_grads(self.optimizer), ZERO1_OK);
    const zero1_info info = trainer_info(&self);
    if (!rank) CHECK_STATUS(zero1_optimizer_set_grad_scale(self.optimizer, 1000), ZERO1_OK);
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
    keep(&mine, step, trainer_forward(&self), &info);
    CHECK_STATUS(zero1_optimizer_set_grad_scale(self.optimizer, 0.37), ZERO1_OK);
  }
  check_alike(&self, &mine, &what->reference);
  trainer_end(&self);
  trainer_result_free(&mine);
}

static void a_scale_set_after_reduce_grads_is_of_the_next_step(void) {
  over_every_way(scale_after_reduce, &base);
}

static void the_default_scale_makes_the_mean_of_the_ranks(int32_t rank, zero1_comm *comm,
                                                          void *arg) {
  static const trainer_param two[] = {{2, 0, 0}};
  trainer_case train = base;
  trainer self;
  (void)arg;
  train.params = two;
  train.param_count = 1;
  train.grad_scale = 0;
  trainer_begin(&self, &train, comm);
  float *const grad = (float *)trainer_begin_grad(&self, 0);
  grad[0] = (float)(rank + 1); /* 1 2 3 4: 2.5 */
  grad[1] = 0;
  trainer_end_grad(&self, 0, grad);
  CHECK_STATUS(zero1_optimizer_grad_ready(self.optimizer, 0, trainer_stream(&self, 0)), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  CHECK(trainer_info(&self).grad_norm == 2.5);
  trainer_end(&self);
}

static void gradients_are_averaged_by_default(void) {
  check_threads(4, NULL, the_default_scale_makes_the_mean_of_the_ranks, NULL);
}

/* ---- nothing to do ---- */

static void step_without_elements(int32_t rank, zero1_comm *comm, void *arg) {
  static const trainer_param nothing[] = {{0, 0, 0}, {5, 0, ZERO1_PARAM_FROZEN}};
  trainer_case train = base;
  (void)rank;
  (void)arg;
  train.params = nothing;
  for (train.param_count = 0; train.param_count <= 2; ++train.param_count) {
    for (train.guard = 0; train.guard < 2; ++train.guard) {
      zero1_info info;
      trainer self;
      int64_t count;
      trainer_begin(&self, &train, comm);
      trainer_step(&self, 0, &info);
      CHECK_EQ(info.count, 1);
      CHECK(info.grad_norm == 0 && info.clip_coef == 1);
      CHECK_STATUS(zero1_optimizer_owned_count(self.optimizer, &count), ZERO1_OK);
      CHECK_EQ(count, 0);
      CHECK_STATUS(zero1_optimizer_check_replicas(self.optimizer, NULL), ZERO1_OK);
      trainer_end(&self);
    }
  }
}

static void a_model_without_trainable_elements_steps_too(void) {
  over_every_way(step_without_elements, &base);
}

/* Element 7 of the only gradient, the others being 0. */
static void write_seventh(trainer *self, float value) {
  float *const grad = (float *)trainer_begin_grad(self, 0);
  memset(grad, 0, trainer_grad_bytes(self->what, 0));
  grad[7] = value;
  trainer_end_grad(self, 0, grad);
  CHECK_STATUS(zero1_optimizer_grad_ready(self->optimizer, 0, trainer_stream(self, 0)), ZERO1_OK);
}

static void ask_between_steps(int32_t rank, zero1_comm *comm, void *arg) {
  static const trainer_param one[] = {{300, 0, 0}};
  trainer_case train = base;
  zero1_info info;
  trainer self;
  (void)arg;
  train.params = one;
  train.param_count = 1;
  train.grad_scale = train.max_grad_norm = 0;
  trainer_begin(&self, &train, comm);
  void *const stream = trainer_stream(&self, 0);
  write_seventh(&self, 3);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_params(self.optimizer, stream), ZERO1_OK);
  write_seventh(&self, rank == 0 ? 5 : 9);
  CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_OK);
  CHECK(info.grad_norm == 3 && info.count == 1 && !info.skipped);
  CHECK_STATUS(zero1_optimizer_wait_grad(self.optimizer, 0, stream), ZERO1_ERR_STATE);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_OK);
  CHECK(info.grad_norm == 7 && info.count == 2); /* (5 + 9) / 2 */
  trainer_end(&self);
}

static void info_between_two_steps_is_of_the_last_one(void) {
  check_threads(2, NULL, ask_between_steps, NULL);
}

int main(void) {
  device_skip_without();
  RUN(dropped_gradients_change_nothing);
  RUN(two_optimizers_of_one_comm_do_not_disturb_each_other);
  RUN(every_root_gives_its_parameters_to_all);
  RUN(masters_keep_their_lower_bits_where_the_parameter_is_unchanged);
  RUN(parameters_may_be_written_once_they_were_waited_for);
  RUN(a_rank_whose_parameters_differ_by_one_bit_is_found);
  RUN(an_absent_gradient_leaves_its_parameter_alone_or_counts_as_zero);
  RUN(an_error_is_told_to_each_rank_once);
  RUN(what_is_set_between_steps_is_in_effect_from_the_next);
  RUN(a_scale_set_after_reduce_grads_is_of_the_next_step);
  RUN(gradients_are_averaged_by_default);
  RUN(a_model_without_trainable_elements_steps_too);
  RUN(info_between_two_steps_is_of_the_last_one);
  return check_summary();
}
