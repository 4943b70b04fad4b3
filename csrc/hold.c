#include "hold.h"

#include <string.h>

#include "clock.h"
#include "events.h"

zero1_status zero1__hold_begin(zero1__hold *hold, zero1__device *device, int64_t bucket_count,
                               zero1__error *error) {
  memset(hold, 0, sizeof *hold);
  hold->device = device;
  hold->bucket_count = bucket_count;
  hold->group_count =
      (int32_t)(bucket_count < ZERO1__HOLD_GROUPS ? bucket_count : ZERO1__HOLD_GROUPS);
  return zero1__events_create(device, hold->group_count + 1, &hold->let_go, error);
}

void zero1__hold_end(zero1__hold *hold) {
  if (hold->device) zero1__events_destroy(hold->device, hold->let_go);
  memset(hold, 0, sizeof *hold);
}

void zero1__hold_reset(zero1__hold *hold) {
  hold->host_ns = 0;
  hold->device_ns = 0;
}

int64_t zero1__hold_group_begin(const zero1__hold *hold, int32_t group) {
  return hold->bucket_count * (hold->group_count - 1 - group) / hold->group_count;
}

static int32_t group_of(const zero1__hold *hold, int64_t bucket) {
  int32_t group = 0;
  while (zero1__hold_group_begin(hold, group) > bucket) ++group;
  return group;
}

/* Two tasks around the wait: of one stream, so that nothing comes between. */
static void begin_wait(void *context, const void *args) {
  (void)args;
  atomic_fetch_sub(&((zero1__hold *)context)->host_ns, zero1__now_ns());
}

static void end_wait(void *context, const void *args) {
  (void)args;
  atomic_fetch_add(&((zero1__hold *)context)->host_ns, zero1__now_ns());
}

int64_t zero1__hold_stall_ns(zero1__hold *hold) {
  const int64_t host_ns = atomic_load(&hold->host_ns);
  return hold->device_ns + (host_ns > 0 ? host_ns : 0); /* below 0: in the middle of a wait */
}

void zero1__hold_wait(zero1__hold *hold, zero1__stream *stream, int64_t bucket) {
  if (!hold) return;
  zero1__device *device = hold->device;
  if (!device->is_host && device->ops->capturing(device, stream)) return; /* a replay waits */
  zero1__event *event = hold->let_go[group_of(hold, bucket)];
  if (device->is_host) {
    device->ops->host_call(device, stream, begin_wait, hold, NULL, 0);
    device->ops->stream_wait(device, stream, event);
    device->ops->host_call(device, stream, end_wait, hold, NULL, 0);
  } else {
    device->ops->time_begin(device, stream, &hold->device_ns);
    device->ops->stream_wait(device, stream, event);
    device->ops->time_end(device, stream);
  }
}

void zero1__hold_sync(zero1__hold *hold) {
  if (hold) hold->device->ops->event_sync(hold->device, hold->let_go[hold->group_count]);
}

void zero1__hold_wait_all(zero1__hold *hold, zero1__stream *stream) {
  if (hold && hold->group_count)
    hold->device->ops->stream_wait(hold->device, stream, hold->let_go[hold->group_count - 1]);
}
