#include "outcome.h"

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
  zero1__error_clear(&outcome->error);
  zero1__decision_clear(&outcome->decision);
}

void zero1__outcome_tell(zero1__outcome *outcome) {
  const zero1__decision *d = &outcome->decision;
  zero1__error *error = &outcome->error;
  switch (d->cause) {
    case ZERO1__CAUSE_STATUS:
      zero1__fail(error, d->status, "rank %d: %.256s", d->rank, d->text);
      break;
    case ZERO1__CAUSE_CALLS:
      zero1__fail(error, d->status,
                  "rank 0 called %s (attempt %u) and rank %d called %s (attempt %u)",
                  came_to_text(d->came_to[0]), d->epoch[0], d->rank, came_to_text(d->came_to[1]),
                  d->epoch[1]);
      break;
    case ZERO1__CAUSE_WIDER:
      zero1__fail(error, d->status, "of agree_comm, rank 0 called %s and rank %d called %s",
                  came_to_text(d->came_to[0]), d->rank, came_to_text(d->came_to[1]));
      break;
    case ZERO1__CAUSE_GROUPS:
      zero1__fail(error, d->status, "ranks 0 and %d have set other hyper-parameters of a group",
                  d->rank);
      break;
    case ZERO1__CAUSE_LIMITS:
      zero1__fail(
          error, d->status,
          "ranks 0 and %d have set another grad_scale, max_grad_norm, skip_grad_norm or guard",
          d->rank);
      break;
    case ZERO1__CAUSE_ONE_PASS:
      zero1__fail(error, d->status,
                  "ranks 0 and %d have set max_grad_norm or skip_grad_norm at other times: before "
                  "the step's first gradient was ready, and after it",
                  d->rank);
      break;
    case ZERO1__CAUSE_LOST:
      zero1__fail(error, d->status, "a peer was lost");
      break;
    default:
      break;
  }
}

static zero1__records as_records(const zero1__record *records, int32_t count) {
  return (zero1__records){records, sizeof *records, count};
}

void zero1__outcome_check(const zero1__record *records, int32_t count, zero1__outcome *outcome) {
  const zero1__records all = as_records(records, count);
  zero1__decide_check(&all, &outcome->decision);
  zero1__outcome_tell(outcome);
}

void zero1__outcome_check_wider(const zero1__record *records, int32_t count,
                                zero1__outcome *outcome) {
  const zero1__records all = as_records(records, count);
  zero1__decide_check_wider(&all, &outcome->decision);
  zero1__outcome_tell(outcome);
}

void zero1__outcome_decide(const zero1__record *records, int32_t count, zero1__outcome *outcome) {
  const zero1__records all = as_records(records, count);
  zero1__decide_verdict(&all, &outcome->decision);
  zero1__outcome_tell(outcome);
}
