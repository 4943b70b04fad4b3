#include "outcome.h"

#include <stdio.h>
#include <string.h>

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

/* What the ranks of agree_comm are told of a failure of the comm, where a device tells them. */
static const char *comm_cause_text(int32_t cause) {
  switch (cause) {
    case ZERO1__CAUSE_CALLS:
      return "the ranks of its comm made different calls";
    case ZERO1__CAUSE_GROUPS:
      return "the ranks of its comm have set other hyper-parameters of a group";
    default:
      return "a rank of its comm was lost";
  }
}

void zero1__outcome_record(int32_t came_to, int32_t one_pass, int64_t absent,
                           const zero1__error *local, zero1__record *record) {
  memset(record, 0, sizeof *record); /* padding is sent too */
  record->came_to = came_to;
  record->limits.one_pass = one_pass;
  record->absent = absent;
  /* What is wrong with the gradients is no reason not to drop them. */
  if (came_to == ZERO1__CAME_TO_DROP || !local->status) return;
  record->status = local->status;
  snprintf(record->text, sizeof record->text, "%.255s", local->text);
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
      zero1__fail(error, d->status, "rank %d: %.256s", d->rank,
                  d->comm_cause ? comm_cause_text(d->comm_cause) : d->text);
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
