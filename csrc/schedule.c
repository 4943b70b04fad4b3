#include "schedule.h"

#include <stdlib.h>

#include "agree_host.h"
#include "clock.h"

/* ---- the caller's streams ---- */

/* Notes a stream that gradients come on; there are few. 0: no memory for it. */
static int note_caller(zero1__schedule *schedule, zero1__stream *caller) {
  for (int32_t i = 0; i < schedule->caller_count; ++i)
    if (schedule->callers[i] == caller) return 1;
  if (schedule->caller_count == schedule->caller_room) {
    const int32_t room = 2 * schedule->caller_room + 4;
    zero1__stream **callers = realloc(schedule->callers, (size_t)room * sizeof *schedule->callers);
    if (!callers) return 0;
    schedule->callers = callers;
    schedule->caller_room = room;
  }
  schedule->callers[schedule->caller_count++] = caller;
  return 1;
}

/* `stream` goes on after all that the caller has enqueued so far. On the host it has been done. */
static void wait_for_callers(zero1__schedule *schedule, zero1__stream *stream) {
  zero1__device *device = schedule->device;
  for (int32_t i = 0; i < schedule->caller_count && !device->is_host; ++i) {
    device->ops->event_record(device, schedule->ready, schedule->callers[i]);
    device->ops->stream_wait(device, stream, schedule->ready);
  }
}

/* ---- hand-overs between the two streams: nothing where they are one ---- */

static void hand_to_compute(zero1__schedule *schedule, zero1__event *event) {
  const zero1__device_ops *ops = schedule->device->ops;
  if (schedule->comm == schedule->compute) return;
  ops->event_record(schedule->device, event, schedule->comm);
  ops->stream_wait(schedule->device, schedule->compute, event);
}

static void hand_to_comm(zero1__schedule *schedule, zero1__event *event) {
  const zero1__device_ops *ops = schedule->device->ops;
  if (schedule->comm == schedule->compute) return;
  ops->event_record(schedule->device, event, schedule->compute);
  ops->stream_wait(schedule->device, schedule->comm, event);
}

static void on_comm(zero1__schedule *schedule, zero1__channel_fn fn, int64_t index) {
  zero1__channel_call(schedule->channel, schedule->comm, fn, index, NULL);
}

/* ---- reduce ---- */

/* Where a kernel sees that contributions never came. Where the host decides for another device none
 * does: it sums what is there, and the verdict is to skip. */
static const int32_t *lost_of(const zero1__schedule *schedule) {
  if (schedule->by_device) return &schedule->step->lost;
  return schedule->device->is_host ? &schedule->channel->lost : NULL;
}

static void reduce_chunk(zero1__schedule *schedule, const zero1__chunk *chunk) {
  const zero1__channel *channel = schedule->channel;
  const int64_t shard_begin = chunk->blocks.begin - chunk->part.begin;
  float *out = (float *)(uintptr_t)schedule->buffers->grad_shards[chunk->bucket];
  zero1__reduce_job job = {.layout = schedule->layout,
                           .blocks = chunk->blocks,
                           .sources = chunk->sources,
                           .stats = &schedule->step->stats,
                           .lost = lost_of(schedule)};
  if (out) job.out = out + (chunk->blocks.begin - shard_begin) * ZERO1__BLOCK;
  /* One rank's fp32 gradients are their own sum, unless they are to be rounded. */
  if (channel->in_place && chunk->sources.count == 1 && chunk->sources.dtype == ZERO1_DTYPE_FP32 &&
      job.out == chunk->sources.contributions[0])
    job.out = NULL;
  schedule->device->ops->reduce(schedule->device, schedule->compute, &job, &schedule->reduce_ns);
}

static void reduce_partials(zero1__schedule *schedule, const zero1__chunk *chunk) {
  for (int32_t i = 0; i < chunk->partial_count; ++i) {
    const zero1__partial *partial = &chunk->partials[i];
    const zero1__reduce_job job = {.layout = schedule->layout,
                                   .blocks = partial->blocks,
                                   .sources = partial->sources,
                                   .out = partial->out,
                                   .stats = &schedule->step->stats,
                                   .partial = 1,
                                   .lost = lost_of(schedule)};
    schedule->device->ops->reduce(schedule->device, schedule->compute, &job, &schedule->reduce_ns);
  }
}

