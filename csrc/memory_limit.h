/* How much memory is to be had, asked before it is taken. */
#ifndef ZERO1__MEMORY_LIMIT_H
#define ZERO1__MEMORY_LIMIT_H

#include <stdint.h>

#include "error.h"

/** Whether `rank_bytes` for each of `ranks` ranks of this machine are there: against MemAvailable
 *  of /proc/meminfo, the limit of the control group and this process's address space.
 *  ZERO1_ERR_MEMORY: says how much is needed, how much is there, and which limit is short. Where
 *  the system tells nothing, it is enough. */
zero1_status zero1__memory_check(uint64_t rank_bytes, int32_t ranks, zero1__error *error);

#endif
