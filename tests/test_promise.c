// sanitizers: address undefined thread
// devices: host standin cuda
// standin-delay: 20
// standin-sanitizers: thread
// quarters: 3
// cost: 20
// timeout: 300

/* The promise: given the same reduced gradients, every bit of parameters, masters, moments and
 * grad_norm is the same, whatever the number of ranks, buckets, threads, the instruction set and
 * the way between ranks. Ranks as threads; test_promise_mpi.c has processes. */
#include "promise.h"

typedef struct run {
  const promise_case *what;
  trainer_result reference;
  trainer_result results[8];
} run;

static void train_rank(int32_t rank, zero1_comm *comm, void *arg) {
  run *const self = (run *)arg;
  trainer_run(comm, &self->what->train, &self->results[rank]);
}

/* All ranks' owned elements: each trainable element once, no frozen one. */
static void check_owned_once(const run *self) {
  const trainer_case *train = &self->what->train;
  for (int32_t i = 0, at = 0; i < train->param_count; ++i) {
    const int expected = !(train->params[i].flags & ZERO1_PARAM_FROZEN);
    for (int64_t e = 0; e < train->params[i].numel; ++e, ++at) {
      int times = 0;
      for (int32_t rank = 0; rank < self->what->world_size; ++rank)
        times += self->results[rank].owned[at];
      CHECK_EQ(times, expected);
    }
  }
}

static void train_all(run *self) {
  const promise_case *what = self->what;
  zero1_comm_options options;
  setenv("ZERO1_ISA", "baseline", 1);
  trainer_run_alone(&what->train, &self->reference);
  if (promise_has_isa(what->isa)) setenv("ZERO1_ISA", what->isa, 1);
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->ranks_per_node;
  options.workspace_bytes = what->workspace_bytes;
  check_threads(what->world_size, &options, train_rank, self);
}

static void release(run *self) {
  trainer_result_free(&self->reference);
  for (int32_t rank = 0; rank < 8; ++rank) trainer_result_free(&self->results[rank]);
}

static void check_case(const promise_case *what) {
  run self = {.what = what};
  if (getenv("PROMISE_VERBOSE")) {
    char text[400];
    promise_describe(what, text, sizeof text);
    fprintf(stderr, "%s\n", text);
  }
  train_all(&self);
  promise_check_clipping(what, &self.reference);
  for (int32_t rank = 0; rank < what->world_size; ++rank)
    promise_check_alike(what, &self.results[rank], &self.reference);
  check_owned_once(&self);
  release(&self);
}

/* Of each test below. In a run of cases every axis goes through its values evenly, in an order of
 * its own: with the shortest one, of 6, every value of every axis is there (worlds and wires have 6
 * each, the others fewer), and four of five pairs of values are in one of the three tests. Sanitizers look
 * for what a single case shows; that no combination changes a bit is the release build's to show. */
#if defined(__SANITIZE_THREAD__)
enum { CASES = 6, RUN_OF_CASES = 6 };
#elif defined(__SANITIZE_ADDRESS__) || defined(ZERO1_TESTS_STANDIN)
enum { CASES = 12, RUN_OF_CASES = 12 };
#else
enum { CASES = 36, RUN_OF_CASES = 12 };
#endif

static void every_number_of_ranks_on_one_node_gives_the_same_bits(void) {
  static const int32_t worlds[] = {1, 2, 3, 4, 5, 8};
  const promise_sample sample = promise_shuffle(1, RUN_OF_CASES);
  for (int32_t i = 0; i < CASES; ++i) {
    const promise_case what =
        promise_case_of(&sample, i, device_ranks(worlds[sample.columns[AXIS_WORLD][i] % 6]), 0);
    check_case(&what);
  }
}

static void every_number_of_nodes_of_one_rank_gives_the_same_bits(void) {
  static const int32_t worlds[] = {2, 3, 4, 5, 8, 1};
  const promise_sample sample = promise_shuffle(2, RUN_OF_CASES);
  for (int32_t i = 0; i < CASES; ++i) {
    const promise_case what =
        promise_case_of(&sample, i, device_ranks(worlds[sample.columns[AXIS_WORLD][i] % 6]), 1);
    check_case(&what);
  }
}

/* 5 ranks do not divide into nodes of 2: each counts as a node of its own. */
static void nodes_of_several_ranks_give_the_same_bits(void) {
  static const int32_t shapes[][2] = {{4, 2}, {8, 2}, {8, 4}, {6, 3}, {6, 2}, {5, 2}};
  const promise_sample sample = promise_shuffle(3, RUN_OF_CASES);
  for (int32_t i = 0; i < CASES; ++i) {
    const int32_t *shape = shapes[sample.columns[AXIS_WORLD][i] % 6];
    if (device_ranks(shape[0]) < shape[0]) shape = shapes[0];
    promise_case what = promise_case_of(&sample, i, shape[0], shape[1]);
    if (i % 3) what.train.reduce_group = 0; /* another one takes the path between single ranks */
    check_case(&what);
  }
}

/* With nothing to decide in between, one pass does what two do. */
static void one_pass_and_two_give_the_same_bits(void) {
  const promise_sample sample = promise_shuffle(4, RUN_OF_CASES);
  for (int32_t i = 0; i < 4; ++i) {
    trainer_result one, two;
    int64_t where;
    trainer_case train = promise_case_of(&sample, i, 1, 0).train;
    train.max_grad_norm = 0;
    train.guard = 0;
    trainer_run_alone(&train, &one);
    train.guard = 1;
    trainer_run_alone(&train, &two);
    CHECK(!trainer_difference(&one, &two, &where));
    trainer_result_free(&one);
    trainer_result_free(&two);
  }
}

