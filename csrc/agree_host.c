#include "agree_host.h"

#include <fenv.h>
#include <stdio.h>
#include <string.h>

#include "alike.h"
#include "clock.h"
#include "step_rules.h"

typedef struct agree_args {
  zero1__limits limits;
  uint64_t groups_hash;
  int32_t came_to;
} agree_args;

_Static_assert(sizeof(agree_args) <= ZERO1__HOST_ARGS, "a host call holds the args");

/* To where kernels read it. */
static void show(zero1__schedule *schedule, void *to, const void *from, size_t bytes) {
  if (to != from) schedule->device->ops->transfer(schedule->device, to, from, bytes);
}

static void show_verdict(zero1__schedule *schedule) {
  const zero1__verdict *verdict = &schedule->made_step->verdict;
  show(schedule, &schedule->step->verdict, verdict, sizeof *verdict);
}

void zero1__host_clear(zero1__schedule *schedule) {
  const zero1__open_job job = {schedule->made_step};
  zero1__step_open(&job);
  show(schedule, &schedule->step->stats, &job.step->stats, sizeof job.step->stats);
  show_verdict(schedule);
  schedule->reduce_ns = schedule->update_ns = schedule->agree_ns = 0;
  zero1__channel_open_step(schedule->channel);
}

static void make_record(zero1__schedule *schedule, const agree_args *args, zero1__record *mine) {
  zero1__step *step = schedule->made_step;
  zero1__record_job job = {.step = step, .to = mine};
  show(schedule, &step->stats, &schedule->step->stats, sizeof step->stats);
  zero1__schedule_check(schedule); /* what has been summed, or copied, is of no use then */
  step->limits = args->limits;
  step->groups_hash = args->groups_hash;
  zero1__outcome_record(args->came_to, args->limits.one_pass, schedule->readiness.absent,
                        &schedule->local, &job.record);
  zero1__step_record(&job);
}

static zero1_status gather(zero1__schedule *schedule, zero1__lane *lane, const void *mine,
                           void *all, size_t bytes) {
  zero1__error error;
  if (zero1__channel_failure(schedule->channel, NULL)) return ZERO1_ERR_SPENT;
  zero1__error_clear(&error);
  lane->call = "step";
  const zero1_status status = zero1__lane_gather(lane, mine, all, bytes, &error);
  if (status) zero1__channel_fail(schedule->channel, &error);
  return status;
}

static zero1_status gather_records(zero1__schedule *schedule, zero1__lane *lane,
                                   const zero1__record *mine, zero1__records *records) {
  *records = (zero1__records){schedule->records, sizeof *schedule->records, lane->comm->world_size};
  return gather(schedule, lane, mine, schedule->records, sizeof *mine);
}

/* Which parameters are absent on every rank, where some are on any: the step leaves them alone. */
static zero1_status gather_absent(zero1__schedule *schedule, zero1__records *absent) {
  const size_t bytes = zero1__absent_bytes(schedule->layout->slot_count);
  uint8_t *mine = schedule->absent_bits, *all = mine + bytes;
  *absent = (zero1__records){all, bytes, schedule->layout->world_size};
  if (!schedule->made_step->decision.any_absent) return ZERO1_OK;
  zero1__readiness_absent_bits(&schedule->readiness, mine);
  return gather(schedule, schedule->lane, mine, all, bytes);
}

/* What has become of the step so far, in words; ranks that are out of step stay so. */
static void tell(zero1__schedule *schedule) {
  zero1__outcome *outcome = &schedule->outcome;
  outcome->decision = schedule->made_step->decision;
  schedule->count = schedule->made_step->count;
  zero1__outcome_tell(outcome);
  if (outcome->decision.out_of_step) zero1__channel_fail(schedule->channel, &outcome->error);
}

/* Over the comm, and then over agree_comm, whose other ranks are to skip as well where the comm has
 * failed: the host tells them of that in all its words. */
static zero1_status check_both(zero1__schedule *schedule, const agree_args *args,
                               zero1__record *mine, zero1__decide_job *job) {
  const int32_t status = mine->status;
  zero1__step_check(&(zero1__check_job){job->step, job->records, args->came_to, 0, mine});
  tell(schedule);
  if (!status && mine->status) {
    mine->comm_cause = ZERO1__CAUSE_NONE;
    snprintf(mine->text, sizeof mine->text, "%.255s", schedule->outcome.error.text);
  }
  const zero1_status gathered = gather_records(schedule, schedule->wider, mine, &job->records);
  if (gathered) return gathered;
  zero1__decide_check_wider(&job->records, &job->step->decision);
  tell(schedule);
  return ZERO1_OK;
}

