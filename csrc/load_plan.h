/* What a checkpoint has for an optimizer, and whether it fits: parameters by their names. */
#ifndef ZERO1__LOAD_PLAN_H
#define ZERO1__LOAD_PLAN_H

#include "checkpoint_reader.h"
#include "optimizer.h"

typedef struct zero1__load_plan {
  zero1_optimizer *optimizer;
  const zero1__reader *reader;
  const zero1_load_options *options;
  int64_t *saved; /* [param_count] index in the manifest; -1: not there, and allowed to miss */
} zero1__load_plan;

/** ZERO1_ERR_MISMATCH: names the first parameter that is missing, too much, or differs, and how; or
 *  another data type or number of groups. ZERO1_ERR_MEMORY. Ended after a failure too. */
zero1_status zero1__load_plan_begin(zero1__load_plan *plan, zero1_optimizer *optimizer,
                                    const zero1__reader *reader, const zero1_load_options *options,
                                    zero1__error *error);
void zero1__load_plan_end(zero1__load_plan *plan);

/** What this rank reads, residuals aside; each tag is the state that it becomes
 *  (ZERO1_STATE_PARAM: a frozen parameter's value). To be freed. ZERO1_ERR_MEMORY. */
zero1_status zero1__load_plan_wanted(const zero1__load_plan *plan, zero1__wanted **wanted,
                                     int64_t *count, zero1__error *error);

#endif
