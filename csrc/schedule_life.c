/* What a schedule is made of: its streams, events and tables. */
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "schedule.h"

/* Memory that kernels read: on the host it is also what the host writes, else there is a copy. */
static zero1_status create_shown(zero1__schedule *schedule, size_t bytes, void **made, void **shown,
                                 zero1__error *error) {
  zero1__device *device = schedule->device;
  *made = calloc(1, bytes);
  if (!*made) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the schedule");
  if (device->is_host) {
    *shown = *made;
    return ZERO1_OK;
  }
  return device->ops->memory_alloc(device, bytes, shown, error);
}

static void destroy_shown(zero1__schedule *schedule, size_t bytes, void *made, void *shown) {
  if (shown != made) schedule->device->ops->memory_free(schedule->device, shown, bytes);
  free(made);
}

static size_t scalars_bytes(const zero1__schedule *schedule) {
  return (size_t)schedule->settings->config.group_count * sizeof(zero1__adam_scalars);
}

static size_t slots_bytes(const zero1__schedule *schedule) {
  return (size_t)schedule->layout->slot_count + 1;
}

static zero1_status create_tables(zero1__schedule *schedule, zero1__error *error) {
  const size_t groups = (size_t)schedule->settings->config.group_count;
  const size_t world = (size_t)schedule->channel->comm->world_size;
  size_t records = world;
  void *scalars = NULL, *made_scalars = NULL, *absent = NULL, *made_absent = NULL;
  if (schedule->wider && (size_t)schedule->wider->comm->world_size > records)
    records = (size_t)schedule->wider->comm->world_size;
  schedule->groups = calloc(groups, sizeof *schedule->groups);
  schedule->absent_bits = calloc(world + 1, zero1__absent_bytes(schedule->layout->slot_count));
  schedule->records = calloc(records, sizeof *schedule->records);
  schedule->made_step =
      schedule->device->is_host ? schedule->step : calloc(1, sizeof *schedule->made_step);
  if (!schedule->groups || !schedule->absent_bits || !schedule->records || !schedule->made_step)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the schedule");
  zero1_status status =
      create_shown(schedule, scalars_bytes(schedule), &made_scalars, &scalars, error);
  if (!status) status = create_shown(schedule, slots_bytes(schedule), &made_absent, &absent, error);
  schedule->scalars = scalars;
  schedule->made_scalars = made_scalars;
  schedule->absent = absent;
  schedule->made_absent = made_absent;
  return status ? status : zero1__readiness_begin(&schedule->readiness, schedule->layout, error);
}

static int comm_kind(const zero1__channel *channel) {
  if (channel->on_device) return ZERO1__STREAM_KERNELS;
  return channel->comm->inline_calls ? ZERO1__STREAM_INLINE : ZERO1__STREAM_HOST_CALLS;
}

static zero1_status create_streams(zero1__schedule *schedule, zero1__error *error) {
  zero1__device *device = schedule->device;
  zero1__channel *channel = schedule->channel;
  const int64_t buckets = schedule->layout->bucket_count, rings = channel->ring_count;
  zero1_status status =
      device->ops->stream_create(device, ZERO1__STREAM_KERNELS, &schedule->compute, error);
  if (!status) {
    schedule->comm = schedule->compute;
    if (!channel->in_place)
      status = device->ops->stream_create(device, comm_kind(channel), &schedule->comm, error);
  }
  if (!status) status = zero1__events_create(device, buckets, &schedule->updated, error);
  if (!status) status = zero1__events_create(device, buckets, &schedule->gathered, error);
  if (!status) status = zero1__events_create(device, rings, &schedule->arrived, error);
  if (!status) status = zero1__events_create(device, rings, &schedule->made, error);
  if (!status) status = zero1__events_create(device, rings, &schedule->freed, error);
  if (!status) status = device->ops->event_create(device, &schedule->ready, error);
  if (!status) status = device->ops->event_create(device, &schedule->encoded, error);
  if (!status) status = device->ops->event_create(device, &schedule->uncaptured, error);
  if (!status) status = device->ops->event_create(device, &schedule->offered, error);
  if (!status) status = device->ops->event_create(device, &schedule->reduced, error);
  if (!status) status = device->ops->event_create(device, &schedule->agreed, error);
  if (!status) status = device->ops->event_create(device, &schedule->finished, error);
  return status;
}

static zero1_status begin_offload(zero1__schedule *schedule, const zero1__schedule_parts *parts,
                                  zero1__error *error) {
  const zero1__offload_parts needed = {.device = schedule->device,
                                       .host = parts->host,
                                       .channel = parts->channel,
                                       .buffers = parts->buffers,
                                       .group_count = parts->settings->config.group_count,
                                       .step = schedule->step,
                                       .scalars = schedule->scalars,
                                       .absent = schedule->absent};
  return zero1__offload_begin(&needed, &schedule->offload, error);
}

zero1_status zero1__schedule_begin(zero1__schedule *schedule, const zero1__schedule_parts *parts,
                                   zero1__error *error) {
  memset(schedule, 0, sizeof *schedule);
  schedule->device = parts->channel->config.device;
  schedule->channel = parts->channel;
  schedule->layout = parts->channel->config.layout;
  schedule->step = parts->channel->config.step;
  schedule->buffers = parts->buffers;
  schedule->settings = parts->settings;
  schedule->lane = parts->lane;
  schedule->wider = parts->wider;
  schedule->settled = 1;
  zero1__outcome_clear(&schedule->outcome);
  zero1_status status = create_tables(schedule, error);
  if (!status) status = create_streams(schedule, error);
  if (!status && parts->device_lane)
    status = zero1__device_agreement_begin(schedule, parts->device_lane, parts->device_wider,
                                           &schedule->by_device, error);
  if (!status && parts->buffers->offloaded) status = begin_offload(schedule, parts, error);
  return status;
}

void zero1__schedule_end(zero1__schedule *schedule) {
  zero1__device *device = schedule->device;
  if (!device) return;
  if (schedule->comm != schedule->compute) device->ops->stream_destroy(device, schedule->comm);
  device->ops->stream_destroy(device, schedule->compute);
  zero1__offload_end(schedule->offload);
  zero1__events_destroy(device, schedule->updated);
  zero1__events_destroy(device, schedule->gathered);
  zero1__events_destroy(device, schedule->arrived);
  zero1__events_destroy(device, schedule->made);
  zero1__events_destroy(device, schedule->freed);
  device->ops->event_destroy(device, schedule->ready);
  device->ops->event_destroy(device, schedule->encoded);
  device->ops->event_destroy(device, schedule->uncaptured);
  device->ops->event_destroy(device, schedule->offered);
  device->ops->event_destroy(device, schedule->reduced);
  device->ops->event_destroy(device, schedule->agreed);
  device->ops->event_destroy(device, schedule->finished);
  zero1__readiness_end(&schedule->readiness);
  zero1__device_agreement_end(schedule);
  destroy_shown(schedule, scalars_bytes(schedule), schedule->made_scalars, schedule->scalars);
  destroy_shown(schedule, slots_bytes(schedule), schedule->made_absent, schedule->absent);
  if (schedule->made_step != schedule->step) free(schedule->made_step);
  free(schedule->callers);
  free(schedule->groups);
  free(schedule->absent_bits);
  free(schedule->records);
  memset(schedule, 0, sizeof *schedule);
}