static void end_chunk(zero1__schedule *schedule, int64_t index) {
  zero1__channel *channel = schedule->channel;
  const zero1__chunk *chunk = &channel->chunks[index];
  on_comm(schedule, channel->ops->exchange_end, index);
  hand_to_compute(schedule, schedule->arrived[chunk->ring]);
  reduce_chunk(schedule, chunk);
  schedule->device->ops->event_record(schedule->device, schedule->freed[chunk->ring],
                                      schedule->compute);
}

/* Chunks c, c + 1, ... are under way while chunk c - ahead is reduced. A call on the device returns
 * at once: there they get ahead of each other by themselves. */
static void reduce_through_ring(zero1__schedule *schedule, int64_t begin, int64_t end) {
  zero1__channel *channel = schedule->channel;
  const int64_t ahead = channel->on_device ? 0 : channel->ring_count - 1;
  for (int64_t index = begin; index < end + ahead; ++index) {
    if (index < end) {
      const zero1__chunk *chunk = &channel->chunks[index];
      if (chunk->partial_count) {
        reduce_partials(schedule, chunk); /* compute itself has freed the ring slot before */
        hand_to_comm(schedule, schedule->made[chunk->ring]);
      } else {
        schedule->device->ops->stream_wait(schedule->device, schedule->comm,
                                           schedule->freed[chunk->ring]);
      }
      on_comm(schedule, channel->ops->exchange_begin, index);
    }
    if (index - ahead >= begin) end_chunk(schedule, index - ahead);
  }
}

/* Where the host's threads are the streams, this one is the caller's: peers may read what it has
 * written. On a device that is known when the caller's streams have come to here. */
static void offer(zero1__schedule *schedule, int64_t bucket) {
  zero1__channel *channel = schedule->channel;
  zero1__device *device = schedule->device;
  if (!device->is_host || channel->config.int8) return; /* codes come after encode */
  zero1__channel_call(channel, device->ops->stream_of_caller(device, ZERO1_STREAM_DEFAULT, NULL),
                      channel->ops->offer, bucket, NULL);
}

/* All of a bucket's gradients, those of every owner. */
static zero1__int8_job int8_job(zero1__schedule *schedule, int64_t bucket) {
  const zero1__buffers *buffers = schedule->buffers;
  const zero1__range blocks = zero1__layout_bucket(schedule->layout, bucket);
  return (zero1__int8_job){.layout = schedule->layout,
                           .blocks = blocks,
                           .grad = zero1__buffers_grad(buffers, blocks.begin),
                           .grad_dtype = schedule->channel->config.grad_dtype,
                           .absent = ZERO1__GRAD_ABSENT,
                           .marks = schedule->readiness.grads,
                           .residual = buffers->residual + blocks.begin * ZERO1__BLOCK,
                           .codes = zero1__channel_codes(schedule->channel, blocks.begin),
                           .verdict = &schedule->step->verdict};
}

/* What the peers are to sum is made of the gradients, and then offered. */
static void encode(zero1__schedule *schedule, int64_t bucket) {
  const zero1__int8_job job = int8_job(schedule, bucket);
  schedule->device->ops->encode(schedule->device, schedule->compute, &job, &schedule->reduce_ns);
  hand_to_comm(schedule, schedule->encoded);
  on_comm(schedule, schedule->channel->ops->offer, bucket);
}

static void launch(zero1__schedule *schedule, int64_t bucket) {
  zero1__channel *channel = schedule->channel;
  const int64_t begin = channel->chunk_begin[bucket], end = channel->chunk_begin[bucket + 1];
  wait_for_callers(schedule, schedule->comm);
  /* Partial sums are made of what the caller wrote; all else that compute reads comes from comm. */
  if (schedule->comm != schedule->compute && end > begin && channel->chunks[begin].partial_count)
    wait_for_callers(schedule, schedule->compute);
  if (channel->config.int8)
    encode(schedule, bucket);
  else if (!schedule->device->is_host)
    on_comm(schedule, channel->ops->offer, bucket);
  on_comm(schedule, channel->ops->arrive, bucket);
  if (channel->in_place) {
    for (int64_t index = begin; index < end; ++index)
      reduce_chunk(schedule, &channel->chunks[index]);
  } else {
    if (channel->ops->arrive) hand_to_compute(schedule, schedule->offered);
    reduce_through_ring(schedule, begin, end);
  }
}

