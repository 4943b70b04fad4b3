#include "agree_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alike.h"
#include "clock.h"
#include "lookout.h"
#include "schedule.h"
#include "step_rules.h"

/* Biases are uploaded for so many counts ahead, so that most steps upload none. */
#define BIAS_AHEAD 64

/* Steps that may be under way at once: beyond, their biases would not fit the table. */
#define STEPS_AHEAD (ZERO1__BIAS_COUNTS - 2 * BIAS_AHEAD)

struct zero1__device_agreement {
  zero1__device_lane *lane, *wider;
  zero1__lookout *lookout; /* over the ranks of agree_comm; or NULL */
  zero1__told *told;       /* memory that host and device see */
  /* in memory of the device */
  zero1__device_group *groups; /* [group_count] */
  zero1__bias *bias;           /* [group_count * ZERO1__BIAS_COUNTS] by row */
  /* what is uploaded */
  zero1__device_group *given_groups; /* [group_count] */
  zero1__limits given_limits;
  uint64_t given_hash;
  int64_t bias_end;       /* the last count whose biases are there */
  uint8_t *given_absent;  /* [slot_count / 8 + 1] */
  uint8_t *absent;        /* [slot_count / 8 + 1] of this step */
  int32_t absent_unknown; /* 1: a graph may have written other bits */
  /* tells */
  int64_t tickets;       /* enqueued, those of replays included */
  int64_t tells;         /* of the step that is being enqueued */
  int64_t capture_tells; /* of the step that was captured last */
  int64_t seen_failed;   /* ticket of the last failure that was taken over */
  int64_t known_failed;  /* ticket of the last failure that the caller knew by itself */
  int64_t unannounced;   /* ticket of the last graph that was launched without a replay */
  int32_t replayed;      /* 1: `finished` says nothing about the last step */
};

/* ---- life ---- */

size_t zero1__device_record_bytes(int64_t slot_count) {
  return (sizeof(zero1__record) + zero1__absent_bytes(slot_count) + 15) / 16 * 16;
}

static size_t groups_bytes(const zero1__schedule *schedule) {
  return (size_t)schedule->settings->config.group_count * sizeof(zero1__device_group);
}

static size_t bias_bytes(const zero1__schedule *schedule) {
  return (size_t)schedule->settings->config.group_count * ZERO1__BIAS_COUNTS * sizeof(zero1__bias);
}

/* The channel looks after its own ranks; those of agree_comm tell of themselves in its lanes, which
 * the channel does not know of. */
static int look_wider(void *context) {
  zero1__schedule *schedule = context;
  zero1__device_lane *lane = schedule->by_device->wider;
  const zero1__comm_ops *ops = lane->comm->ops;
  zero1__error error;
  zero1__error_clear(&error);
  zero1_status status = zero1__channel_failure(schedule->channel, &error);
  if (!status && ops->device_lane_look) status = ops->device_lane_look(lane, &error);
  if (!status) status = ops->lane_look(schedule->wider, &error);
  if (!status) return 0;
  zero1__channel_fail(schedule->channel, &error);
  if (ops->device_lane_abort) ops->device_lane_abort(lane, &error);
  return 1;
}

