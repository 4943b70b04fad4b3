/* The calls of a training step. */
#include <string.h>

#include "clock.h"
#include "optimizer.h"
#include "struct_size.h"
#include "uncached_copy.h"

/* Time of the caller in calls that may wait. */
static zero1_status timed(zero1_optimizer *optimizer, int64_t begin_ns, zero1_status status) {
  optimizer->schedule.exposed_ns += zero1__now_ns() - begin_ns;
  return status;
}

/* ---- waiting ---- */

static void note_waited(zero1_optimizer *optimizer, int64_t begin, int64_t end, uint8_t waited) {
  if (optimizer->waited) memset(optimizer->waited + begin, waited, (size_t)(end - begin));
}

/* The caller's stream for a call, checked; NULL: the call has failed. */
static zero1__stream *begin_call(zero1_optimizer *optimizer, const void *stream) {
  return zero1__optimizer_enter(optimizer) ? NULL : zero1__optimizer_stream(optimizer, stream);
}

static zero1_status wait_one(zero1_optimizer *optimizer, int64_t index, const void *stream) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_index(optimizer, index);
  if (status) return status;
  zero1__stream *caller = zero1__optimizer_stream(optimizer, stream);
  if (!caller) return optimizer->error.status;
  const int64_t begin_ns = zero1__now_ns();
  zero1__schedule_wait(&optimizer->schedule, index, caller);
  return timed(optimizer, begin_ns, zero1__optimizer_outcome(optimizer));
}

static zero1_status wait_all(zero1_optimizer *optimizer, zero1__stream *caller) {
  const int64_t begin_ns = zero1__now_ns();
  zero1__schedule_wait_all(&optimizer->schedule, caller);
  return timed(optimizer, begin_ns, zero1__optimizer_outcome(optimizer));
}

/* The calling thread itself, whatever the device. */
static zero1_status finish(zero1_optimizer *optimizer) {
  const int64_t begin_ns = zero1__now_ns();
  zero1__schedule_finish(&optimizer->schedule);
  return timed(optimizer, begin_ns, zero1__optimizer_outcome(optimizer));
}

zero1_status zero1_optimizer_wait_param(zero1_optimizer *optimizer, int64_t index, void *stream) {
  const zero1_status status = wait_one(optimizer, index, stream);
  if (optimizer && index >= 0 && index < optimizer->registry.count)
    note_waited(optimizer, index, index + 1, 1);
  return status;
}

/* Whether peers may be reading it, or its sum be kept in it, until the step is over. */
static int is_on_its_way(const zero1_optimizer *optimizer, int64_t index) {
  const zero1__schedule *schedule = &optimizer->schedule;
  return schedule->phase == ZERO1__PHASE_REDUCED ||
         (schedule->phase == ZERO1__PHASE_COLLECTING &&
          schedule->readiness.grads[index] != ZERO1__GRAD_WAITING);
}

/* A bucket's parameters have arrived when its peers have updated, and who has updated has read. */
zero1_status zero1_optimizer_wait_grad(zero1_optimizer *optimizer, int64_t index, void *stream) {
  const zero1_status status = wait_one(optimizer, index, stream);
  if (status || !is_on_its_way(optimizer, index)) return status;
  return zero1__fail(&optimizer->error, ZERO1_ERR_STATE,
                     "the gradient of parameter %lld '%.100s' is on its way: step or drop_grads "
                     "comes before it is written again",
                     (long long)index, optimizer->registry.names[index]);
}

zero1_status zero1_optimizer_wait_params(zero1_optimizer *optimizer, void *stream) {
  zero1__stream *caller = begin_call(optimizer, stream);
  if (!caller) return optimizer ? optimizer->error.status : ZERO1_ERR_INVALID;
  const zero1_status status = wait_all(optimizer, caller);
  note_waited(optimizer, 0, optimizer->registry.count, 1);
  return status;
}