/* Reduce and update are two passes also where contributions do not stay for the update to read. */
static int takes_two_passes(const zero1__schedule *schedule) {
  return !schedule->channel->in_place || zero1__config_two_passes(&schedule->settings->config);
}

/* Offers the buckets that `param` was the last one of, and starts what is next in line. */
static void launch_complete(zero1__schedule *schedule, int64_t param) {
  const zero1__range buckets = zero1__layout_buckets_of(schedule->layout, param);
  for (int64_t bucket = buckets.begin; bucket < buckets.end; ++bucket)
    if (zero1__readiness_bucket(&schedule->readiness, bucket)) offer(schedule, bucket);
  while (schedule->launched < schedule->layout->bucket_count &&
         zero1__readiness_bucket(&schedule->readiness, schedule->launched))
    launch(schedule, schedule->launched++);
}

/* Most gradients complete no bucket: there may be very many of them, so they cost very little. */
int zero1__schedule_mark(zero1__schedule *schedule, int64_t param, uint8_t grad,
                         zero1__stream *caller) {
  const int64_t complete = schedule->readiness.complete;
  if (!note_caller(schedule, caller)) return 0;
  if (!zero1__readiness_mark(&schedule->readiness, param, grad)) return 0;
  if (schedule->readiness.complete == complete) return 1;
  if (!schedule->settings->config.overlap || !schedule->two_passes) return 1;
  const int64_t begin_ns = zero1__now_ns();
  launch_complete(schedule, param);
  schedule->exposed_ns += zero1__now_ns() - begin_ns;
  return 1;
}

/* Whatever this rank has come for: a peer that has come for something else may wait for them. */
static void offer_rest(zero1__schedule *schedule) {
  for (int64_t bucket = schedule->launched; bucket < schedule->layout->bucket_count; ++bucket)
    offer(schedule, bucket); /* a second time, maybe: no harm */
}

/* What is left of the reduction, of gradients that never came too: the peers wait for them. */
static void launch_rest(zero1__schedule *schedule) {
  while (schedule->launched < schedule->layout->bucket_count)
    launch(schedule, schedule->launched++);
}

/* ---- update and all_gather ---- */

static void update_here(zero1__schedule *schedule, int64_t bucket, int one_pass) {
  zero1__channel *channel = schedule->channel;
  const zero1__buffers *buffers = schedule->buffers;
  const zero1__range blocks = zero1__layout_shard(schedule->layout, bucket, channel->comm->rank);
  const zero1__sources sums = {.contributions = &buffers->grad_shards[bucket],
                               .visible = &buffers->visible_grad_shards[bucket],
                               .count = 1,
                               .group = 1,
                               .dtype = ZERO1_DTYPE_FP32};
  zero1__update_job job = zero1__buffers_update_job(buffers, bucket, blocks);
  /* In place, a bucket is one chunk; its contributions are read here for the first time, or again
   * where no sums were kept. */
  job.sources = one_pass || !buffers->grad_shards[bucket]
                    ? channel->chunks[channel->chunk_begin[bucket]].sources
                    : sums;
  job.verdict = &schedule->step->verdict;
  job.groups = schedule->scalars;
  job.absent = schedule->absent;
  job.param = zero1__buffers_param(buffers, blocks.begin);
  job.param_dtype = channel->config.param_dtype;
  if (one_pass) job.stats = &schedule->step->stats;
  schedule->device->ops->update(schedule->device, schedule->compute, &job, &schedule->update_ns);
}

static void update(zero1__schedule *schedule, int64_t bucket, int one_pass) {
  zero1__channel *channel = schedule->channel;
  zero1__hold_wait(schedule->hold, schedule->compute, bucket);
  if (bucket < schedule->buffers->offloaded)
    zero1__offload_join(schedule->offload, schedule->compute, bucket);
  else
    update_here(schedule, bucket, one_pass);
  zero1__channel_call(channel, schedule->compute, channel->ops->publish, bucket,
                      &schedule->made_step->verdict.skip);
  if (channel->config.int8) {
    const zero1__int8_job job = int8_job(schedule, bucket);
    schedule->device->ops->settle(schedule->device, schedule->compute, &job, &schedule->update_ns);
  }
}

/* From the last bucket, which holds what forward needs first. Where one stream does both, all
 * updates come first: nobody should wait for a peer while there is work. */
