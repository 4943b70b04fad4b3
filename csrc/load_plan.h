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

/** What a range that is read becomes: `state` of the optimizer's parameter `param`
 *  (ZERO1_STATE_PARAM: a frozen one's value). */
static inline int64_t zero1__load_tag(int64_t param, int32_t state) {
  return param * ZERO1__STATE_COUNT + state;
}
static inline int64_t zero1__load_tag_param(int64_t tag) {
  return tag / ZERO1__STATE_COUNT;
}
static inline int32_t zero1__load_tag_state(int64_t tag) {
  return (int32_t)(tag % ZERO1__STATE_COUNT);
}

/** What this rank reads, residuals aside, each with its tag. To be freed. ZERO1_ERR_MEMORY. */
zero1_status zero1__load_plan_wanted(const zero1__load_plan *plan, zero1__wanted **wanted,
                                     int64_t *count, zero1__error *error);

#endif
