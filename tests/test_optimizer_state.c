// devices: host standin cuda
// sanitizers: address undefined thread
// standin-sanitizers: thread
// timeout: 200

/* State that goes out as a whole and into another optimizer, of another number of ranks, another
 * bucket size and communicator: training goes on with the bits of a run that was never interrupted.
 * What is set is what is got, whatever the bits, and each rank keeps its own part. */
#include "promise.h"

enum { FIRST = 4, STEPS = 9, STATES = 3 };

/* Masters that are not the parameters themselves. */
static int has_masters(const trainer_case *what) {
  return what->param_dtype == ZERO1_DTYPE_BF16 || what->param_wire == ZERO1_WIRE_BF16;
}

/* ---- all that there is of an optimizer ---- */

typedef struct whole {
  void *params[TRAINER_PARAMS];          /* as they are in memory */
  float *states[STATES][TRAINER_PARAMS]; /* master_param, exp_avg, exp_avg_sq; of trainable ones */
} whole;

static void whole_begin(whole *all, const trainer_case *what) {
  for (int32_t i = 0; i < what->param_count; ++i) {
    all->params[i] = calloc(trainer_param_bytes(what, i) + 1, 1);
    CHECK(all->params[i] != NULL);
    for (int s = 0; s < STATES; ++s) {
      all->states[s][i] = calloc((size_t)what->params[i].numel + 1, sizeof(float));
      CHECK(all->states[s][i] != NULL);
    }
  }
}

static void whole_end(whole *all, const trainer_case *what) {
  for (int32_t i = 0; i < what->param_count; ++i) {
    free(all->params[i]);
    for (int s = 0; s < STATES; ++s) free(all->states[s][i]);
  }
}

/* Each rank takes the state of some parameters, and rank 0 the values. */
static void take(trainer *self, whole *all) {
  for (int32_t i = 0; i < self->what->param_count; ++i) {
    const int wanted = i % self->world_size == self->rank;
    for (int s = 0; s < STATES && !trainer_is_frozen(self, i); ++s)
      must(self->optimizer,
           zero1_optimizer_get_state(self->optimizer, i, s + 1, wanted ? all->states[s][i] : NULL));
  }
  CHECK_STATUS(zero1_optimizer_wait_params(self->optimizer, self->caller.streams[0]), ZERO1_OK);
  for (int32_t i = 0; i < self->what->param_count && !self->rank; ++i)
    memcpy(all->params[i], trainer_read_param(self, i, self->caller.streams[0]),
           trainer_param_bytes(self->what, i));
}

static void give(trainer *self, const zero1_comm *comm, const whole *all, int64_t count) {
  for (int32_t i = 0; i < self->what->param_count && trainer_may_write(self, comm, 0); ++i) {
    void *const param = trainer_begin_param(self, i);
    memcpy(param, all->params[i], trainer_param_bytes(self->what, i));
    trainer_end_param(self, i, param);
  }
  for (int32_t i = 0; i < self->what->param_count; ++i)
    for (int s = !has_masters(self->what); s < STATES && !trainer_is_frozen(self, i); ++s)
      must(self->optimizer,
           zero1_optimizer_set_state(self->optimizer, i, s + 1, all->states[s][i]));
  must(self->optimizer, zero1_optimizer_set_count(self->optimizer, count));
  must(self->optimizer, zero1_optimizer_params_changed(self->optimizer));
}

/* ---- from one optimizer to another ---- */

typedef struct half {
  const promise_case *what;
  int32_t begin, end; /* steps */
  const whole *given; /* NULL: from the start */
  whole *taken;       /* NULL: nothing is */
  trainer_result *results;
} half;

