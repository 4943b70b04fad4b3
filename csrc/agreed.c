#include "agreed.h"

#include <math.h>
#include <string.h>

/* The divisor's margin of torch.nn.utils.clip_grad_norm_ and Megatron-LM. */
#define CLIP_EPS 1e-6

static const char *came_to_text(int32_t came_to) {
  switch (came_to) {
    case ZERO1__CAME_TO_REDUCE:
      return "reduce_grads";
    case ZERO1__CAME_TO_STEP:
      return "step";
    case ZERO1__CAME_TO_GO_ON:
      return "step after reduce_grads";
    case ZERO1__CAME_TO_DROP:
      return "drop_grads";
    default:
      return "the end of a step";
  }
}

void zero1__outcome_clear(zero1__outcome *outcome) {
  memset(outcome, 0, sizeof *outcome);
  outcome->clip_coef = 1;
  outcome->bad_param = -1;
  outcome->bad_rank = -1;
}

static void fail(zero1__outcome *outcome) {
  outcome->skip = 1;
  outcome->skip_reason = ZERO1_SKIP_ERROR;
}

static void check_statuses(const zero1__record *records, int32_t count, zero1__outcome *outcome) {
  for (int32_t i = 0; i < count && !outcome->error.status; ++i)
    if (records[i].status)
      zero1__fail(&outcome->error, records[i].status, "rank %d: %.256s", i, records[i].text);
}

void zero1__agreed_check_wider(const zero1__record *records, int32_t count,
                               zero1__outcome *outcome) {
  for (int32_t i = 1; i < count && !outcome->error.status; ++i) {
    if (records[i].came_to == records[0].came_to) continue;
    outcome->out_of_step = 1;
    zero1__fail(&outcome->error, ZERO1_ERR_MISMATCH,
                "of agree_comm, rank 0 called %s and rank %d called %s",
                came_to_text(records[0].came_to), i, came_to_text(records[i].came_to));
  }
  check_statuses(records, count, outcome);
  if (outcome->error.status) fail(outcome);
}

void zero1__agreed_check(const zero1__record *records, int32_t count, zero1__outcome *outcome) {
  for (int32_t i = 1; i < count && !outcome->error.status; ++i) {
    if (records[i].epoch == records[0].epoch && records[i].came_to == records[0].came_to) continue;
    outcome->out_of_step = 1;
    zero1__fail(&outcome->error, ZERO1_ERR_MISMATCH,
                "rank 0 called %s (attempt %u) and rank %d called %s (attempt %u)",
                came_to_text(records[0].came_to), records[0].epoch, i,
                came_to_text(records[i].came_to), records[i].epoch);
  }
  check_statuses(records, count, outcome);
  for (int32_t i = 1; i < count && !outcome->error.status; ++i)
    if (records[i].groups_hash != records[0].groups_hash)
      zero1__fail(&outcome->error, ZERO1_ERR_MISMATCH,
                  "ranks 0 and %d have set other hyper-parameters of a group", i);
  for (int32_t i = 0; i < count; ++i) outcome->any_absent |= records[i].absent > 0;
  if (outcome->error.status) fail(outcome);
}

static void check_limits(const zero1__record *records, int32_t count, zero1__outcome *outcome) {
  const zero1__limits *first = &records[0].limits;
  check_statuses(records, count, outcome);
  for (int32_t i = 1; i < count && !outcome->error.status; ++i) {
    zero1__limits limits = records[i].limits;
    limits.one_pass = first->one_pass;
    if (memcmp(&limits, first, sizeof limits))
      zero1__fail(
          &outcome->error, ZERO1_ERR_MISMATCH,
          "ranks 0 and %d have set another grad_scale, max_grad_norm, skip_grad_norm or guard", i);
    else if (records[i].limits.one_pass != first->one_pass)
      zero1__fail(&outcome->error, ZERO1_ERR_MISMATCH,
                  "ranks 0 and %d have set max_grad_norm or skip_grad_norm at other times: before "
                  "the step's first gradient was ready, and after it",
                  i);
  }
  if (outcome->error.status) fail(outcome);
}

static void name_culprit(const zero1__stats *total, zero1__outcome *outcome) {
  outcome->nonfinite_numel = total->nonfinite_numel;
  if (total->culprit == ZERO1__CULPRIT_NONE) return;
  const uint32_t rank = zero1__culprit_rank(total->culprit);
  outcome->bad_param = zero1__culprit_param(total->culprit);
  outcome->bad_rank = rank == ZERO1__CULPRIT_OVERFLOW ? -1 : (int32_t)rank;
}

static void decide_skip(const zero1__limits *limits, zero1__outcome *outcome) {
  if (limits->guard && outcome->nonfinite_numel) {
    outcome->skip_reason = outcome->bad_param >= 0 && outcome->bad_rank < 0 ? ZERO1_SKIP_OVERFLOW
                                                                            : ZERO1_SKIP_NONFINITE;
  } else if (limits->skip_grad_norm > 0 && outcome->grad_norm > limits->skip_grad_norm) {
    outcome->skip_reason = ZERO1_SKIP_NORM;
  } else {
    return;
  }
  outcome->skip = 1;
}

void zero1__agreed_decide(const zero1__record *records, int32_t count, zero1__outcome *outcome) {
  const zero1__limits *limits = &records[0].limits;
  zero1__stats total;
  check_limits(records, count, outcome);
  zero1__stats_clear(&total);
  for (int32_t i = 0; i < count; ++i) zero1__stats_merge(&total, &records[i].stats);
  name_culprit(&total, outcome);
  outcome->grad_scale = limits->grad_scale;
  outcome->grad_norm = total.nonfinite_numel
                           ? (double)NAN
                           : limits->grad_scale * sqrt(zero1__exact_sum_to_double(&total.squares));
  if (outcome->skip) return;
  if (limits->max_grad_norm > 0) {
    const double coef = limits->max_grad_norm / (outcome->grad_norm + CLIP_EPS);
    if (!(coef >= 1)) outcome->clip_coef = coef; /* NaN too: without guard, it is to be seen */
  }
  decide_skip(limits, outcome);
}