zero1_status zero1__device_agreement_begin(zero1__schedule *schedule, zero1__device_lane *lane,
                                           zero1__device_lane *wider, zero1__device_agreement **out,
                                           zero1__error *error) {
  const zero1__device_ops *ops = schedule->device->ops;
  const size_t bits = zero1__absent_bytes(schedule->layout->slot_count);
  void *told = NULL, *groups = NULL, *bias = NULL;
  zero1__device_agreement *agreement = calloc(1, sizeof *agreement);
  *out = agreement;
  if (!agreement) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the schedule");
  agreement->lane = lane;
  agreement->wider = wider;
  agreement->given_groups = calloc(1, groups_bytes(schedule));
  agreement->given_absent = calloc(bits, 1);
  agreement->absent = calloc(bits, 1);
  if (!agreement->given_groups || !agreement->given_absent || !agreement->absent)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the schedule");
  zero1_status status = ops->pinned_alloc(schedule->device, sizeof(zero1__told), &told, error);
  if (!status) status = ops->memory_alloc(schedule->device, groups_bytes(schedule), &groups, error);
  if (!status) status = ops->memory_alloc(schedule->device, bias_bytes(schedule), &bias, error);
  agreement->told = told;
  agreement->groups = groups;
  agreement->bias = bias;
  if (told) zero1__decision_clear(&agreement->told->decision);
  if (!status && wider && schedule->wider->comm->ops->lane_look)
    status = zero1__lookout_start(ZERO1__LOOK_NS, look_wider, schedule, &agreement->lookout, error);
  return status;
}

void zero1__device_agreement_end(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  zero1__device *device = schedule->device;
  if (!agreement) return;
  zero1__lookout_stop(agreement->lookout);
  device->ops->pinned_free(device, agreement->told, sizeof(zero1__told));
  device->ops->memory_free(device, agreement->groups, groups_bytes(schedule));
  device->ops->memory_free(device, agreement->bias, bias_bytes(schedule));
  free(agreement->given_groups);
  free(agreement->given_absent);
  free(agreement->absent);
  free(agreement);
}

uint64_t zero1__device_agreement_bytes(const zero1__schedule *schedule) {
  if (!schedule->by_device) return 0;
  return sizeof(zero1__told) + groups_bytes(schedule) + bias_bytes(schedule);
}

/* ---- what the host is told ---- */

static int64_t ended_now(const zero1__told *told) {
  return __atomic_load_n(&told->ended, __ATOMIC_ACQUIRE);
}

/* A copy that is of one tell alone. 0: there will be none, for the device failed within a tell. */
static int read_told(zero1__schedule *schedule, zero1__told *copy) {
  zero1__device *device = schedule->device;
  int64_t next_ns = zero1__now_ns() + ZERO1__LOOK_NS;
  while (!zero1__told_read(schedule->by_device->told, copy)) {
    if (zero1__now_ns() < next_ns) continue;
    next_ns = zero1__now_ns() + ZERO1__LOOK_NS;
    if (!device->ops->check(device, NULL)) continue;
    zero1__schedule_check(schedule);
    return 0;
  }
  return 1;
}

static zero1__outcome outcome_of(const zero1__schedule *schedule, const zero1__decision *decision) {
  zero1__outcome outcome;
  zero1__outcome_clear(&outcome);
  outcome.decision = *decision;
  if (decision->cause == ZERO1__CAUSE_LOST && decision->rank >= 0)
    zero1__fail(&outcome.error, decision->status, "rank %d did not come within %g s",
                decision->rank, schedule->channel->config.timeout_seconds);
  zero1__outcome_tell(&outcome);
  return outcome;
}

void zero1__device_known(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  agreement->known_failed = agreement->tickets;
}

/* Graphs that were launched without a replay before: what they did has been done. */
static void note_unannounced(zero1__schedule *schedule, const zero1__told *told) {
  zero1__device_agreement *agreement = schedule->by_device;
  if (told->ended > agreement->tickets) {
    agreement->tickets = agreement->unannounced = told->ended;
    schedule->told = 0;
  }
  if (told->ended == agreement->unannounced && !schedule->outcome.error.status)
    zero1__fail(&schedule->outcome.error, ZERO1_ERR_STATE,
                "a graph was launched without zero1_optimizer_replay before it: its step had the "
                "hyper-parameters of the last replay");
}

