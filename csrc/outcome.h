/* What a rank tells the others about a step, and what they have decided (decide.h), in words. */
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

/** What this rank tells but for the step's numbers: `local` is what is wrong with it, if anything.
 */
void zero1__outcome_record(int32_t came_to, int32_t one_pass, int64_t absent,
                           const zero1__error *local, zero1__record *record);

/** Of a step that was neither skipped nor clipped. */
void zero1__outcome_clear(zero1__outcome *outcome);

#endif
