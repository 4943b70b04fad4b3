/* Text that the model writes. */
#ifndef LM_SAMPLE_H
#define LM_SAMPLE_H

#include "lm_model.h"

typedef struct lm_sampling {
  int64_t bytes;      /* how many to write after the prompt */
  double temperature; /* 0: always the most likely byte */
  uint64_t seed;
  const char *prompt; /* not empty */
} lm_sampling;

/** Prints the prompt and what follows it to stdout; false where a tensor could not be read or
 *  memory is short. */
bool lm_print_sample(lm_model *model, const lm_tensors *tensors, const lm_sampling *sampling);

#endif
