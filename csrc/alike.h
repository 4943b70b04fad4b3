/* What all ranks must have been given alike: version, configuration, groups, parameters. */
#ifndef ZERO1__ALIKE_H
#define ZERO1__ALIKE_H

#include "comm_ops.h"
#include "config.h"
#include "registry.h"

/** Compares over the lane. Collective. ZERO1_ERR_MISMATCH: on every rank, naming the first thing
 *  that differs, with its two values and ranks. ZERO1_ERR_MEMORY, and what the lane returns. */
zero1_status zero1__agree_alike(zero1__lane *lane, const zero1__settings *settings,
                                const zero1__registry *registry, zero1__error *error);

/** Hash of hyper-parameters. */
uint64_t zero1__groups_hash(const zero1_group *groups, int64_t count);

#endif
