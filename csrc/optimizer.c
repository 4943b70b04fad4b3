#include "optimizer.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alike.h"
#include "memory_limit.h"

/* ---- entering a call ---- */

zero1_status zero1__optimizer_enter(zero1_optimizer *optimizer) {
  if (!optimizer) return ZERO1_ERR_INVALID;
  zero1__error_clear(&optimizer->error);
  return ZERO1_OK;
}

zero1_status zero1__optimizer_usable(zero1_optimizer *optimizer) {
  zero1__error failure;
  if (!zero1__channel_failure(optimizer->channel, &failure)) return ZERO1_OK;
  if (!optimizer->loss_told) return zero1__optimizer_outcome(optimizer);
  return zero1__fail(&optimizer->error, ZERO1_ERR_SPENT, "this handle is spent: %.350s",
                     failure.text);
}

zero1_status zero1__optimizer_outcome(zero1_optimizer *optimizer) {
  const zero1__error *outcome = &optimizer->schedule.outcome.error;
  if (optimizer->schedule.by_device) zero1__device_look(&optimizer->schedule);
  if (zero1__channel_failure(optimizer->channel, &optimizer->error)) {
    optimizer->loss_told = 1;
    return optimizer->error.status;
  }
  if (!optimizer->schedule.settled && !optimizer->schedule.by_device) return ZERO1_OK;
  if (!outcome->status || optimizer->schedule.told) return ZERO1_OK;
  optimizer->schedule.told = 1;
  optimizer->error = *outcome;
  return outcome->status;
}

zero1__stream *zero1__optimizer_stream(zero1_optimizer *optimizer, const void *stream) {
  zero1__device *device = optimizer->device;
  return device->ops->stream_of_caller(device, (void *)(uintptr_t)stream, &optimizer->error);
}

zero1_status zero1__optimizer_may_wait(zero1_optimizer *optimizer, const char *call) {
  zero1__device *device = optimizer->device;
  zero1__stream *caller = zero1__optimizer_stream(optimizer, ZERO1_STREAM_DEFAULT);
  if (!caller) return optimizer->error.status;
  if (device->is_host || (!device->ops->capturing(device, caller) &&
                          !device->ops->capturing(device, optimizer->schedule.comm)))
    return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_STATE,
                     "%s waits, and a graph is being captured: it has to come before or after",
                     call);
}

zero1_status zero1__optimizer_index(zero1_optimizer *optimizer, int64_t index) {
  if (index >= 0 && index < optimizer->registry.count) return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "there is no parameter %lld of %lld",
                     (long long)index, (long long)optimizer->registry.count);
}

/* ---- create ---- */

/* A rank that is bound to cores computes on those; ranks that are free share the machine. */
static int32_t default_threads(int32_t ranks_per_node) {
  cpu_set_t set;
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  const int bound = sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
  const long threads = bound && bound < online ? bound : online / ranks_per_node;
  return threads < 1 ? 1 : (int32_t)threads;
}

static zero1_status take_arguments(zero1_optimizer *optimizer, const zero1_config *config,
                                   const zero1_param_spec *specs, size_t spec_bytes,
                                   int64_t param_count, zero1__error *error) {
  zero1_config *own = &optimizer->settings.config;
  zero1_status status =
      zero1__settings_begin(&optimizer->settings, config, optimizer->comm->world_size, error);
  if (status) return status;
  if (!own->threads) own->threads = default_threads(optimizer->comm->ranks_per_node);
  if (!own->timeout_seconds) own->timeout_seconds = optimizer->comm->timeout_seconds;
  /* GPUs have their own parameters each. */
  if (optimizer->comm->ranks_per_node == 1 || own->device != ZERO1_DEVICE_HOST)
    own->share_params = 0;
  return zero1__registry_begin(&optimizer->registry, specs, spec_bytes, param_count,
                               own->group_count, error);
}

/* Sums of 16-bit gradients have memory of their own where contributions do not stay, and where more
 * ranks' contributions than two would have to be read twice instead; so have those of 8 bits. */
static int32_t needs_grad_shard(const zero1_config *config, const zero1_comm *comm, int in_place) {
  if (config->grad_wire_dtype == ZERO1_WIRE_INT8) return 1; /* gradients stay for the residual */
  if (config->grad_dtype == ZERO1_DTYPE_FP32) return 0;
  if (!in_place || config->offload > 0) return 1;
  return zero1__config_two_passes(config) &&
         (size_t)comm->world_size * zero1__dtype_bytes(config->grad_dtype) > 8;
}