static void run_half(int32_t rank, zero1_comm *comm, void *arg) {
  const half *const self = arg;
  const trainer_case *const what = &self->what->train;
  trainer_result *const result = &self->results[rank];
  const zero1_config config = trainer_config(what);
  trainer trained;
  *result = trainer_result_make(what);
  if (self->given) {
    CHECK_STATUS(trainer_try_create(&trained, what, comm, &config), ZERO1_OK);
    device_meet();
    give(&trained, comm, self->given, self->begin);
    CHECK_EQ(trainer_info(&trained).count, self->begin);
    CHECK_EQ(trainer_info(&trained).attempts, self->begin);
  } else {
    trainer_begin(&trained, what, comm);
  }
  for (int32_t step = self->begin; step < self->end; ++step) {
    zero1_info info;
    result->params_hash[step] = trainer_step(&trained, step, &info);
    result->grad_norm[step] = info.grad_norm;
    result->clip_coef[step] = info.clip_coef;
    CHECK_EQ(info.count, step + 1);
    CHECK_EQ(info.attempts, step + 1);
  }
  if (self->taken) take(&trained, self->taken);
  trainer_collect(&trained, result);
  trainer_end(&trained);
}

static void run(const half *what) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->what->ranks_per_node;
  options.workspace_bytes = what->what->workspace_bytes;
  check_threads(what->what->world_size, &options, run_half, (void *)(uintptr_t)what);
}

static void hand_over(const promise_case *from, const promise_case *to) {
  trainer_result reference, first[4], second[4];
  whole all = {0};
  trainer_run_alone(&from->train, &reference);
  whole_begin(&all, &from->train);
  run(&(half){.what = from, .end = FIRST, .taken = &all, .results = first});
  run(&(half){.what = to, .begin = FIRST, .end = STEPS, .given = &all, .results = second});
  for (int32_t rank = 0; rank < to->world_size; ++rank) {
    trainer_result *const mine = &second[rank];
    for (int32_t step = 0; step < FIRST; ++step) {
      mine->params_hash[step] = first[0].params_hash[step];
      mine->grad_norm[step] = first[0].grad_norm[step];
      mine->clip_coef[step] = first[0].clip_coef[step];
    }
    promise_check_alike(to, mine, &reference);
    trainer_result_free(mine);
  }
  for (int32_t rank = 0; rank < from->world_size; ++rank) trainer_result_free(&first[rank]);
  trainer_result_free(&reference);
  whole_end(&all, &from->train);
}

/* 1 to 4 ranks to 1 to 4 ranks; fp32, bf16, and fp32 whose parameters travel in bf16. On devices a
 * part of the pairs. */
static void training_goes_on_elsewhere_with_the_same_bits(void) {
  static const int32_t wires[] = {ZERO1_WIRE_AS_IN_MEMORY, ZERO1_WIRE_AS_IN_MEMORY,
                                  ZERO1_WIRE_BF16};
  const promise_sample samples[2] = {promise_shuffle(21, 16), promise_shuffle(22, 16)};
  setenv("ZERO1_ISA", "baseline", 1);
  for (int32_t i = 0; i < 16; i += device_is_cuda() ? 7 : 1) {
    const int32_t n = 1 + i % 4, m = 1 + i / 4;
    promise_case from = promise_case_of(&samples[0], i, n, i % 3 ? n : 1);
    promise_case to = promise_case_of(&samples[1], i, m, i % 5 > 1 ? m : 1);
    from.train.steps = STEPS;
    from.train.root = 0;
    from.train.param_dtype = i % 3 == 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    from.train.param_wire = wires[i % 3];
    to = other_layout(&from, &to);
    hand_over(&from, &to);
  }
}

/* ---- one optimizer ---- */

static const double offloads[] = {0, 0.4, 1}; /* on CUDA alone */