void zero1__device_look(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  zero1__told told;
  if (!ended_now(agreement->told) || !read_told(schedule, &told)) return;
  schedule->count = told.count;
  schedule->outcome = outcome_of(schedule, &told.decision);
  note_unannounced(schedule, &told);
  if (told.failed_ticket <= agreement->seen_failed) return;
  agreement->seen_failed = told.failed_ticket;
  const zero1__outcome failed = outcome_of(schedule, &told.failed);
  if (!schedule->outcome.error.status) schedule->outcome.error = failed.error;
  schedule->told = told.failed_ticket == agreement->known_failed;
  if (failed.decision.cause == ZERO1__CAUSE_LOST || failed.decision.out_of_step)
    zero1__channel_fail(schedule->channel, &failed.error);
}

/* Whether the tell came: waits for it, but for a device that has failed, or for the timeout. */
static int await_ticket(zero1__schedule *schedule, int64_t ticket) {
  const zero1__told *told = schedule->by_device->told;
  const int64_t timeout_ns = zero1__seconds_ns(schedule->channel->config.timeout_seconds);
  const int64_t begin_ns = zero1__now_ns();
  int64_t looked_ns = begin_ns;
  zero1__error error;
  zero1__error_clear(&error);
  schedule->device->ops->check(schedule->device, &error);
  while (!error.status && ended_now(told) < ticket) {
    const struct timespec nap = {0, 20000};
    const int64_t now = zero1__now_ns();
    if (now - looked_ns > ZERO1__LOOK_NS) {
      looked_ns = now;
      schedule->device->ops->check(schedule->device, &error);
      if (now - begin_ns > 2 * timeout_ns)
        zero1__fail(&error, ZERO1_ERR_TIMEOUT,
                    "the device did not come to the end of a step within %g s (was a graph that "
                    "was announced never launched?)",
                    2 * schedule->channel->config.timeout_seconds);
    }
    nanosleep(&nap, NULL);
  }
  if (error.status) zero1__channel_fail(schedule->channel, &error);
  return !error.status;
}

void zero1__device_finish(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  if (!agreement->replayed) schedule->device->ops->event_sync(schedule->device, schedule->finished);
  await_ticket(schedule, agreement->tickets);
  zero1__device_look(schedule);
  schedule->device->ops->times(schedule->device);
}

/* ---- what the device is given ---- */

static void upload(zero1__schedule *schedule, zero1__stream *stream, void *to, const void *from,
                   size_t bytes) {
  schedule->device->ops->write(schedule->device, stream, to, from, bytes);
}

/* Of two groups with the same betas the first one's row serves both. */
static int64_t row_of(const zero1_config *config, int64_t group) {
  for (int64_t i = 0; i < group; ++i)
    if (config->groups[i].beta1 == config->groups[group].beta1 &&
        config->groups[i].beta2 == config->groups[group].beta2)
      return i;
  return group;
}

/* Biases of the counts [begin, end], which may wrap around in the table. */
static void upload_bias(zero1__schedule *schedule, zero1__stream *stream, int64_t row,
                        int64_t begin, int64_t end) {
  const zero1_group *group = &schedule->settings->config.groups[row];
  zero1__bias *to = schedule->by_device->bias + row * ZERO1__BIAS_COUNTS;
  zero1__bias values[BIAS_AHEAD];
  while (begin <= end) {
    const int64_t at = begin % ZERO1__BIAS_COUNTS;
    int64_t count = end - begin + 1;
    if (count > BIAS_AHEAD) count = BIAS_AHEAD;
    if (count > ZERO1__BIAS_COUNTS - at) count = ZERO1__BIAS_COUNTS - at;
    for (int64_t i = 0; i < count; ++i) values[i] = zero1__bias_make(group, begin + i);
    upload(schedule, stream, to + at, values, (size_t)count * sizeof *values);
    begin += count;
  }
}

