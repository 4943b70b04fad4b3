/* Two checkpoints that are compared: what their manifests say. */
#ifndef ZERO1_COMMAND_DIFF_TEXT_H
#define ZERO1_COMMAND_DIFF_TEXT_H

#include "zero1/checkpoint.h"

/** Both opened; borrowed. */
typedef struct diff_pair {
  zero1_checkpoint *side[2];
  zero1_checkpoint_info info[2];
} diff_pair;

/** Prints what differs of counts, hyper-parameters, metadata and lists of parameters. Returns
 *  COMMAND_FINE, COMMAND_DIFFERS or COMMAND_FAILED. */
int diff_text(const diff_pair *pair);

#endif
