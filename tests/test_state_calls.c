// devices: host standin cuda
// sanitizers: address undefined thread
// standin-sanitizers: thread
// wrap: zero1__hold_sync
// wrap: zero1__save_job_write
// timeout: 200

/* What set_state, get_state and set_count promise besides the bits: errors that name what is wrong
 * and change nothing, on every rank where the call is collective; and set_state waits for a save that
 * reads the state from where it is. */
#include <stdatomic.h>

#include "checkpoint_scene.h"
#include "hold.h"
#include "slow_writer.h"

enum { EMPTY = 1, FROZEN = 3, WIDE = 4, PARAMS = 6, WIDE_NUMEL = 5000 };

static void fill(float *values, float value) {
  for (int e = 0; e < WIDE_NUMEL; ++e) values[e] = value;
}

/* All of a state of the widest parameter is `value`. */
static void check_state(trainer *self, int32_t state, float value) {
  float values[WIDE_NUMEL];
  must(self->optimizer, zero1_optimizer_get_state(self->optimizer, WIDE, state, values));
  for (int e = 0; e < WIDE_NUMEL; ++e) CHECK(values[e] == value);
}

/* The handle makes its third step. */
static void check_goes_on(trainer *self) {
  zero1_info info;
  must(self->optimizer, zero1_optimizer_params_changed(self->optimizer));
  trainer_step(self, 2, &info);
  CHECK_EQ(info.count, 3);
  CHECK_EQ(info.skipped, 0);
  must(self->optimizer, zero1_optimizer_check_replicas(self->optimizer, NULL));
}

/* ---- wrong arguments ---- */

static void set_wrongly(trainer *self, const char *root) {
  zero1_optimizer *const optimizer = self->optimizer;
  const int own_master = self->what->param_dtype == ZERO1_DTYPE_FP32;
  const zero1_status invalid = ZERO1_ERR_INVALID;
  float values[WIDE_NUMEL];
  (void)root;
  fill(values, 7);
  must(optimizer, zero1_optimizer_set_state(optimizer, WIDE, 2, values));
  fill(values, 8);
  CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, -1, 2, values), invalid,
             "there is no parameter -1 of 6");
  CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, PARAMS, 2, values), invalid,
             "there is no parameter 6 of 6");
  CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, INT64_MIN, 2, values), invalid,
             "there is no parameter");
  CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, FROZEN, 2, values), invalid,
             "'p3' is frozen");
  const int32_t states[] = {-1, ZERO1_STATE_PARAM, ZERO1_STATE_RESIDUAL, 1000};
  for (int i = 0; i < 4; ++i)
    CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, WIDE, states[i], values), invalid,
               "neither a master nor a moment");
  CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, WIDE, 2, NULL), invalid, "values is NULL");
  must(optimizer, zero1_optimizer_set_state(optimizer, EMPTY, 2, NULL));
  if (own_master) {
    CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, WIDE, ZERO1_STATE_MASTER_PARAM, values),
               invalid, "'p4' is its own master");
    CHECK_TOLD(self, zero1_optimizer_set_state(optimizer, EMPTY, ZERO1_STATE_MASTER_PARAM, NULL),
               invalid, "'p1' is its own master");
  }
  check_state(self, 2, 7);
  check_goes_on(self);
}

static void get_wrongly(trainer *self, const char *root) {
  zero1_optimizer *const optimizer = self->optimizer;
  const zero1_status invalid = ZERO1_ERR_INVALID;
  const int odd = self->rank == 1;
  (void)root;
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, -1, 2, NULL), invalid,
             "there is no parameter -1 of 6");
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, FROZEN, 2, NULL), invalid,
             "'p3' is frozen");
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, WIDE, ZERO1_STATE_RESIDUAL, NULL), invalid,
             "neither a master nor a moment");
  /* Wrong on one rank alone: its peers are told by its number. */
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, odd ? PARAMS : WIDE, 2, NULL), invalid,
             odd ? "there is no parameter 6" : "rank 1: there is no parameter 6");
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, WIDE, odd ? 0 : 2, NULL), invalid,
             odd ? "state is 0" : "rank 1: state is 0");
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, odd ? 0 : WIDE, 2, NULL),
             ZERO1_ERR_MISMATCH, "ranks 0 and 1 asked for states 2 and 2 of parameters 4 and 0");
  CHECK_TOLD(self, zero1_optimizer_get_state(optimizer, WIDE, odd ? 3 : 2, NULL),
             ZERO1_ERR_MISMATCH, "ranks 0 and 1 asked for states 2 and 3 of parameters 4 and 4");
  must(optimizer, zero1_optimizer_get_state(optimizer, EMPTY, 2, NULL));
  check_goes_on(self);
}

