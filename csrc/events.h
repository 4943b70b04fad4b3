/* Rows of events, one for each bucket or each buffer of a ring. */
#ifndef ZERO1__EVENTS_H
#define ZERO1__EVENTS_H

#include "device_ops.h"
#include "error.h"

/** [count + 1] events, the last of them NULL. ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE. Destroyed with
 *  zero1__events_destroy, after a failure too; NULL is fine there. */
zero1_status zero1__events_create(zero1__device *device, int64_t count, zero1__event ***events,
                                  zero1__error *error);
void zero1__events_destroy(zero1__device *device, zero1__event **events);

#endif