static void update_and_gather(zero1__schedule *schedule, int one_pass) {
  zero1__device *device = schedule->device;
  zero1__channel *channel = schedule->channel;
  const int64_t count = schedule->layout->bucket_count;
  if (schedule->offload) zero1__offload_update(schedule->offload, schedule->agreed, schedule->hold);
  for (int64_t bucket = count - 1; bucket >= 0; --bucket) {
    update(schedule, bucket, one_pass);
    if (schedule->comm != schedule->compute)
      device->ops->event_record(device, schedule->updated[bucket], schedule->compute);
  }
  for (int64_t bucket = count - 1; bucket >= 0; --bucket) {
    const int64_t end = zero1__channel_gather_end(channel, bucket);
    if (end == bucket) continue;
    if (schedule->comm != schedule->compute)
      device->ops->stream_wait(device, schedule->comm, schedule->updated[bucket]);
    zero1__channel_call(channel, schedule->comm, channel->ops->all_gather, bucket,
                        &schedule->made_step->verdict.skip);
    for (int64_t gathered = bucket; gathered < end; ++gathered)
      device->ops->event_record(device, schedule->gathered[gathered], schedule->comm);
  }
}

/* ---- a step ---- */

/* The host decides: the numbers of a step are its own until the step is over. */
static void open_on_host(zero1__schedule *schedule) {
  zero1__schedule_finish(schedule);
  zero1__host_clear(schedule);
}

/* The device decides: its streams come after the caller's. */
static void open_on_device(zero1__schedule *schedule) {
  const zero1__device_ops *ops = schedule->device->ops;
  const zero1__open_job job = {schedule->step};
  if (ops->capturing(schedule->device, schedule->callers[0]))
    ops->event_record(schedule->device, schedule->uncaptured, schedule->comm);
  wait_for_callers(schedule, schedule->compute);
  ops->open(schedule->device, schedule->compute, &job);
  hand_to_comm(schedule, schedule->reduced); /* calls of the channel post the step's epoch */
  ops->times_forget(schedule->device);
  schedule->reduce_ns = schedule->update_ns = schedule->agree_ns = 0;
  zero1__channel_open_step(schedule->channel);
}

/* Whether a step in the caller's stream can be captured, where it is being. */
static zero1_status check_capture(zero1__schedule *schedule, zero1__stream *caller,
                                  zero1__error *error) {
  zero1__device *device = schedule->device;
  const uint64_t capture = device->is_host ? 0 : device->ops->capturing(device, caller);
  if (!capture) return ZERO1_OK;
  if (!schedule->by_device || schedule->offload)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "a step cannot be captured into a graph where %s",
                       schedule->by_device ? "the host updates what is offloaded"
                                           : "its ranks communicate through the host");
  if (capture == schedule->capture)
    return zero1__fail(error, ZERO1_ERR_STATE,
                       "a graph holds one step, and this one has captured one already");
  schedule->capture = capture;
  return ZERO1_OK;
}

zero1_status zero1__schedule_open(zero1__schedule *schedule, zero1__stream *caller,
                                  zero1__error *error) {
  if (schedule->phase != ZERO1__PHASE_IDLE) return ZERO1_OK;
  const zero1_status status = check_capture(schedule, caller, error);
  if (status) return status;
  schedule->caller_count = 0;
  if (!note_caller(schedule, caller))
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the step");
  if (schedule->by_device)
    open_on_device(schedule);
  else
    open_on_host(schedule);
  zero1__readiness_reset(&schedule->readiness);
  schedule->launched = 0;
  schedule->two_passes = takes_two_passes(schedule);
  schedule->epoch += 1;
  schedule->channel->epoch = schedule->epoch;
  schedule->phase = ZERO1__PHASE_COLLECTING;
  return ZERO1_OK;
}

/* Whether the step is enqueued to run now, and not only to be replayed. */
static int runs_now(const zero1__schedule *schedule) {
  return !schedule->by_device ||
         !schedule->device->ops->capturing(schedule->device, schedule->comm);
}

static void agree(zero1__schedule *schedule, int32_t came_to, int32_t one_pass) {
  if (schedule->by_device)
    zero1__device_agree(schedule, came_to, one_pass);
  else
    zero1__host_agree(schedule, came_to, one_pass);
}

int zero1__schedule_fits_capture(const zero1__schedule *schedule) {
  return schedule->captured_passes > takes_two_passes(schedule);
}