zero1_status zero1_optimizer_zero_grad(zero1_optimizer *optimizer, void *stream) {
  zero1__stream *caller = begin_call(optimizer, stream);
  if (!caller) return optimizer ? optimizer->error.status : ZERO1_ERR_INVALID;
  const zero1__schedule *schedule = &optimizer->schedule;
  if (schedule->phase == ZERO1__PHASE_REDUCED ||
      (schedule->phase == ZERO1__PHASE_COLLECTING &&
       schedule->readiness.waiting < optimizer->layout.slot_count))
    return zero1__fail(&optimizer->error, ZERO1_ERR_STATE,
                       "gradients are on their way already: zero_grad comes before grad_ready");
  const zero1_status status = wait_all(optimizer, caller);
  if (status) return status;
  zero1__device *device = optimizer->device;
  device->ops->zero(device, caller, optimizer->channel->grads,
                    zero1__grads_bytes(&optimizer->channel->config));
  return ZERO1_OK;
}

/* ---- gradients ---- */

static zero1_status frozen(zero1_optimizer *optimizer, int64_t index) {
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID,
                     "parameter %lld '%.100s' is frozen: it has no gradient", (long long)index,
                     optimizer->registry.names[index]);
}

zero1_status zero1_optimizer_set_grad(zero1_optimizer *optimizer, int64_t index, const void *values,
                                      void *stream) {
  zero1_status status = zero1_optimizer_wait_grad(optimizer, index, stream);
  if (status) return status;
  const size_t bytes = (size_t)optimizer->layout.numel[index] *
                       zero1__dtype_bytes(optimizer->settings.config.grad_dtype);
  if (optimizer->registry.flags[index] & ZERO1_PARAM_FROZEN) return frozen(optimizer, index);
  if (!bytes) return ZERO1_OK;
  if (!values)
    return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID,
                       "values of the gradient of parameter %lld '%.100s' is NULL",
                       (long long)index, optimizer->registry.names[index]);
  zero1__device *device = optimizer->device;
  void *grad = zero1__buffers_grad(&optimizer->buffers, optimizer->layout.place_begin[index]);
  if (device->is_host)
    zero1__uncached_copy(grad, values, bytes);
  else
    device->ops->copy(device, zero1__optimizer_stream(optimizer, stream), grad, values, bytes);
  return ZERO1_OK;
}

/* The first gradient of a step may wait for the step before. The others read no clock: there may be
 * very many of them. */
static zero1_status open_step(zero1_optimizer *optimizer, zero1__stream *caller) {
  if (optimizer->schedule.phase != ZERO1__PHASE_IDLE) return ZERO1_OK;
  const int64_t begin_ns = zero1__now_ns();
  return timed(optimizer, begin_ns,
               zero1__schedule_open(&optimizer->schedule, caller, &optimizer->error));
}

static zero1_status begin_mark(zero1_optimizer *optimizer, int64_t index, const void *stream,
                               zero1__stream **caller) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (!status) status = zero1__optimizer_index(optimizer, index);
  if (status) return status;
  *caller = zero1__optimizer_stream(optimizer, stream);
  if (!*caller) return optimizer->error.status;
  const char *name = optimizer->registry.names[index];
  if (optimizer->registry.flags[index] & ZERO1_PARAM_FROZEN) return frozen(optimizer, index);
  if (optimizer->schedule.phase == ZERO1__PHASE_REDUCED)
    return zero1__fail(&optimizer->error, ZERO1_ERR_STATE,
                       "the gradients are reduced: step or drop_grads comes before the next "
                       "gradient, of parameter %lld '%.100s'",
                       (long long)index, name);
  if (optimizer->waited && !optimizer->waited[index])
    return zero1__fail(
        &optimizer->error, ZERO1_ERR_STATE,
        "parameter %lld '%.100s' was not waited for after the last step: forward may "
        "have read it too early",
        (long long)index, name);
  status = open_step(optimizer, *caller);
  if (status) return status;
  if (optimizer->schedule.readiness.grads[index] != ZERO1__GRAD_WAITING)
    return zero1__fail(
        &optimizer->error, ZERO1_ERR_STATE, "the gradient of parameter %lld '%.100s' is %s already",
        (long long)index, name,
        optimizer->schedule.readiness.grads[index] == ZERO1__GRAD_READY ? "ready" : "absent");
  return ZERO1_OK;
}