/* What is in memory, and narrower on the wire where that was asked for. */
static zero1__dtype on_wire(int32_t dtype, int32_t wire) {
  return dtype == ZERO1_DTYPE_FP32 && wire == ZERO1_WIRE_BF16 ? ZERO1__DTYPE_FP32_AS_BF16 : dtype;
}

static zero1__channel_config channel_config_of(zero1_optimizer *optimizer) {
  const zero1_config *config = &optimizer->settings.config;
  return (zero1__channel_config){
      .device = optimizer->device,
      .step = optimizer->step,
      .layout = &optimizer->layout,
      .param_dtype = on_wire(config->param_dtype, config->param_wire_dtype),
      .grad_dtype = on_wire(config->grad_dtype, config->grad_wire_dtype),
      .int8 = config->grad_wire_dtype == ZERO1_WIRE_INT8,
      .round_groups =
          config->grad_wire_dtype == ZERO1_WIRE_BF16 || config->grad_wire_dtype == ZERO1_WIRE_INT8,
      .share_params = config->share_params,
      .reduce_group = config->reduce_group,
      .find_culprit = config->find_culprit,
      .timeout_seconds = config->timeout_seconds};
}

/* The device, and the host's cores where they are to help. */
static zero1_status open_device(zero1_optimizer *optimizer, zero1__error *error) {
  const zero1_config *config = &optimizer->settings.config;
  const zero1__device_config wanted = {.kind = config->device,
                                       .index = config->device_index,
                                       .threads = config->threads,
                                       .stream = config->stream,
                                       .timeout_seconds = config->timeout_seconds};
  zero1__error of_stream;
  zero1_status status = zero1__device_create(&wanted, &optimizer->device, error);
  if (status) return status;
  zero1__device *device = optimizer->device;
  zero1__error_clear(&of_stream);
  if (!device->ops->stream_of_caller(device, ZERO1_STREAM_DEFAULT, &of_stream))
    return zero1__fail(error, of_stream.status, "config.%.380s", of_stream.text);
  if (config->offload > 0)
    status = zero1__device_host_create(config->threads, &optimizer->host, error);
  return status;
}

/* Before anything is made in proportion to the parameters. */
static zero1_status check_memory(zero1_optimizer *optimizer, zero1__error *error) {
  const zero1_config *config = &optimizer->settings.config;
  const zero1_comm *comm = optimizer->comm;
  zero1__device *device = optimizer->device;
  const zero1__channel_config channel = channel_config_of(optimizer);
  const int32_t sharers = config->share_params ? comm->ranks_per_node : 1;
  const int32_t grad_shard =
      needs_grad_shard(config, comm, comm->ranks_per_node == comm->world_size);
  const zero1__plan plan = zero1__buffers_plan(
      &channel, sharers, grad_shard, zero1__buffers_offloaded(&optimizer->layout, config->offload));
  if (device->is_host) return zero1__memory_check(plan.device, comm->ranks_per_node, error);
  const zero1_status status = device->ops->memory_check(device, plan.device, error);
  return status ? status : zero1__memory_check(plan.offloaded, comm->ranks_per_node, error);
}

/* What kernels go by: the layout, and the numbers of a step. */
static zero1_status furnish_device(zero1_optimizer *optimizer, zero1__error *error) {
  zero1__device *device = optimizer->device;
  void *step = NULL;
  zero1_status status = ZERO1_OK;
  if (!device->is_host) status = device->ops->set_layout(device, &optimizer->layout, error);
  if (!status) status = device->ops->memory_alloc(device, sizeof *optimizer->step, &step, error);
  optimizer->step = step;
  return status;
}

#ifndef NDEBUG
static zero1_status watch_waits(zero1_optimizer *optimizer, zero1__error *error) {
  const int64_t count = optimizer->registry.count;
  optimizer->waited = malloc((size_t)count + 1);
  if (!optimizer->waited)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %lld parameters", (long long)count);
  memset(optimizer->waited, 1, (size_t)count);
  return ZERO1_OK;
}
#endif

/* What a rank can find out by itself. */
static zero1_status prepare(zero1_optimizer *optimizer, zero1__error *error) {
  const zero1__registry *registry = &optimizer->registry;
  zero1_status status = zero1__layout_create(
      optimizer->comm->world_size, optimizer->settings.config.bucket_numel, registry->count,
      registry->numel, registry->group, registry->flags, &optimizer->layout, error);
  if (!status) status = open_device(optimizer, error);
  if (!status) status = check_memory(optimizer, error);
  if (!status) status = furnish_device(optimizer, error);
#ifndef NDEBUG
  if (!status) status = watch_waits(optimizer, error);
#endif
  return status;
}