static trainer_case of_kind(int kind, int32_t offload) {
  return (trainer_case){.params = promise_params,
                        .param_count = 9,
                        .groups = promise_groups,
                        .group_count = 2,
                        .param_dtype = kind == 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32,
                        .param_wire = kind == 2 ? ZERO1_WIRE_BF16 : ZERO1_WIRE_AS_IN_MEMORY,
                        .steps = STEPS,
                        .guard = 1,
                        .grad_scale = 0.5,
                        .bucket_numel = 700,
                        .threads = 1,
                        .share_params = 1,
                        .overlap = 1,
                        .offload = offloads[offload],
                        .microbatches = 1};
}

static void for_every_kind(check_rank_fn fn) {
  for (int kind = 0; kind < 3; ++kind)
    for (int32_t world = 1; world < 5; ++world) {
      trainer_case what = of_kind(kind, world % 3);
      zero1_comm_options options;
      CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
      options.ranks_per_node = world % 2 ? 1 : world;
      check_threads(world, &options, fn, &what);
    }
}

/* Back to a state of before, on the same handle: the count becomes less. */
static void go_back(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *const what = arg;
  uint64_t hashes[STEPS];
  static whole all; /* of all ranks */
  trainer trained;
  zero1_info info;
  trainer_begin(&trained, what, comm);
  if (!rank) whole_begin(&all, what);
  check_meet();
  for (int32_t step = 0; step < STEPS; ++step) {
    if (step == FIRST) take(&trained, &all);
    hashes[step] = trainer_step(&trained, step, &info);
  }
  check_meet();
  give(&trained, comm, &all, FIRST);
  for (int32_t step = FIRST; step < STEPS; ++step) {
    CHECK(trainer_step(&trained, step, &info) == hashes[step]);
    CHECK_EQ(info.count, step + 1);
  }
  must(trained.optimizer, zero1_optimizer_check_replicas(trained.optimizer, NULL));
  if (!rank) whole_end(&all, what);
  trainer_end(&trained);
}

static void an_optimizer_goes_back_to_what_was_taken(void) {
  for_every_kind(go_back);
}

/* Any bits: NaNs, infinities, what is tiny. */
static float odd(int32_t state, int64_t param, int64_t element) {
  return random_from_bits(
      (uint32_t)trainer_scatter((uint64_t)state, (uint64_t)param, (uint64_t)element, 9));
}

static void set_and_get(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *const what = arg;
  float values[5000], got[5000];
  trainer trained;
  trainer_begin(&trained, what, comm);
  for (int pass = 0; pass < 2; ++pass) /* all are set before the first is got */
    for (int32_t i = 0; i < what->param_count; ++i)
      for (int32_t state = 2 - has_masters(what); state <= STATES; ++state) {
        const size_t bytes = (size_t)what->params[i].numel * sizeof *values;
        const int wanted = (i + state + rank) % 3 != 0; /* alone, no rank wants some */
        if (trainer_is_frozen(&trained, i)) continue;
        for (int64_t e = 0; e < what->params[i].numel; ++e) values[e] = odd(state, i, e);
        memset(got, 1, sizeof got);
        if (!pass) {
          must(trained.optimizer,
               zero1_optimizer_set_state(trained.optimizer, i, state, bytes ? values : NULL));
        } else {
          must(trained.optimizer,
               zero1_optimizer_get_state(trained.optimizer, i, state, wanted ? got : NULL));
          if (wanted) CHECK(!memcmp(values, got, bytes));
        }
      }
  trainer_end(&trained);
}

static void what_is_set_is_got_bit_for_bit(void) {
  for_every_kind(set_and_get);
}

