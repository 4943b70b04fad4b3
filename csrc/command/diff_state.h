/* Two checkpoints that are compared: their tensors. */
#ifndef ZERO1_COMMAND_DIFF_STATE_H
#define ZERO1_COMMAND_DIFF_STATE_H

#include "diff_text.h"

/** Prints, for each state of each parameter that both have in the same shape, how many elements
 *  differ. Holds at most 8 MiB of them. Returns what the program exits with. */
int diff_state(const diff_pair *pair);

#endif
