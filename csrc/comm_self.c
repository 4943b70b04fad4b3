/* One rank: contributions are the gradient buffer, and there is nothing to gather. */
#include <stdlib.h>
#include <string.h>

#include "comm_ops.h"

static void self_destroy(zero1_comm *comm) {
  if (comm->lane) comm->ops->lane_close(comm->lane);
  free(comm);
}

static void self_lane_close(zero1__lane *lane) {
  zero1__lane_end(lane);
  free(lane);
}

static zero1_status self_lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **out,
                                   zero1__error *error) {
  *out = NULL;
  zero1__lane *lane = calloc(1, sizeof *lane);
  if (!lane) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
  const zero1_status status = zero1__lane_begin(lane, comm, timeout_seconds, error);
  if (status) {
    self_lane_close(lane);
    return status;
  }
  *out = lane;
  return ZERO1_OK;
}

static zero1_status self_lane_all_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                         zero1__error *error) {
  (void)lane;
  (void)error;
  if (bytes) memcpy(out, in, bytes);
  return ZERO1_OK;
}

static void self_lane_abort(zero1__lane *lane, const zero1__error *why) {
  (void)lane;
  (void)why;
}

/* ---- device lanes: what is gathered is what this rank has ---- */

static void self_device_lane_close(zero1__device_lane *lane) {
  zero1__device_lane_end(lane);
  free(lane);
}

static zero1_status self_device_lane_open(zero1_comm *comm, zero1__device *device,
                                          zero1__step *step, size_t bytes, double timeout_seconds,
                                          zero1__device_lane **out, zero1__error *error) {
  (void)timeout_seconds;
  *out = NULL;
  zero1__device_lane *lane = calloc(1, sizeof *lane);
  if (!lane) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
  *lane = (zero1__device_lane){.comm = comm, .device = device, .step = step, .bytes = bytes};
  const zero1_status status = zero1__device_lane_begin(lane, error);
  if (status) {
    self_device_lane_close(lane);
    return status;
  }
  *out = lane;
  return ZERO1_OK;
}

static zero1_status self_device_lane_gather(zero1__device_lane *lane, zero1__stream *stream,
                                            zero1__error *error) {
  (void)lane;
  (void)stream;
  (void)error;
  return ZERO1_OK;
}

/* ---- channels ---- */

static void self_channel_close(zero1__channel *channel) {
  const zero1__channel_config *config = &channel->config;
  zero1__device *device = config->device;
  device->ops->memory_free(device, channel->params, zero1__params_bytes(config));
  device->ops->memory_free(device, channel->grads, zero1__offered_bytes(config));
  zero1__channel_end(channel);
  free(channel);
}

static zero1_status self_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                      zero1__channel **out, zero1__error *error) {
  *out = NULL;
  zero1__channel *channel = calloc(1, sizeof *channel);
  if (!channel) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a channel");
  const int64_t whole = config->layout->bucket_blocks ? config->layout->bucket_blocks : 1;
  zero1_status status = zero1__channel_begin(channel, comm, config, whole, 1, 0, 0, error);
  zero1__device *device = config->device;
  channel->params_bytes = zero1__params_bytes(config);
  channel->grads_bytes = zero1__grads_bytes(config);
  if (!status)
    status = device->ops->memory_alloc(device, channel->params_bytes, &channel->params, error);
  if (!status)
    status =
        device->ops->memory_alloc(device, zero1__offered_bytes(config), &channel->grads, error);
  if (status) {
    self_channel_close(channel);
    return status;
  }
  channel->in_place = 1;
  channel->on_device = !device->is_host;
  channel->reduce_group = 1;
  zero1__channel_point(channel, 0, channel->grads);
  status = zero1__channel_show(channel, error);
  if (status)
    self_channel_close(channel);
  else
    *out = channel;
  return status;
}

static zero1_status self_broadcast(zero1__channel *channel, int32_t root, zero1__error *error) {
  (void)channel;
  (void)root;
  (void)error;
  return ZERO1_OK;
}

/* No peer of this comm waits; but this rank may, for those of config.agree_comm. */
static void self_abort(zero1__channel *channel, const zero1__error *why) {
  zero1__device *device = channel->config.device;
  (void)why;
  if (!device->is_host) device->ops->lose(device);
}

static const zero1__comm_ops self_ops = {
    .name = "self",
    .destroy = self_destroy,
    .lane_open = self_lane_open,
    .lane_close = self_lane_close,
    .lane_all_gather = self_lane_all_gather,
    .lane_abort = self_lane_abort,
    .device_lane_open = self_device_lane_open,
    .device_lane_close = self_device_lane_close,
    .device_lane_gather = self_device_lane_gather,
    .channel_open = self_channel_open,
    .channel_close = self_channel_close,
    .broadcast = self_broadcast,
    .abort = self_abort,
};

zero1_status zero1_comm_create_self(const zero1_comm_options *options, zero1_comm **comm) {
  if (!comm) return ZERO1_ERR_INVALID;
  *comm = NULL;
  zero1__error error;
  zero1_comm_options taken;
  zero1__error_clear(&error);
  zero1_status status = zero1__comm_options_take(options, &taken, &error);
  if (status) return zero1__create_done(options, status, &error);
  zero1_comm *self = calloc(1, sizeof *self);
  if (!self) {
    status = zero1__fail(&error, ZERO1_ERR_MEMORY, "no memory for a communicator");
    return zero1__create_done(options, status, &error);
  }
  self->ops = &self_ops;
  self->world_size = 1;
  self->ranks_per_node = 1;
  self->timeout_seconds = taken.timeout_seconds;
  status = self_lane_open(self, taken.timeout_seconds, &self->lane, &error);
  if (status) {
    self_destroy(self);
  } else {
    *comm = self;
  }
  return zero1__create_done(options, status, &error);
}
