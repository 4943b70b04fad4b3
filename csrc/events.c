#include "events.h"

#include <stdlib.h>

zero1_status zero1__events_create(zero1__device *device, int64_t count, zero1__event ***events,
                                  zero1__error *error) {
  *events = calloc((size_t)count + 1, sizeof **events);
  if (!*events) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for events");
  for (int64_t i = 0; i < count; ++i) {
    const zero1_status status = device->ops->event_create(device, &(*events)[i], error);
    if (status) return status;
  }
  return ZERO1_OK;
}

void zero1__events_destroy(zero1__device *device, zero1__event **events) {
  for (int64_t i = 0; events && events[i]; ++i) device->ops->event_destroy(device, events[i]);
  free(events);
}
