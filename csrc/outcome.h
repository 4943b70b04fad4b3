/* What the ranks tell each other about a step, and what follows from it: pure functions of the
 * records of all ranks, so that every rank comes to the same verdict. */
#ifndef ZERO1__OUTCOME_H
#define ZERO1__OUTCOME_H

#include "decide.h"
#include "error.h"

/** What became of the step. */
typedef struct zero1__outcome {
  zero1__error error; /* of the step: every rank has the same status */
  zero1__decision decision;
} zero1__outcome;

/** Says in words what decision.status is due to: fills in the error, unless there is one. */
void zero1__outcome_tell(zero1__outcome *outcome);

/** Whether the ranks came for the same thing with the same groups. `records`: one per rank, in
 *  order. ZERO1_ERR_MISMATCH, or the status of the lowest rank with one: in outcome->error. */
void zero1__outcome_check(const zero1__record *records, int32_t count, zero1__outcome *outcome);

/** The same over config.agree_comm, whose optimizers have groups and attempts of their own. */
void zero1__outcome_check_wider(const zero1__record *records, int32_t count,
                                zero1__outcome *outcome);

/** Norm, clipping and the verdict to skip from all ranks' stats. */
void zero1__outcome_decide(const zero1__record *records, int32_t count, zero1__outcome *outcome);

/** Of a step that was neither skipped nor clipped. */
void zero1__outcome_clear(zero1__outcome *outcome);

#endif
