#ifndef ZERO1__COMM_THREADS_H
#define ZERO1__COMM_THREADS_H

#include "comm_ops.h"

/** Node comms of threads, one node. [out] comms [world_size], zeroed before. ZERO1_ERR_MEMORY. */
zero1_status zero1__comm_threads_create(int32_t world_size, double timeout_seconds,
                                        zero1_comm **comms, zero1__error *error);

#endif
