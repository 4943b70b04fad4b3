// sanitizers: address undefined
/* What follows from the records of all ranks. */
#include "outcome.h"

#include <string.h>

#include "check.h"
#include "kernels_host.h"

enum { RANKS = 4 };

/* 4 ranks that all came for attempt 7 of a step and found nothing; squares: 9 on rank 1 and 16 on
 * rank 3, so that the norm before grad_scale is 5. */
static void fill(zero1__record *records) {
  memset(records, 0, RANKS * sizeof *records);
  for (int32_t i = 0; i < RANKS; ++i) {
    records[i].epoch = 7;
    records[i].came_to = ZERO1__CAME_TO_STEP;
    records[i].limits = (zero1__limits){.grad_scale = 0.5, .guard = 1};
    records[i].groups_hash = 1234;
    zero1__stats_clear(&records[i].stats);
  }
  zero1__exact_sum_add(&records[1].stats.squares, 9);
  zero1__exact_sum_add(&records[3].stats.squares, 16);
}

static void set_limits(zero1__record *records, zero1__limits limits) {
  for (int32_t i = 0; i < RANKS; ++i) records[i].limits = limits;
}

static zero1__outcome check(const zero1__record *records) {
  const zero1__records all = {records, sizeof *records, RANKS};
  zero1__outcome outcome;
  zero1__outcome_clear(&outcome);
  zero1__decide_check(&all, &outcome.decision);
  zero1__outcome_tell(&outcome);
  return outcome;
}

static zero1__outcome decide(const zero1__record *records) {
  zero1__outcome outcome = check(records);
  const zero1__records all = {records, sizeof *records, RANKS};
  zero1__decide_verdict(&all, &outcome.decision);
  zero1__outcome_tell(&outcome);
  return outcome;
}

static void is_error(const zero1__outcome *outcome, zero1_status status, const char *named) {
  CHECK_STATUS(outcome->error.status, status);
  CHECK_EQ(outcome->decision.skip, 1);
  CHECK_EQ(outcome->decision.skip_reason, ZERO1_SKIP_ERROR);
  if (!strstr(outcome->error.text, named))
    fprintf(stderr, "the text is: %s\n", outcome->error.text);
  CHECK(strstr(outcome->error.text, named));
}

static void a_good_step_is_not_skipped(void) {
  zero1__record records[RANKS];
  fill(records);
  const zero1__outcome outcome = decide(records);
  CHECK_STATUS(outcome.error.status, ZERO1_OK);
  CHECK(!outcome.decision.skip && outcome.decision.skip_reason == ZERO1_SKIP_NONE);
  CHECK(outcome.decision.grad_norm == 2.5); /* 0.5 * sqrt(9 + 16) */
  CHECK(outcome.decision.clip_coef == 1);
  CHECK_EQ(outcome.decision.bad_param, -1);
  CHECK_EQ(outcome.decision.bad_rank, -1);
  CHECK_EQ(outcome.decision.any_absent, 0);
}

static void ranks_that_came_for_other_things_are_named(void) {
  zero1__record records[RANKS];
  fill(records);
  records[2].came_to = ZERO1__CAME_TO_DROP;
  zero1__outcome outcome = check(records);
  is_error(&outcome, ZERO1_ERR_MISMATCH, "rank 2 called drop_grads");
  fill(records);
  records[3].epoch = 8;
  outcome = check(records);
  is_error(&outcome, ZERO1_ERR_MISMATCH, "rank 3 called step (attempt 8)");
}

static void the_lowest_rank_with_an_error_counts(void) {
  zero1__record records[RANKS];
  fill(records);
  records[3].status = ZERO1_ERR_DEVICE;
  records[1].status = ZERO1_ERR_STATE;
  snprintf(records[1].text, sizeof records[1].text, "no gradient of 'w'");
  zero1__outcome outcome = check(records);
  is_error(&outcome, ZERO1_ERR_STATE, "rank 1: no gradient of 'w'");
  fill(records);
  memset(records[0].text, 'x', sizeof records[0].text); /* a text that does not end */
  records[0].status = ZERO1_ERR_MEMORY;
  outcome = check(records);
  is_error(&outcome, ZERO1_ERR_MEMORY, "rank 0: xxx");
}

static void groups_and_limits_must_be_alike(void) {
  zero1__record records[RANKS];
  fill(records);
  records[2].groups_hash += 1;
  zero1__outcome outcome = check(records);
  is_error(&outcome, ZERO1_ERR_MISMATCH, "ranks 0 and 2");
  fill(records);
  records[3].limits.max_grad_norm = 1;
  outcome = decide(records);
  is_error(&outcome, ZERO1_ERR_MISMATCH, "ranks 0 and 3 have set another");
  fill(records);
  records[1].limits.one_pass = 1;
  outcome = decide(records);
  is_error(&outcome, ZERO1_ERR_MISMATCH, "ranks 0 and 1 have set max_grad_norm");
}

static void absent_gradients_anywhere_are_noted(void) {
  zero1__record records[RANKS];
  fill(records);
  records[2].absent = 3;
  CHECK_EQ(check(records).decision.any_absent, 1);
}

