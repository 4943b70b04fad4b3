/* A thread that looks at something again and again: at whether the peers are still there, where
 * what waits for them is a kernel, which cannot look by itself. */
#ifndef ZERO1__LOOKOUT_H
#define ZERO1__LOOKOUT_H

#include <stdint.h>

#include "error.h"

/** Between two looks at whether the peers still live, in any wait for them. */
#define ZERO1__LOOK_NS 20000000

typedef struct zero1__lookout zero1__lookout;

/** Returns whether it has seen enough: it is not called again. */
typedef int (*zero1__look_fn)(void *context);

/** Calls look every period_ns. ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE (no thread can be started). */
zero1_status zero1__lookout_start(int64_t period_ns, zero1__look_fn look, void *context,
                                  zero1__lookout **lookout, zero1__error *error);

/** Returns once look runs no more. NULL is fine. */
void zero1__lookout_stop(zero1__lookout *lookout);

#endif