static zero1_status mark(zero1_optimizer *optimizer, int64_t index, uint8_t grad,
                         zero1__stream *caller) {
  if (zero1__schedule_mark(&optimizer->schedule, index, grad, caller)) return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_MEMORY, "no memory to note another stream");
}

zero1_status zero1_optimizer_grad_ready(zero1_optimizer *optimizer, int64_t index, void *stream) {
  zero1__stream *caller;
  const zero1_status status = begin_mark(optimizer, index, stream, &caller);
  return status ? status : mark(optimizer, index, ZERO1__GRAD_READY, caller);
}

zero1_status zero1_optimizer_grad_absent(zero1_optimizer *optimizer, int64_t index, void *stream) {
  zero1__stream *caller;
  const zero1_status status = begin_mark(optimizer, index, stream, &caller);
  if (status) return status;
  zero1__device *device = optimizer->device;
  void *grad = zero1__buffers_grad(&optimizer->buffers, optimizer->layout.place_begin[index]);
  device->ops->zero(device, caller, grad,
                    (size_t)optimizer->layout.numel[index] *
                        zero1__dtype_bytes(optimizer->settings.config.grad_dtype));
  return mark(optimizer, index, ZERO1__GRAD_ABSENT, caller);
}

/* ---- the step ---- */

/* A gradient that never came: the rank takes part all the same, and every rank skips. */
static void find_missing(zero1_optimizer *optimizer, zero1__error *local) {
  const int64_t missing = zero1__readiness_missing(&optimizer->schedule.readiness);
  if (missing < 0) return;
  zero1__fail(local, ZERO1_ERR_STATE,
              "the gradient of parameter %lld '%.100s' is neither ready nor absent",
              (long long)missing, optimizer->registry.names[missing]);
}

static zero1_status run(zero1_optimizer *optimizer, int32_t came_to) {
  zero1__schedule *schedule = &optimizer->schedule;
  const int64_t begin_ns = zero1__now_ns();
  zero1__error local;
  zero1__error_clear(&local);
  zero1__stream *caller = zero1__optimizer_stream(optimizer, ZERO1_STREAM_DEFAULT);
  if (!caller || zero1__schedule_open(schedule, caller, &optimizer->error))
    return timed(optimizer, begin_ns, optimizer->error.status);
  if (schedule->phase == ZERO1__PHASE_COLLECTING && came_to != ZERO1__CAME_TO_DROP) {
    if (zero1__buffers_have_masters(&optimizer->buffers) && !optimizer->has_masters)
      zero1__fail(&local, ZERO1_ERR_STATE,
                  "the masters are not set: sync_params comes before the first step");
    if (optimizer->half_loaded)
      zero1__fail(&local, ZERO1_ERR_STATE,
                  "a load of a checkpoint has failed half-way: one that succeeds comes before the "
                  "next step");
    find_missing(optimizer, &local);
  }
  if (came_to != ZERO1__CAME_TO_REDUCE) {
    schedule->exposed_ns = 0;
    note_waited(optimizer, 0, optimizer->registry.count, 0);
  }
  if (came_to != ZERO1__CAME_TO_GO_ON && !schedule->by_device) schedule->told = 0;
  zero1__schedule_run(schedule, came_to, &local);
  if (local.status) {
    optimizer->error = local;
    schedule->told = 1;
    if (schedule->by_device) zero1__device_known(schedule);
  }
  return timed(optimizer, begin_ns, local.status);
}

zero1_status zero1_optimizer_reduce_grads(zero1_optimizer *optimizer) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (status) return status;
  if (optimizer->schedule.phase == ZERO1__PHASE_REDUCED)
    return zero1__fail(&optimizer->error, ZERO1_ERR_STATE, "the gradients are reduced already");
  return run(optimizer, ZERO1__CAME_TO_REDUCE);
}