/* 11 parameters of 7 elements, tiny buckets, 3 microbatches: a case of the peers' tests. */
static void eleven_parameters_of_seven_elements_give_the_same_bits(void) {
  static const zero1_group groups[] = {
      {sizeof(zero1_group), 0.01, 0.1, 0.2, 0.25, 0.1, 1, 0},
      {sizeof(zero1_group), 0.02, 0.1, 0.2, 0.25, 0.0, 1, 0},
  };
  trainer_param params[11];
  for (int i = 0; i < 11; ++i) params[i] = (trainer_param){7, i % 2, 0};
  for (int32_t world_size = 1; world_size <= 4; ++world_size) {
    promise_case what = {.train = {.params = params,
                                   .param_count = 11,
                                   .groups = groups,
                                   .group_count = 2,
                                   .steps = 20,
                                   .guard = 1,
                                   .grad_scale = 0.25,
                                   .max_grad_norm = 20,
                                   .bucket_numel = 7,
                                   .threads = 1,
                                   .overlap = 1,
                                   .order = TRAINER_BACKWARD,
                                   .microbatches = 3},
                         .isa = "baseline",
                         .world_size = world_size};
    check_case(&what);
  }
}

/* 1465 buckets of one block per rank: more than a stream holds tasks. Both ways with overlap and
 * without; under ThreadSanitizer, which takes ten times as long, each in two of the four pairs. */
static void thousands_of_buckets_give_the_same_bits(void) {
  static const trainer_param params[] = {{1, 0, 0}, {750000, 1, 0}};
  for (int32_t ranks_per_node = 0; ranks_per_node < 2; ++ranks_per_node) {
    for (int32_t overlap = 0; overlap < 2; ++overlap) {
#if defined(__SANITIZE_THREAD__)
      if (overlap == ranks_per_node) continue;
#endif
      const promise_case what = {.train = {.params = params,
                                           .param_count = 2,
                                           .groups = promise_groups,
                                           .group_count = 2,
                                           .steps = 2,
                                           .guard = 1,
                                           .grad_scale = 0.37,
                                           .bucket_numel = 1,
                                           .threads = 1,
                                           .overlap = overlap,
                                           .order = TRAINER_BACKWARD,
                                           .microbatches = 1},
                                 .isa = "baseline",
                                 .world_size = 2,
                                 .ranks_per_node = ranks_per_node};
      check_case(&what);
    }
  }
}

/* ---- the comparison itself ---- */

typedef struct change {
  const char *expected;
  void (*apply)(trainer_case *train);
} change;

static void scale_more(trainer_case *train) {
  train->grad_scale = 0.37000000000000005;
}
static void clip_less(trainer_case *train) {
  train->max_grad_norm = 400.00000000000006;
}
static void lower_beta(trainer_case *train) {
  static const zero1_group other[] = {
      {sizeof(zero1_group), 0.01, 0.9, 0.9990001, 1e-8, 0.1, 1, 0},
      {sizeof(zero1_group), 0.002, 0.8, 0.95, 1e-6, 0.03, 0, 0},
  };
  train->groups = other;
}

static void a_change_in_the_last_place_is_seen(void) {
  static const change changes[] = {
      {"grad_norm of a step", scale_more},
      {"clip_coef of a step", clip_less},
      {"parameters after a step", lower_beta},
  };
  const trainer_case train = {.params = promise_params,
                              .param_count = sizeof promise_params / sizeof *promise_params,
                              .groups = promise_groups,
                              .group_count = 2,
                              .steps = 20,
                              .guard = 1,
                              .grad_scale = 0.37,
                              .max_grad_norm = 400};
  for (size_t i = 0; i < sizeof changes / sizeof *changes; ++i) {
    trainer_result one, other;
    trainer_case changed = train;
    int64_t where;
    changes[i].apply(&changed);
    trainer_run_alone(&train, &one);
    trainer_run_alone(&changed, &other);
    const char *difference = trainer_difference(&other, &one, &where);
    CHECK(difference && !strcmp(difference, changes[i].expected));
    trainer_result_free(&one);
    trainer_result_free(&other);
  }
}

static void a_single_bit_is_seen(void) {
  const trainer_case train = {.params = promise_few,
                              .param_count = 3,
                              .groups = promise_groups,
                              .group_count = 2,
                              .steps = 2,
                              .guard = 1};
  trainer_result one, other;
  int64_t where;
  trainer_run_alone(&train, &one);
  trainer_run_alone(&train, &other);
  CHECK(!trainer_difference(&other, &one, &where));
  uint32_t *const arrays[] = {other.params, other.master_param, other.exp_avg, other.exp_avg_sq};
  for (size_t i = 0; i < 4; ++i) {
    arrays[i][37] ^= 1; /* the last element of the last parameter */
    CHECK(trainer_difference(&other, &one, &where));
    CHECK_EQ(where, 37);
    arrays[i][37] ^= 1;
  }
  trainer_result_free(&one);
  trainer_result_free(&other);
}

int main(void) {
  device_skip_without();
  RUN(a_change_in_the_last_place_is_seen);
  RUN(a_single_bit_is_seen);
  RUN(one_pass_and_two_give_the_same_bits);
  RUN(eleven_parameters_of_seven_elements_give_the_same_bits);
  RUN(thousands_of_buckets_give_the_same_bits);
  RUN(every_number_of_ranks_on_one_node_gives_the_same_bits);
  RUN(every_number_of_nodes_of_one_rank_gives_the_same_bits);
  RUN(nodes_of_several_ranks_give_the_same_bits);
  return check_summary();
}