static void count_wrongly(trainer *self, const char *root) {
  zero1_optimizer *const optimizer = self->optimizer;
  const int odd = self->rank == 1;
  (void)root;
  CHECK_TOLD(self, zero1_optimizer_set_count(optimizer, -1), ZERO1_ERR_INVALID, "count is -1");
  CHECK_TOLD(self, zero1_optimizer_set_count(optimizer, INT64_MAX), ZERO1_ERR_INVALID,
             "count is 9223372036854775807");
  CHECK_TOLD(self, zero1_optimizer_set_count(optimizer, odd ? -5 : 2), ZERO1_ERR_INVALID,
             odd ? "count is -5" : "rank 1: count is -5");
  CHECK_TOLD(self, zero1_optimizer_set_count(optimizer, odd ? 4 : 3), ZERO1_ERR_MISMATCH,
             "count is 3 on rank 0 and 4 on rank 1");
  CHECK_EQ(trainer_info(self).count, 2);
  CHECK_EQ(trainer_info(self).attempts, 2);
  check_goes_on(self);
}

/* The largest count that is taken; the step after it is as any other. */
static void count_far(trainer *self, const char *root) {
  zero1_info info;
  (void)root;
  must(self->optimizer, zero1_optimizer_set_count(self->optimizer, INT64_MAX / 2));
  trainer_step(self, 2, &info);
  CHECK_EQ(info.count, INT64_MAX / 2 + 1);
  CHECK_EQ(info.skipped, 0);
}

/* fp32 and bf16; on CUDA with some buckets offloaded, whose masters are the host's. */
static void play_kinds(int32_t world, void (*fn)(trainer *self, const char *root)) {
  for (int kind = 0; kind < 4; ++kind) {
    trainer_case what = plain();
    what.param_dtype = kind % 2 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    what.offload = kind / 2 * 0.4;
    play(world, &what, fn);
  }
}

static void what_cannot_be_set_is_named(void) {
  play_kinds(1, set_wrongly);
  play_kinds(3, set_wrongly);
}

static void what_cannot_be_got_is_named_on_every_rank(void) {
  play_kinds(2, get_wrongly);
  play_kinds(3, get_wrongly);
}

static void a_count_is_one_number_that_steps_can_add_to(void) {
  play_kinds(3, count_wrongly);
  play_kinds(1, count_far);
}

/* ---- at the wrong time ---- */

static void check_refused(trainer *self) {
  float values[WIDE_NUMEL];
  fill(values, 9);
  CHECK_TOLD(self, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_STATE,
             "gradients are on their way");
  CHECK_TOLD(self, zero1_optimizer_get_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_STATE,
             "gradients are on their way");
  CHECK_TOLD(self, zero1_optimizer_set_count(self->optimizer, 1), ZERO1_ERR_STATE,
             "gradients are on their way");
  CHECK(values[0] == 9);
}

static void call_in_between(trainer *self, const char *root) {
  float values[WIDE_NUMEL];
  zero1_info info;
  (void)root;
  fill(values, 7);
  must(self->optimizer, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values));
  trainer_mark(self, 2, 0);
  check_refused(self);
  for (int32_t i = 1; i < PARAMS; ++i)
    if (!trainer_is_frozen(self, i)) trainer_mark(self, 2, i);
  check_refused(self);
  must(self->optimizer, zero1_optimizer_reduce_grads(self->optimizer));
  check_refused(self);
  must(self->optimizer, zero1_optimizer_drop_grads(self->optimizer));
  check_state(self, 2, 7);
  must(self->optimizer, zero1_optimizer_set_count(self->optimizer, 2)); /* attempts, too */
  /* One rank alone: its own set_state is refused, and what is collective for all. */
  if (self->rank == 1) {
    trainer_mark(self, 2, 0);
    CHECK_TOLD(self, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_STATE,
               "gradients are on their way");
  } else {
    must(self->optimizer, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values));
  }
  CHECK_TOLD(self, zero1_optimizer_get_state(self->optimizer, WIDE, 2, NULL), ZERO1_ERR_STATE,
             self->rank == 1 ? "gradients" : "rank 1: gradients are on their way");
  CHECK_TOLD(self, zero1_optimizer_set_count(self->optimizer, 5), ZERO1_ERR_STATE,
             self->rank == 1 ? "gradients" : "rank 1: gradients are on their way");
  must(self->optimizer, zero1_optimizer_drop_grads(self->optimizer));
  check_state(self, 2, 7);
  must(self->optimizer, zero1_optimizer_set_count(self->optimizer, 2));
  trainer_step(self, 2, &info);
  CHECK_EQ(info.count, 3);
}

static void gradients_on_their_way_are_refused(void) {
  play_kinds(2, call_in_between);
  play_kinds(3, call_in_between);
}

