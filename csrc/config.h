/* Configuration: defaults, checks, and the copy that an optimizer keeps. */
#ifndef ZERO1__CONFIG_H
#define ZERO1__CONFIG_H

#include "error.h"
#include "zero1/zero1.h"

/** What a config amounts to, checked, with its own copy of the groups. */
typedef struct zero1__settings {
  zero1_config config; /* groups and group_count are those below */
  zero1_group *groups; /* [config.group_count] owned */
} zero1__settings;

/** Takes a caller's config for a world of `world_size` ranks. ZERO1_ERR_INVALID: names the field.
 *  ZERO1_ERR_VERSION, ZERO1_ERR_MEMORY. Ended with zero1__settings_end, after a failure too. */
zero1_status zero1__settings_begin(zero1__settings *settings, const zero1_config *config,
                                   int32_t world_size, zero1__error *error);
void zero1__settings_end(zero1__settings *settings);

/** Whether no update may begin before something is known of all gradients: the norm, whether they
 *  are finite, or what the ranks of agree_comm say, whose contributions may not stay. */
int32_t zero1__config_two_passes(const zero1_config *config);

/** Checks one group's values; `index` is for the text. */
zero1_status zero1__group_check(const zero1_group *group, int64_t index, zero1__error *error);

/** Checks a number that must be finite and at least 0. */
zero1_status zero1__at_least_zero(const char *name, double value, zero1__error *error);

#endif
