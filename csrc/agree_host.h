/* The middle of a step: the ranks tell each other how it went, and each comes to the verdict. */
#ifndef ZERO1__AGREE_HOST_H
#define ZERO1__AGREE_HOST_H

#include "schedule.h"

/** Forgets the last step. Nothing may be under way. */
void zero1__host_clear(zero1__schedule *schedule);

/** Enqueues the agreement on the comm stream: sends this rank's record, takes everyone's, and sets
 *  outcome, verdict and, where the step updates, scalars and count. */
void zero1__host_agree(zero1__schedule *schedule, int32_t came_to, int32_t one_pass);

#endif
