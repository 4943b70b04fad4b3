/* Where what is read goes: masters, moments, parameters, residuals. */
#ifndef ZERO1__LOAD_STATE_H
#define ZERO1__LOAD_STATE_H

#include "load_plan.h"

/** Reads what this rank wants, each piece to its place; a master becomes its parameter, too.
 *  Errors as zero1__reader_run. */
zero1_status zero1__load_state(const zero1__load_plan *plan, zero1__error *error);

/** Reads this rank's residuals, or makes them of those of another number of ranks; zeros where the
 *  checkpoint has none. grad_scale: by which gradients will be summed. Nothing where the
 *  optimizer has none. */
zero1_status zero1__load_residuals(const zero1__load_plan *plan, double grad_scale,
                                   zero1__error *error);

/** Gives this rank the parameters that other ranks have read, where they do not share memory.
 *  Collective. ZERO1_ERR_MEMORY, and of peers. */
zero1_status zero1__load_gather(zero1_optimizer *optimizer);

#endif