void zero1__schedule_check(zero1__schedule *schedule) {
  zero1__device *device = schedule->device;
  zero1__error error;
  zero1__error_clear(&error);
  if (device->ops->check(device, &error)) zero1__channel_fail(schedule->channel, &error);
}

/* A stream takes about 1000 launches, and then blocks who launches, maybe with a lock held that the
 * host's own copies need. Where the host decides, all that comes after it would be held back until
 * then: up to 5 launches a bucket. */
#define MOST_BUCKETS_HELD 64

static int holds_much_back(const zero1__schedule *schedule) {
  return !schedule->device->is_host && !schedule->by_device &&
         schedule->layout->bucket_count > MOST_BUCKETS_HELD;
}

void zero1__schedule_run(zero1__schedule *schedule, int32_t came_to, const zero1__error *local) {
  zero1__device *device = schedule->device;
  /* Limits set since the first gradient was ready can add a pass; they cannot save one. */
  const int two_passes = schedule->two_passes || takes_two_passes(schedule);
  const int one_pass = came_to == ZERO1__CAME_TO_STEP && !two_passes;
  schedule->settled = device->is_host; /* there, who asks has waited for the verdict */
  if (schedule->phase == ZERO1__PHASE_COLLECTING) {
    schedule->local = *local; /* before the streams are given what reads it */
    offer_rest(schedule);
    if (two_passes || came_to == ZERO1__CAME_TO_REDUCE) launch_rest(schedule);
  }
  wait_for_callers(schedule, schedule->compute);
  hand_to_comm(schedule, schedule->reduced);
  agree(schedule, came_to, one_pass);
  if (schedule->comm == schedule->compute) /* the caller waits for it, too */
    device->ops->event_record(device, schedule->agreed, schedule->comm);
  const int updates = came_to == ZERO1__CAME_TO_STEP || came_to == ZERO1__CAME_TO_GO_ON;
  if (updates && holds_much_back(schedule)) device->ops->event_sync(device, schedule->agreed);
  hand_to_compute(schedule, schedule->agreed);
  if (updates) update_and_gather(schedule, one_pass);
  if (one_pass) agree(schedule, ZERO1__CAME_AFTER, one_pass);
  if (runs_now(schedule))
    schedule->attempts += came_to != ZERO1__CAME_TO_REDUCE;
  else
    schedule->captured_passes = 1 + two_passes;
  if (schedule->by_device) zero1__device_tell(schedule);
  device->ops->event_record(device, schedule->finished, schedule->comm);
  schedule->phase = came_to == ZERO1__CAME_TO_REDUCE ? ZERO1__PHASE_REDUCED : ZERO1__PHASE_IDLE;
  if (schedule->by_device && schedule->phase == ZERO1__PHASE_IDLE) zero1__device_captured(schedule);
  zero1__schedule_check(schedule);
}

void zero1__schedule_wait(zero1__schedule *schedule, int64_t param, zero1__stream *caller) {
  zero1__device *device = schedule->device;
  const zero1__range buckets = zero1__layout_buckets_of(schedule->layout, param);
  if (device->is_host) device->ops->event_sync(device, schedule->agreed);
  for (int64_t bucket = buckets.begin; bucket < buckets.end; ++bucket)
    if (device->is_host)
      device->ops->event_sync(device, schedule->gathered[bucket]);
    else
      device->ops->stream_wait(device, caller, schedule->gathered[bucket]);
  if (schedule->by_device) zero1__device_look(schedule);
}

void zero1__schedule_wait_all(zero1__schedule *schedule, zero1__stream *caller) {
  zero1__device *device = schedule->device;
  if (device->is_host) {
    zero1__schedule_finish(schedule);
  } else {
    device->ops->stream_wait(device, caller, schedule->finished);
    if (schedule->by_device) zero1__device_look(schedule);
  }
}

void zero1__schedule_finish(zero1__schedule *schedule) {
  zero1__device *device = schedule->device;
  if (schedule->by_device) {
    zero1__device_finish(schedule);
    return;
  }
  device->ops->event_sync(device, schedule->finished);
  schedule->settled = 1;
  if (device->is_host) return;
  device->ops->times(device);
  zero1__schedule_check(schedule); /* waits that were given up end the step, too */
}

void zero1__schedule_set_count(zero1__schedule *schedule, int64_t count, int64_t attempts) {
  schedule->count = count;
  schedule->attempts = attempts;
  schedule->made_step->count = count;
  if (schedule->by_device) zero1__device_set_count(schedule, count);
}