/* The groups that have changed; returns whether betas have: then all biases are others. */
static int upload_groups(zero1__schedule *schedule, zero1__stream *stream) {
  const zero1_config *config = &schedule->settings->config;
  zero1__device_agreement *agreement = schedule->by_device;
  int betas = 0;
  for (int64_t i = 0; i < config->group_count; ++i) {
    zero1__device_group *given = &agreement->given_groups[i];
    zero1__device_group group = {config->groups[i], row_of(config, i)};
    group.hyper.size = sizeof group.hyper; /* never 0: what was given before is told apart */
    if (!memcmp(given, &group, sizeof group)) continue;
    betas |= given->hyper.beta1 != group.hyper.beta1 || given->hyper.beta2 != group.hyper.beta2 ||
             given->row != group.row;
    *given = group;
    upload(schedule, stream, &agreement->groups[i], given, sizeof *given);
  }
  return betas;
}

/* So that the next step, whatever its count is by then, finds its biases. */
static void upload_biases(zero1__schedule *schedule, zero1__stream *stream, int all) {
  zero1__device_agreement *agreement = schedule->by_device;
  if (agreement->tickets - ended_now(agreement->told) > STEPS_AHEAD)
    await_ticket(schedule, agreement->tickets - STEPS_AHEAD);
  zero1__told told;
  if (!read_told(schedule, &told)) return;
  const int64_t last = told.count + (agreement->tickets - told.ended) + 1;
  if (!all && last <= agreement->bias_end) return;
  const int64_t begin = all ? told.count + 1 : agreement->bias_end + 1;
  agreement->bias_end = last + BIAS_AHEAD - 1;
  for (int64_t i = 0; i < schedule->settings->config.group_count; ++i)
    if (agreement->given_groups[i].row == i)
      upload_bias(schedule, stream, i, begin, agreement->bias_end);
}

static void upload_limits(zero1__schedule *schedule, zero1__stream *stream) {
  const zero1_config *config = &schedule->settings->config;
  zero1__device_agreement *agreement = schedule->by_device;
  const zero1__limits limits = {config->grad_scale, config->max_grad_norm, config->skip_grad_norm,
                                config->guard, 0};
  const uint64_t hash = zero1__groups_hash(config->groups, config->group_count);
  if (memcmp(&limits, &agreement->given_limits, sizeof limits)) {
    agreement->given_limits = limits;
    upload(schedule, stream, &schedule->step->limits, &limits, sizeof limits);
  }
  if (hash != agreement->given_hash) {
    agreement->given_hash = hash;
    upload(schedule, stream, &schedule->step->groups_hash, &hash, sizeof hash);
  }
}

static void upload_settings(zero1__schedule *schedule, zero1__stream *stream) {
  upload_limits(schedule, stream);
  upload_biases(schedule, stream, upload_groups(schedule, stream));
}

/* The bits beside this rank's record. */
static void upload_absent(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  const size_t bytes = zero1__absent_bytes(schedule->layout->slot_count);
  zero1__readiness_absent_bits(&schedule->readiness, agreement->absent);
  if (!agreement->absent_unknown && !memcmp(agreement->absent, agreement->given_absent, bytes))
    return;
  memcpy(agreement->given_absent, agreement->absent, bytes);
  agreement->absent_unknown = 0;
  upload(schedule, schedule->comm, (char *)agreement->lane->mine + sizeof(zero1__record),
         agreement->absent, bytes);
}

static int is_captured(zero1__schedule *schedule) {
  return schedule->device->ops->capturing(schedule->device, schedule->comm) != 0;
}

/* ---- agreeing ---- */

static void gather(zero1__schedule *schedule, zero1__device_lane *lane) {
  zero1__error error;
  zero1__error_clear(&error);
  if (lane->comm->ops->device_lane_gather(lane, schedule->comm, &error))
    zero1__channel_fail(schedule->channel, &error);
}

static zero1__records records_of(const zero1__device_lane *lane) {
  return (zero1__records){lane->all, lane->bytes, lane->comm->world_size};
}

static void enqueue_record(zero1__schedule *schedule, zero1__device_lane *lane, int32_t came_to,
                           int32_t one_pass) {
  zero1__record_job job = {.step = schedule->step, .to = lane->mine};
  zero1__outcome_record(came_to, one_pass, schedule->readiness.absent, &schedule->local,
                        &job.record);
  schedule->device->ops->record(schedule->device, schedule->comm, &job);
}