zero1_status zero1_optimizer_step(zero1_optimizer *optimizer) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (status) return status;
  return run(optimizer, optimizer->schedule.phase == ZERO1__PHASE_REDUCED ? ZERO1__CAME_TO_GO_ON
                                                                          : ZERO1__CAME_TO_STEP);
}

zero1_status zero1_optimizer_replay(zero1_optimizer *optimizer, void *stream) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (status) return status;
  zero1__stream *caller = zero1__optimizer_stream(optimizer, stream);
  if (!caller) return optimizer->error.status;
  zero1__schedule *schedule = &optimizer->schedule;
  if (!schedule->by_device)
    return zero1__fail(&optimizer->error, ZERO1_ERR_UNSUPPORTED,
                       "there are no graphs where the host takes part in a step");
  if (schedule->phase != ZERO1__PHASE_IDLE || !zero1__device_capture_tells(schedule))
    return zero1__fail(&optimizer->error, ZERO1_ERR_STATE, "%s",
                       schedule->phase != ZERO1__PHASE_IDLE
                           ? "gradients are on their way: step or drop_grads comes first"
                           : "no step has been captured into a graph");
  if (!zero1__schedule_fits_capture(schedule))
    return zero1__fail(&optimizer->error, ZERO1_ERR_STATE,
                       "max_grad_norm or skip_grad_norm was set after a step of one pass was "
                       "captured: with it, the step has to be captured again");
  zero1__device_replay(schedule, caller);
  schedule->attempts += 1;
  schedule->epoch += 1; /* as the device's own */
  schedule->channel->epoch = schedule->epoch;
  note_waited(optimizer, 0, optimizer->registry.count, 1);
  return zero1__optimizer_outcome(optimizer);
}

zero1_status zero1_optimizer_drop_grads(zero1_optimizer *optimizer) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (!status) status = zero1__optimizer_may_wait(optimizer, "drop_grads");
  if (!status) status = run(optimizer, ZERO1__CAME_TO_DROP);
  if (status) return status;
  status = finish(optimizer);
  note_waited(optimizer, 0, optimizer->registry.count, 1); /* no parameter has changed */
  return status;
}

zero1_status zero1_optimizer_info(zero1_optimizer *optimizer, zero1_info *info, size_t info_bytes) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_may_wait(optimizer, "info");
  if (status) return status;
  (void)finish(optimizer);
  optimizer->schedule.told = 0; /* it is told here, whoever was told before */
  status = zero1__optimizer_outcome(optimizer);
  const zero1__schedule *schedule = &optimizer->schedule;
  const zero1__outcome *outcome = &schedule->outcome;
  zero1_info known = {
      .count = schedule->count,
      .attempts = schedule->attempts,
      .grad_norm = outcome->decision.grad_norm,
      .clip_coef = outcome->decision.clip_coef,
      .skipped = outcome->decision.skip,
      .skip_reason = outcome->decision.skip_reason,
      .nonfinite_numel = outcome->decision.nonfinite_numel,
      .bad_param = outcome->decision.bad_param,
      .bad_rank = outcome->decision.bad_rank,
      .exposed_ms = (double)schedule->exposed_ns * 1e-6,
  };
  if (schedule->phase != ZERO1__PHASE_COLLECTING) { /* else the streams are still counting */
    known.exchange_ms = (double)schedule->channel->exchange_ns * 1e-6;
    known.reduce_ms = (double)schedule->reduce_ns * 1e-6;
    known.agree_ms = (double)schedule->agree_ns * 1e-6;
    known.update_ms = (double)schedule->update_ns * 1e-6;
    known.gather_ms = (double)schedule->channel->gather_ns * 1e-6;
    known.sent_bytes = schedule->channel->sent_bytes;
  }
  const zero1_status put = zero1__struct_put(info, info_bytes, &known, sizeof known);
  if (put)
    return zero1__fail(&optimizer->error, put, "info is %s, info_bytes %zu of %zu",
                       info ? "given" : "NULL", info_bytes, sizeof known);
  note_waited(optimizer, 0, optimizer->registry.count, 1);
  return status;
}