/* One all-gather of records, one more where the verdict spans more ranks, and one of what is
 * absent. */
static zero1_status agree_records(zero1__schedule *schedule, const agree_args *args,
                                  zero1__decide_job *job) {
  zero1__record mine;
  make_record(schedule, args, &mine);
  zero1_status status = gather_records(schedule, schedule->lane, &mine, &job->records);
  if (status) return status;
  if (schedule->wider) {
    status = check_both(schedule, args, &mine, job);
    if (status) return status;
  } else {
    zero1__step_check_comm(job->step, &job->records, args->came_to);
    tell(schedule);
  }
  return gather_absent(schedule, &job->absent);
}

/* The parameters will be updated: what the kernels need for it. */
static void let_update(zero1__schedule *schedule, const zero1__decide_job *job) {
  const int64_t group_count = schedule->settings->config.group_count;
  for (int64_t i = 0; i < group_count; ++i)
    schedule->made_scalars[i] = zero1__adam_scalars_make(&schedule->groups[i], job->step->count);
  if (job->step->decision.any_absent) /* else there may be very many slots to ask about nothing */
    for (int64_t slot = 0; slot < job->slot_count; ++slot) zero1__step_absent(job, slot);
  else
    memset(job->absent_slots, 0, (size_t)job->slot_count);
  show(schedule, schedule->scalars, schedule->made_scalars,
       (size_t)group_count * sizeof *schedule->scalars);
  show(schedule, schedule->absent, schedule->made_absent, (size_t)job->slot_count);
  show_verdict(schedule);
}

static void agree(zero1__schedule *schedule, const agree_args *args, zero1__decide_job *job) {
  zero1__decide_scratch scratch;
  /* Until here it is that of the last step, for a caller who asks between two steps. */
  if (args->came_to != ZERO1__CAME_TO_GO_ON) {
    zero1__outcome_clear(&schedule->outcome);
    job->step->decision = schedule->outcome.decision;
  }
  if (agree_records(schedule, args, job)) {
    job->step->decision.skip = 1;
    job->step->decision.skip_reason = ZERO1_SKIP_ERROR;
  } else {
    zero1__step_conclude(job, &scratch);
    if (zero1__step_prepares(job)) let_update(schedule, job);
  }
  tell(schedule);
}

/* The norm of a step in one pass: known only after it. Nothing is decided any more. */
static void tell_norm(zero1__schedule *schedule, const agree_args *args, zero1__decide_job *job) {
  zero1__decide_scratch scratch;
  zero1__record mine;
  zero1__lane *lane = schedule->wider ? schedule->wider : schedule->lane;
  if (job->step->decision.skip) return;
  make_record(schedule, args, &mine);
  if (gather_records(schedule, lane, &mine, &job->records)) return;
  zero1__step_decide_after(job, &scratch);
  tell(schedule);
}

static void agree_task(void *context, const void *opaque) {
  zero1__schedule *schedule = context;
  agree_args args;
  fenv_t mode;
  memcpy(&args, opaque, sizeof args);
  zero1__decide_job job = {.step = schedule->made_step,
                           .came_to = args.came_to,
                           .absent_slots = schedule->made_absent,
                           .slot_count = schedule->layout->slot_count};
  const int64_t begin_ns = zero1__now_ns();
  fegetenv(&mode); /* the caller's rounding must not reach the scalars */
  fesetenv(FE_DFL_ENV);
  if (args.came_to == ZERO1__CAME_AFTER)
    tell_norm(schedule, &args, &job);
  else
    agree(schedule, &args, &job);
  fesetenv(&mode);
  schedule->agree_ns += zero1__now_ns() - begin_ns;
}

void zero1__host_agree(zero1__schedule *schedule, int32_t came_to, int32_t one_pass) {
  const zero1_config *config = &schedule->settings->config;
  zero1__device *device = schedule->device;
  const agree_args args = {.limits = {config->grad_scale, config->max_grad_norm,
                                      config->skip_grad_norm, config->guard, one_pass},
                           .groups_hash = zero1__groups_hash(config->groups, config->group_count),
                           .came_to = came_to};
  if (came_to == ZERO1__CAME_TO_STEP || came_to == ZERO1__CAME_TO_GO_ON)
    memcpy(schedule->groups, config->groups,
           (size_t)config->group_count * sizeof *schedule->groups);
  device->ops->host_call(device, schedule->comm, agree_task, schedule, &args, sizeof args);
}
