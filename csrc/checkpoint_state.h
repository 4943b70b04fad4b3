/* What zero1_checkpoint_read gives of a checkpoint: a state as it is asked for, made of the one that
 * is saved.
 *
 *   asked for              of a trainable parameter       of a frozen one
 *   PARAM                  MASTER_PARAM, as param_dtype   PARAM
 *   MASTER_PARAM           MASTER_PARAM                   PARAM, widened
 *   EXP_AVG, EXP_AVG_SQ,   the same                       there is none
 *   RESIDUAL */
#ifndef ZERO1__CHECKPOINT_STATE_H
#define ZERO1__CHECKPOINT_STATE_H

#include <stdint.h>

#include "checkpoint_reader.h"
#include "error.h"

/** As zero1_checkpoint_read. */
typedef struct zero1__state_request {
  int64_t param;
  int32_t state, rank;
  int64_t begin, end;
  int32_t dtype;
  void *out; /* [end - begin] borrowed */
} zero1__state_request;

zero1_status zero1__state_read(const zero1__reader *reader, const zero1__state_request *request,
                               zero1__error *error);

#endif