static void enqueue_decide(zero1__schedule *schedule, zero1__device_lane *lane, int32_t came_to) {
  zero1__device_agreement *agreement = schedule->by_device;
  const zero1__decide_job job = {
      .step = schedule->step,
      .records = records_of(lane),
      .absent = {(const char *)agreement->lane->all + sizeof(zero1__record), agreement->lane->bytes,
                 agreement->lane->comm->world_size},
      .came_to = came_to,
      .wider = lane != agreement->lane,
      .groups = agreement->groups,
      .group_count = schedule->settings->config.group_count,
      .bias = agreement->bias,
      .scalars = schedule->scalars,
      .absent_slots = schedule->absent,
      .slot_count = schedule->layout->slot_count};
  schedule->device->ops->decide(schedule->device, schedule->comm, &job);
}

void zero1__device_agree(zero1__schedule *schedule, int32_t came_to, int32_t one_pass) {
  zero1__device *device = schedule->device;
  zero1__device_agreement *agreement = schedule->by_device;
  zero1__device_lane *last = agreement->wider ? agreement->wider : agreement->lane;
  device->ops->time_begin(device, schedule->comm, &schedule->agree_ns);
  if (came_to == ZERO1__CAME_AFTER) {
    enqueue_record(schedule, last, came_to, one_pass);
    gather(schedule, last);
  } else {
    if (!is_captured(schedule)) upload_settings(schedule, schedule->comm);
    upload_absent(schedule);
    enqueue_record(schedule, agreement->lane, came_to, one_pass);
    gather(schedule, agreement->lane);
    if (agreement->wider) {
      enqueue_record(schedule, agreement->wider, came_to, one_pass);
      const zero1__check_job job = {.step = schedule->step,
                                    .records = records_of(agreement->lane),
                                    .came_to = came_to,
                                    .wider = agreement->wider->mine};
      device->ops->agree_check(device, schedule->comm, &job);
      gather(schedule, agreement->wider);
    }
  }
  enqueue_decide(schedule, last, came_to);
  device->ops->time_end(device, schedule->comm);
}

void zero1__device_tell(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  const zero1__tell_job job = {schedule->step, agreement->told};
  schedule->device->ops->tell(schedule->device, schedule->comm, &job);
  agreement->tells += 1;
  if (is_captured(schedule)) return;
  agreement->tickets += 1;
  agreement->replayed = 0;
}

/* ---- graphs ---- */

void zero1__device_captured(zero1__schedule *schedule) {
  zero1__device_agreement *agreement = schedule->by_device;
  if (is_captured(schedule)) {
    agreement->capture_tells = agreement->tells;
    agreement->absent_unknown = 1;
  }
  agreement->tells = 0;
}

int64_t zero1__device_capture_tells(const zero1__schedule *schedule) {
  return schedule->by_device ? schedule->by_device->capture_tells : 0;
}

void zero1__device_replay(zero1__schedule *schedule, zero1__stream *stream) {
  zero1__device_agreement *agreement = schedule->by_device;
  schedule->device->ops->stream_wait(schedule->device, stream, schedule->uncaptured);
  schedule->device->ops->stream_wait(schedule->device, stream, schedule->finished);
  zero1__hold_wait_all(schedule->hold, stream); /* nothing in the graph waits for it */
  upload_settings(schedule, stream);
  agreement->tickets += agreement->capture_tells;
  agreement->replayed = 1;
}

/* Nothing is under way. The biases of the counts that come are uploaded with the next step. */
void zero1__device_set_count(zero1__schedule *schedule, int64_t count) {
  zero1__device *device = schedule->device;
  device->ops->transfer(device, &schedule->step->count, &count, sizeof count);
  schedule->by_device->told->count = count;
  schedule->by_device->bias_end = count;
}