/* Memory and streams, once the channel is there. */
static zero1_status assemble(zero1_optimizer *optimizer, zero1__error *error) {
  const zero1_config *config = &optimizer->settings.config;
  const int32_t grad_shard =
      needs_grad_shard(config, optimizer->comm, optimizer->channel->in_place);
  zero1_status status =
      zero1__buffers_begin(&optimizer->buffers, optimizer->channel, grad_shard, optimizer->host,
                           zero1__buffers_offloaded(&optimizer->layout, config->offload), error);
  const zero1__schedule_parts parts = {.channel = optimizer->channel,
                                       .buffers = &optimizer->buffers,
                                       .settings = &optimizer->settings,
                                       .lane = optimizer->lane,
                                       .wider = optimizer->wider,
                                       .device_lane = optimizer->device_lane,
                                       .device_wider = optimizer->device_wider,
                                       .host = optimizer->host};
  return status ? status : zero1__schedule_begin(&optimizer->schedule, &parts, error);
}

/* One device lane; collective over `comm`. *lane stays NULL where that comm has none. */
static zero1_status open_device_lane(zero1_optimizer *optimizer, zero1_comm *comm, size_t bytes,
                                     zero1__device_lane **lane, zero1__error *error) {
  if (!comm->ops->device_lane_open) return ZERO1_OK;
  return comm->ops->device_lane_open(comm, optimizer->device, optimizer->step, bytes,
                                     optimizer->settings.config.timeout_seconds, lane, error);
}

/* Where the device can reach the peers by itself, it also decides by itself. */
static zero1_status open_device_lanes(zero1_optimizer *optimizer, zero1__error *error) {
  zero1_comm *wider = optimizer->settings.config.agree_comm;
  if (!optimizer->channel->on_device) return ZERO1_OK;
  zero1_status status = open_device_lane(optimizer, optimizer->comm,
                                         zero1__device_record_bytes(optimizer->layout.slot_count),
                                         &optimizer->device_lane, error);
  if (status || !wider) return status;
  status = open_device_lane(optimizer, wider, zero1__device_record_bytes(0),
                            &optimizer->device_wider, error);
  if (!status && !optimizer->device_wider)
    status = zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                         "config.agree_comm is %s, whose ranks agree through the host, and those "
                         "of the communicator, %s, on the GPUs",
                         wider->ops->name, optimizer->comm->ops->name);
  return status;
}

/* agree_comm's other ranks must learn of a failure here; where some rank of this comm has not been
 * given it, and will not come, they can only be told that nothing will come of it. `alike`: it is
 * agreed already whether all have been given one. */
static zero1_status agree_wider(zero1_optimizer *optimizer, zero1_status status, int32_t alike,
                                zero1__error *error) {
  const zero1_comm *comm = optimizer->comm;
  const zero1_comm *wider = optimizer->settings.config.agree_comm;
  const int32_t mine = wider != NULL;
  int32_t *given = (int32_t *)comm->lane->scratch;
  int32_t count = alike ? comm->world_size : 0;
  if (!alike && !zero1__lane_gather(comm->lane, &mine, given, sizeof mine, NULL))
    for (int32_t i = 0; i < comm->world_size; ++i) count += given[i];
  if (!wider || wider == comm) return status;
  if (count == comm->world_size) return zero1__lane_agree(wider->lane, status, error);
  zero1__lane_fail(wider->lane, error);
  return status;
}

/* Ranks whose records travel between their devices have no lane in common with others. */
static zero1_status agree_who_decides(const zero1_optimizer *optimizer, zero1__error *error) {
  const zero1_comm *wider = optimizer->settings.config.agree_comm;
  const int32_t mine = optimizer->channel->on_device;
  if (!wider || wider == optimizer->comm) return ZERO1_OK;
  int32_t *given = (int32_t *)wider->lane->scratch;
  zero1_status status = zero1__lane_gather(wider->lane, &mine, given, sizeof mine, error);
  for (int32_t i = 1; i < wider->world_size && !status; ++i)
    if (given[i] != given[0])
      status = zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                           "config.agree_comm: rank %d agrees on its GPU, rank %d through the host",
                           given[i] ? i : 0, given[i] ? 0 : i);
  return status;
}