/* A step that failed is told by set_state where it comes first; the call after it sets. */
static void set_behind_a_failure(trainer *self, const char *root) {
  float values[WIDE_NUMEL];
  const int culprit = self->rank == 1;
  (void)root;
  fill(values, 7);
  must(self->optimizer, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values));
  for (int32_t i = 0; i < PARAMS; ++i)
    if (!trainer_is_frozen(self, i) && !(culprit && i == 0)) trainer_mark(self, 2, i);
  CHECK_STATUS(zero1_optimizer_step(self->optimizer), culprit ? ZERO1_ERR_STATE : ZERO1_OK);
  if (!culprit) {
    fill(values, 8);
    CHECK_TOLD(self, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_STATE,
               "rank 1: the gradient of parameter 0");
  }
  check_state(self, 2, 7);
  fill(values, 6);
  must(self->optimizer, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values));
  check_state(self, 2, 6);
  must(self->optimizer, zero1_optimizer_set_count(self->optimizer, 2));
  (void)trainer_forward(self);
  check_goes_on(self);
}

static void a_step_that_failed_is_told_first(void) {
  play_kinds(3, set_behind_a_failure);
}

static void go_on_without_a_peer(trainer *self, const char *root) {
  float values[WIDE_NUMEL];
  (void)root;
  fill(values, 7);
  check_meet(); /* the steps before are done on every rank */
  if (self->rank == 1) {
    zero1_optimizer_abort(self->optimizer, "disk on fire");
  } else {
    CHECK_TOLD(self, zero1_optimizer_get_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_ABORTED,
               "rank 1 aborted: disk on fire");
  }
  CHECK_TOLD(self, zero1_optimizer_set_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_SPENT,
             "disk on fire");
  CHECK_TOLD(self, zero1_optimizer_get_state(self->optimizer, WIDE, 2, values), ZERO1_ERR_SPENT,
             "disk on fire");
  CHECK_TOLD(self, zero1_optimizer_set_count(self->optimizer, 1), ZERO1_ERR_SPENT, "disk on fire");
}

static void a_spent_handle_says_so(void) {
  play_kinds(2, go_on_without_a_peer);
}

/* ---- a save that reads the state from where it is ---- */

static atomic_int wait_is_taken_out;

void __real_zero1__hold_sync(zero1__hold *hold);
void __wrap_zero1__hold_sync(zero1__hold *hold);
void __wrap_zero1__hold_sync(zero1__hold *hold) {
  if (!atomic_load(&wait_is_taken_out)) __real_zero1__hold_sync(hold);
}

/* The state of before is on disk, and the state of after in memory. */
static void set_beside_a_save(trainer *self, const char *root) {
  char roots[2][300];
  float values[WIDE_NUMEL];
  for (int i = 0; i < 2; ++i) path_of(roots[i], sizeof roots[i], root, i ? "aside" : "at once");
  must(self->optimizer, save_by(self->optimizer, roots[0], SAVE_SYNC));
  must(self->optimizer, save_by(self->optimizer, roots[1], SAVE_PINNED));
  for (int32_t state = 3; state >= 1 + (self->what->param_dtype == ZERO1_DTYPE_FP32); --state) {
    fill(values, (float)state);
    for (int32_t i = 0; i < PARAMS; ++i)
      if (!trainer_is_frozen(self, i))
        must(self->optimizer, zero1_optimizer_set_state(self->optimizer, i, state, values));
  }
  must(self->optimizer, zero1_optimizer_set_count(self->optimizer, 99)); /* is no part of a save */
  must(self->optimizer, zero1_checkpoint_wait(self->optimizer));
  CHECK_EQ(rank_files_are_the_same(roots[0], roots[1], 2, self->rank),
           !atomic_load(&wait_is_taken_out));
  check_state(self, 3, 3);
  check_state(self, 2, 2);
  /* What was saved comes back. */
  must(self->optimizer, zero1_checkpoint_load(self->optimizer, roots[0], NULL));
  CHECK_EQ(trainer_info(self).count, 2);
}

static void a_checkpoint_has_the_state_of_its_call(void) {
  atomic_store(&writer_is_slow, 1);
  play_kinds(2, set_beside_a_save);
  atomic_store(&writer_is_slow, 0);
}

static void the_wait_taken_out_is_missed(void) {
#if !defined(__SANITIZE_THREAD__) /* which would tell of the race first */
  atomic_store(&writer_is_slow, 1);
  atomic_store(&wait_is_taken_out, 1);
  play_kinds(2, set_beside_a_save);
  atomic_store(&wait_is_taken_out, 0);
  atomic_store(&writer_is_slow, 0);
#endif
}

int main(void) {
  device_skip_without();
  RUN(what_cannot_be_set_is_named);
  RUN(what_cannot_be_got_is_named_on_every_rank);
  RUN(a_count_is_one_number_that_steps_can_add_to);
  RUN(gradients_on_their_way_are_refused);
  RUN(a_step_that_failed_is_told_first);
  RUN(a_spent_handle_says_so);
  RUN(a_checkpoint_has_the_state_of_its_call);
  RUN(the_wait_taken_out_is_missed);
  return check_summary();
}