/* max_grad_norm / (grad_norm + 1e-6), where that is below 1. */
static void a_norm_above_is_clipped(void) {
  zero1__record records[RANKS];
  fill(records);
  set_limits(records, (zero1__limits){.grad_scale = 0.5, .max_grad_norm = 1, .guard = 1});
  zero1__outcome outcome = decide(records);
  CHECK(outcome.decision.clip_coef == 1 / (2.5 + 1e-6));
  CHECK(!outcome.decision.skip && outcome.decision.grad_norm == 2.5);
  set_limits(records, (zero1__limits){.grad_scale = 0.5, .max_grad_norm = 3, .guard = 1});
  outcome = decide(records);
  CHECK(outcome.decision.clip_coef == 1);
  set_limits(records, (zero1__limits){.grad_scale = 0.5, .max_grad_norm = 2.5, .guard = 1});
  outcome = decide(records);
  CHECK(outcome.decision.clip_coef ==
        2.5 / (2.5 + 1e-6)); /* the margin: at the norm itself, a little */
}

static void a_norm_above_the_threshold_is_skipped(void) {
  zero1__record records[RANKS];
  fill(records);
  set_limits(records, (zero1__limits){.grad_scale = 0.5, .skip_grad_norm = 2.5});
  CHECK(!decide(records).decision.skip);
  set_limits(records, (zero1__limits){.grad_scale = 0.5, .skip_grad_norm = 2.4});
  const zero1__outcome outcome = decide(records);
  CHECK_EQ(outcome.decision.skip, 1);
  CHECK_EQ(outcome.decision.skip_reason, ZERO1_SKIP_NORM);
  CHECK_STATUS(outcome.error.status, ZERO1_OK);
}

static void the_lowest_culprit_is_named(void) {
  zero1__record records[RANKS];
  fill(records);
  records[0].stats.nonfinite_numel = 2;
  records[0].stats.culprit = zero1__culprit_key(5, 1);
  records[3].stats.nonfinite_numel = 1;
  records[3].stats.culprit = zero1__culprit_key(4, 2);
  const zero1__outcome outcome = decide(records);
  CHECK_EQ(outcome.decision.skip, 1);
  CHECK_EQ(outcome.decision.skip_reason, ZERO1_SKIP_NONFINITE);
  CHECK_EQ(outcome.decision.nonfinite_numel, 3);
  CHECK_EQ(outcome.decision.bad_param, 4);
  CHECK_EQ(outcome.decision.bad_rank, 2);
  CHECK(isnan(outcome.decision.grad_norm));
}

static void an_overflow_of_the_sum_names_no_rank(void) {
  zero1__record records[RANKS];
  fill(records);
  records[2].stats.nonfinite_numel = 1;
  records[2].stats.culprit = zero1__culprit_key(6, ZERO1__CULPRIT_OVERFLOW);
  zero1__outcome outcome = decide(records);
  CHECK_EQ(outcome.decision.skip_reason, ZERO1_SKIP_OVERFLOW);
  CHECK_EQ(outcome.decision.bad_param, 6);
  CHECK_EQ(outcome.decision.bad_rank, -1);
  /* A rank's own NaN in the same parameter comes first. */
  records[1].stats.nonfinite_numel = 1;
  records[1].stats.culprit = zero1__culprit_key(6, 3);
  outcome = decide(records);
  CHECK_EQ(outcome.decision.skip_reason, ZERO1_SKIP_NONFINITE);
  CHECK_EQ(outcome.decision.bad_rank, 3);
}

/* It is to be seen: told, and in the parameters. */
static void without_guard_a_nan_goes_through(void) {
  zero1__record records[RANKS];
  fill(records);
  records[2].stats.nonfinite_numel = 1;
  records[2].stats.culprit = zero1__culprit_key(6, 2);
  set_limits(records, (zero1__limits){.grad_scale = 0.5, .max_grad_norm = 1});
  const zero1__outcome outcome = decide(records);
  CHECK_EQ(outcome.decision.skip, 0);
  CHECK_EQ(outcome.decision.nonfinite_numel, 1);
  CHECK_EQ(outcome.decision.bad_rank, 2);
  CHECK(isnan(outcome.decision.grad_norm) && isnan(outcome.decision.clip_coef));
}

/* The ranks' order does not change a bit of the norm. */
static void the_norm_has_no_order(void) {
  zero1__record records[RANKS], turned[RANKS];
  const double squares[RANKS] = {0x1p200, 3, 0x1.8p-200, 0x1.123456789abcdp-10};
  fill(records);
  for (int32_t i = 0; i < RANKS; ++i) {
    zero1__stats_clear(&records[i].stats);
    zero1__exact_sum_add(&records[i].stats.squares, squares[i]);
  }
  const double norm = decide(records).decision.grad_norm;
  for (int32_t turn = 1; turn < RANKS; ++turn) {
    for (int32_t i = 0; i < RANKS; ++i) turned[i] = records[(i + turn) % RANKS];
    CHECK(decide(turned).decision.grad_norm == norm);
  }
}

int main(void) {
  RUN(a_good_step_is_not_skipped);
  RUN(ranks_that_came_for_other_things_are_named);
  RUN(the_lowest_rank_with_an_error_counts);
  RUN(groups_and_limits_must_be_alike);
  RUN(absent_gradients_anywhere_are_noted);
  RUN(a_norm_above_is_clipped);
  RUN(a_norm_above_the_threshold_is_skipped);
  RUN(the_lowest_culprit_is_named);
  RUN(an_overflow_of_the_sum_names_no_rank);
  RUN(without_guard_a_nan_goes_through);
  RUN(the_norm_has_no_order);
  return check_summary();
}