/* Each rank gives its own number: what is got tells who owns what. */
static void set_own(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *const what = arg;
  float values[5000];
  int64_t count;
  trainer trained;
  trainer_begin(&trained, what, comm);
  for (int e = 0; e < 5000; ++e) values[e] = (float)(rank + 1);
  for (int32_t i = 0; i < what->param_count; ++i)
    if (!trainer_is_frozen(&trained, i))
      must(trained.optimizer, zero1_optimizer_set_state(trained.optimizer, i, 3, values));
  must(trained.optimizer, zero1_optimizer_owned_count(trained.optimizer, &count));
  for (int32_t i = 0; i < what->param_count; ++i) {
    int64_t owned_numel = 0, mine = 0;
    if (trainer_is_frozen(&trained, i)) continue;
    must(trained.optimizer, zero1_optimizer_get_state(trained.optimizer, i, 3, values));
    for (int64_t e = 0; e < what->params[i].numel; ++e) {
      CHECK(values[e] >= 1 && values[e] <= (float)trained.world_size);
      mine += values[e] == (float)(rank + 1);
    }
    for (int64_t j = 0; j < count; ++j) {
      zero1_owned owned;
      must(trained.optimizer, zero1_optimizer_owned(trained.optimizer, j, 1, &owned, sizeof owned));
      if (owned.param != i) continue;
      for (int64_t e = owned.begin; e < owned.end; ++e) CHECK(values[e] == (float)(rank + 1));
      owned_numel += owned.end - owned.begin;
    }
    CHECK_EQ(mine, owned_numel);
  }
  trainer_end(&trained);
}

static void each_rank_keeps_what_it_owns(void) {
  for_every_kind(set_own);
}

/* More of a bucket than travels at once, twice. */
static void set_large(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *const what = arg;
  const int64_t numel = what->params[0].numel;
  float *const values = malloc((size_t)numel * sizeof *values);
  float *const got = calloc((size_t)numel, sizeof *got);
  trainer trained;
  CHECK(values && got);
  trainer_begin(&trained, what, comm);
  for (int64_t e = 0; e < numel; ++e) values[e] = (float)e;
  must(trained.optimizer, zero1_optimizer_set_state(trained.optimizer, 0, 2, values));
  must(trained.optimizer, zero1_optimizer_get_state(trained.optimizer, 0, 2, rank ? got : NULL));
  if (rank) CHECK(!memcmp(values, got, (size_t)numel * sizeof *values));
  trainer_end(&trained);
  free(values);
  free(got);
}

static void a_part_may_be_more_than_travels_at_once(void) {
  const trainer_param large = {5000000, 0, 0};
  trainer_case what = of_kind(0, 1);
  what.params = &large;
  what.param_count = 1;
  what.bucket_numel = (int64_t)1 << 40;
  check_threads(2, NULL, set_large, &what);
}

/* ---- a step is under way ---- */

static void set_behind_a_step(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *const what = arg;
  float values[5000], got[5000];
  trainer trained;
  (void)rank;
  trainer_begin(&trained, what, comm);
  for (int e = 0; e < 5000; ++e) values[e] = (float)e;
  for (int32_t step = 0; step < 4; ++step) {
    const int32_t param = step % 2 ? 0 : 6; /* forward waits for the first one first */
    const size_t bytes = (size_t)what->params[param].numel * sizeof *values;
    trainer_backward(&trained, step);
    must(trained.optimizer, zero1_optimizer_step(trained.optimizer));
    must(trained.optimizer, zero1_optimizer_set_state(trained.optimizer, param, 2, values));
    must(trained.optimizer, zero1_optimizer_get_state(trained.optimizer, param, 2, got));
    CHECK(!memcmp(values, got, bytes));
    CHECK_EQ(trainer_info(&trained).count, step + 1);
    (void)trainer_forward(&trained);
  }
  trainer_end(&trained);
}

static void a_step_that_is_under_way_does_not_write_over_it(void) {
  for_every_kind(set_behind_a_step);
}

int main(void) {
  device_skip_without();
  RUN(training_goes_on_elsewhere_with_the_same_bits);
  RUN(an_optimizer_goes_back_to_what_was_taken);
  RUN(what_is_set_is_got_bit_for_bit);
  RUN(each_rank_keeps_what_it_owns);
  RUN(a_part_may_be_more_than_travels_at_once);
  RUN(a_step_that_is_under_way_does_not_write_over_it);
  return check_summary();
}