/* Every rank goes through the same sequence of agreements, whatever it finds. */
static zero1_status create(zero1_optimizer *optimizer, const zero1_config *config,
                           const zero1_param_spec *specs, size_t spec_bytes, int64_t param_count,
                           zero1__error *error) {
  zero1_comm *comm = optimizer->comm;
  zero1_config *own = &optimizer->settings.config;
  zero1_status status = zero1__lane_agree(
      comm->lane, take_arguments(optimizer, config, specs, spec_bytes, param_count, error), error);
  if (!status)
    status = zero1__agree_alike(comm->lane, &optimizer->settings, &optimizer->registry, error);
  const int32_t alike = !status;
  if (!status) status = zero1__lane_agree(comm->lane, prepare(optimizer, error), error);
  if (!status) {
    const zero1__channel_config channel = channel_config_of(optimizer);
    status = comm->ops->channel_open(comm, &channel, &optimizer->channel, error);
  }
  if (!status) status = comm->ops->lane_open(comm, own->timeout_seconds, &optimizer->lane, error);
  status = agree_wider(optimizer, status, alike, error);
  if (!status) status = agree_who_decides(optimizer, error);
  if (!status && own->agree_comm)
    status = own->agree_comm->ops->lane_open(own->agree_comm, own->timeout_seconds,
                                             &optimizer->wider, error);
  if (!status) status = open_device_lanes(optimizer, error);
  if (!status) status = zero1__lane_agree(comm->lane, assemble(optimizer, error), error);
  if (!status) zero1__channel_set_lanes(optimizer->channel, optimizer->lane, optimizer->wider);
  return status;
}

static void release(zero1_optimizer *optimizer) {
  if (optimizer->end_saver) optimizer->end_saver(optimizer);
  zero1__schedule_end(&optimizer->schedule);
  zero1__buffers_end(&optimizer->buffers);
  /* In this order: lanes of devices and channels wait for the peers, who may wait in the others. */
  if (optimizer->channel) zero1__channel_set_lanes(optimizer->channel, NULL, NULL);
  if (optimizer->wider) optimizer->wider->comm->ops->lane_close(optimizer->wider);
  if (optimizer->lane) optimizer->comm->ops->lane_close(optimizer->lane);
  if (optimizer->channel) optimizer->channel->ops->channel_close(optimizer->channel);
  if (optimizer->device_wider)
    optimizer->device_wider->comm->ops->device_lane_close(optimizer->device_wider);
  if (optimizer->device_lane) optimizer->comm->ops->device_lane_close(optimizer->device_lane);
  if (optimizer->device) {
    optimizer->device->ops->memory_free(optimizer->device, optimizer->step,
                                        sizeof *optimizer->step);
    optimizer->device->ops->destroy(optimizer->device);
  }
  if (optimizer->host) optimizer->host->ops->destroy(optimizer->host);
  zero1__layout_destroy(&optimizer->layout);
  zero1__registry_end(&optimizer->registry);
  zero1__settings_end(&optimizer->settings);
  free(optimizer->waited);
  free(optimizer);
}

zero1_status zero1_optimizer_create(zero1_comm *comm, const zero1_config *config,
                                    const zero1_param_spec *specs, size_t spec_bytes,
                                    int64_t param_count, zero1_optimizer **out) {
  if (out) *out = NULL;
  if (!comm) return ZERO1_ERR_INVALID;
  zero1__error_clear(&comm->error);
  comm->lane->call = "create";
  zero1_optimizer *optimizer = calloc(1, sizeof *optimizer);
  zero1_status status = ZERO1_OK;
  if (!out) status = zero1__fail(&comm->error, ZERO1_ERR_INVALID, "optimizer is NULL");
  if (!optimizer) status = zero1__fail(&comm->error, ZERO1_ERR_MEMORY, "no memory for a handle");
  status = zero1__lane_agree(comm->lane, status, &comm->error);
  if (status) {
    free(optimizer);
    return status;
  }
  optimizer->comm = comm;
  status = create(optimizer, config, specs, spec_bytes, param_count, &comm->error);
  if (status)
    release(optimizer);
  else
    *out = optimizer;
  return status;
}

/* ---- the end ---- */

void zero1_optimizer_abort(zero1_optimizer *optimizer, const char *reason) {
  zero1__error why;
  if (zero1__optimizer_enter(optimizer)) return;
  zero1__error_clear(&why);
  zero1__fail(&why, ZERO1_ERR_ABORTED, "aborted: %.300s", reason ? reason : "");
  optimizer->loss_told = 1;
  zero1__channel_fail(optimizer->channel, &why);
}

void zero1_optimizer_destroy(zero1_optimizer **optimizer) {
  if (!optimizer || !*optimizer) return;
  /* Gradients on their way that no step will follow: their reduction would wait for peers that may
   * be leaving as well, and peers that stay would wait for this rank. */
  if ((*optimizer)->schedule.phase != ZERO1__PHASE_IDLE)
    zero1_optimizer_abort(*optimizer, "destroyed in the middle of a step");
  release(*optimizer);
  *optimizer = NULL;
}

const char *zero1_optimizer_last_error(const zero1_optimizer *optimizer) {
  return optimizer ? optimizer->error.text : "the optimizer is NULL";
}
