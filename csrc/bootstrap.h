/* A comm that can do one thing, the caller's all-gather: enough to introduce the ranks. */
#ifndef ZERO1__BOOTSTRAP_H
#define ZERO1__BOOTSTRAP_H

#include "comm_ops.h"

typedef struct zero1__bootstrap {
  zero1_comm comm;
  zero1__lane lane;         /* the lane to use */
  zero1__error scratch[64]; /* of the lane, up to so many ranks: so that even a rank without any
                               memory can tell its peers */
  zero1_allgather_fn allgather;
  void *context;
  int32_t takes_part; /* this rank can agree with the others, whatever else is wrong */
} zero1__bootstrap;

/** ZERO1_ERR_INVALID, ZERO1_ERR_MEMORY. Ended with zero1__bootstrap_end, after a failure too. */
zero1_status zero1__bootstrap_begin(zero1__bootstrap *bootstrap, int32_t rank, int32_t world_size,
                                    zero1_allgather_fn allgather, void *context,
                                    zero1__error *error);
void zero1__bootstrap_end(zero1__bootstrap *bootstrap);

#endif
