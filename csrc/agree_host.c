#include "agree_host.h"

#include <fenv.h>
#include <stdio.h>
#include <string.h>

#include "alike.h"
#include "clock.h"
#include "rules.h"

typedef struct agree_args {
  zero1__limits limits;
  uint64_t groups_hash;
  uint32_t epoch;
  int32_t came_to;
} agree_args;

_Static_assert(sizeof(agree_args) <= ZERO1__HOST_ARGS, "a host call holds the args");

/* To where kernels read it. */
static void show(zero1__schedule *schedule, void *to, const void *from, size_t bytes) {
  if (to != from) schedule->device->ops->transfer(schedule->device, to, from, bytes);
}

static void show_verdict(zero1__schedule *schedule) {
  show(schedule, &schedule->step->verdict, &schedule->verdict, sizeof schedule->verdict);
}

void zero1__host_clear(zero1__schedule *schedule) {
  zero1__stats stats;
  zero1__stats_clear(&stats);
  show(schedule, &schedule->step->stats, &stats, sizeof stats);
  schedule->verdict = (zero1__verdict){.skip = 1};
  show_verdict(schedule);
  schedule->reduce_ns = schedule->update_ns = schedule->agree_ns = 0;
  schedule->channel->exchange_ns = schedule->channel->gather_ns = 0;
}

static zero1__record record_of(const zero1__schedule *schedule, const agree_args *args) {
  zero1__record mine;
  memset(&mine, 0, sizeof mine); /* padding is sent too */
  mine.epoch = args->epoch;
  mine.came_to = args->came_to;
  mine.limits = args->limits;
  mine.groups_hash = args->groups_hash;
  mine.absent = schedule->readiness.absent;
  schedule->device->ops->transfer(schedule->device, &mine.stats, &schedule->step->stats,
                                  sizeof mine.stats);
  zero1__exact_sum_carry(&mine.stats.squares); /* kernels of other devices leave that out */
  /* What is wrong with the gradients is no reason not to drop them. */
  mine.status = args->came_to == ZERO1__CAME_TO_DROP ? ZERO1_OK : schedule->local.status;
  snprintf(mine.text, sizeof mine.text, "%.255s", mine.status ? schedule->local.text : "");
  return mine;
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

/* Which parameters are absent on every rank: those the step leaves alone. */
static zero1_status agree_absent(zero1__schedule *schedule) {
  const zero1__layout *layout = schedule->layout;
  const size_t bytes = (size_t)layout->slot_count / 8 + 1;
  uint8_t *mine = schedule->absent_bits, *all = mine + bytes;
  memset(schedule->made_absent, 0, (size_t)layout->slot_count);
  if (!schedule->outcome.decision.any_absent) return ZERO1_OK;
  memset(mine, 0, bytes);
  for (int64_t slot = 0; slot < layout->slot_count; ++slot)
    if (schedule->readiness.grads[layout->slots[slot].param] == ZERO1__GRAD_ABSENT)
      mine[slot / 8] |= (uint8_t)(1 << slot % 8);
  const zero1_status status = gather(schedule, schedule->lane, mine, all, bytes);
  if (status) return status;
  for (int32_t rank = 1; rank < layout->world_size; ++rank)
    for (size_t i = 0; i < bytes; ++i) all[i] &= all[(size_t)rank * bytes + i];
  for (int64_t slot = 0; slot < layout->slot_count; ++slot)
    schedule->made_absent[slot] = all[slot / 8] >> slot % 8 & 1;
  return ZERO1_OK;
}

/* One all-gather of records, and one more where the verdict spans more ranks. */
static zero1_status agree_records(zero1__schedule *schedule, const agree_args *args) {
  const zero1__record mine = record_of(schedule, args);
  zero1__record *records = schedule->records;
  zero1__outcome *outcome = &schedule->outcome;
  int32_t count = schedule->lane->comm->world_size;
  zero1_status status = gather(schedule, schedule->lane, &mine, records, sizeof mine);
  if (status) return status;
  zero1__outcome_check(records, count, outcome);
  if (outcome->decision.out_of_step) zero1__channel_fail(schedule->channel, &outcome->error);
  if (schedule->wider) {
    zero1__record wider = mine;
    if (outcome->error.status && !wider.status) { /* the others are to skip as well */
      wider.status = outcome->error.status;
      snprintf(wider.text, sizeof wider.text, "%.255s", outcome->error.text);
    }
    count = schedule->wider->comm->world_size;
    status = gather(schedule, schedule->wider, &wider, records, sizeof wider);
    if (status) return status;
    zero1__outcome_check_wider(records, count, outcome);
    if (outcome->decision.out_of_step) zero1__channel_fail(schedule->channel, &outcome->error);
  }
  if (args->came_to != ZERO1__CAME_TO_GO_ON) zero1__outcome_decide(records, count, outcome);
  return agree_absent(schedule);
}

/* The parameters will be updated: what the kernels need for it. */
static void let_update(zero1__schedule *schedule) {
  const zero1_config *config = &schedule->settings->config;
  schedule->count += 1;
  for (int64_t i = 0; i < config->group_count; ++i)
    schedule->made_scalars[i] = zero1__adam_scalars_make(&schedule->groups[i], schedule->count);
  schedule->verdict.grad_factor = zero1__decided_factor(&schedule->outcome.decision);
  schedule->verdict.skip = 0;
  show(schedule, schedule->scalars, schedule->made_scalars,
       (size_t)config->group_count * sizeof *schedule->scalars);
  show(schedule, schedule->absent, schedule->made_absent, (size_t)schedule->layout->slot_count);
  show_verdict(schedule);
}

static void agree(zero1__schedule *schedule, const agree_args *args) {
  zero1__outcome *outcome = &schedule->outcome;
  /* Until here it is that of the last step, for a caller who asks between two steps. */
  if (args->came_to != ZERO1__CAME_TO_GO_ON) zero1__outcome_clear(outcome);
  if (agree_records(schedule, args)) {
    outcome->decision.skip = 1;
    outcome->decision.skip_reason = ZERO1_SKIP_ERROR;
  } else if (args->came_to == ZERO1__CAME_TO_DROP && !outcome->error.status) {
    outcome->decision.skip = 1;
    outcome->decision.skip_reason = ZERO1_SKIP_DROPPED;
  } else if ((args->came_to == ZERO1__CAME_TO_STEP || args->came_to == ZERO1__CAME_TO_GO_ON) &&
             !outcome->decision.skip) {
    let_update(schedule);
  }
}

/* The norm of a step in one pass: known only after it. Nothing is decided any more. */
static void tell_norm(zero1__schedule *schedule, const agree_args *args) {
  const zero1__outcome before = schedule->outcome;
  zero1__outcome after = before;
  const zero1__record mine = record_of(schedule, args);
  const int32_t count = (schedule->wider ? schedule->wider : schedule->lane)->comm->world_size;
  if (before.decision.skip || gather(schedule, schedule->wider ? schedule->wider : schedule->lane,
                                     &mine, schedule->records, sizeof mine))
    return;
  zero1__outcome_decide(schedule->records, count, &after);
  schedule->outcome.decision.grad_norm = after.decision.grad_norm;
  schedule->outcome.decision.nonfinite_numel = after.decision.nonfinite_numel;
  schedule->outcome.decision.bad_param = after.decision.bad_param;
  schedule->outcome.decision.bad_rank = after.decision.bad_rank;
}

static void agree_task(void *context, const void *opaque) {
  zero1__schedule *schedule = context;
  agree_args args;
  fenv_t mode;
  memcpy(&args, opaque, sizeof args);
  const int64_t begin_ns = zero1__now_ns();
  fegetenv(&mode); /* the caller's rounding must not reach the scalars */
  fesetenv(FE_DFL_ENV);
  zero1__schedule_check(schedule); /* what it has summed is of no use then */
  if (args.came_to == ZERO1__CAME_AFTER)
    tell_norm(schedule, &args);
  else
    agree(schedule, &args);
  fesetenv(&mode);
  schedule->agree_ns += zero1__now_ns() - begin_ns;
}

void zero1__host_agree(zero1__schedule *schedule, int32_t came_to, int32_t one_pass) {
  const zero1_config *config = &schedule->settings->config;
  zero1__device *device = schedule->device;
  const agree_args args = {.limits = {config->grad_scale, config->max_grad_norm,
                                      config->skip_grad_norm, config->guard, one_pass},
                           .groups_hash = zero1__groups_hash(config->groups, config->group_count),
                           .epoch = schedule->epoch,
                           .came_to = came_to};
  if (came_to == ZERO1__CAME_TO_STEP || came_to == ZERO1__CAME_TO_GO_ON)
    memcpy(schedule->groups, config->groups,
           (size_t)config->group_count * sizeof *schedule->groups);
  device->ops->host_call(device, schedule->comm, agree_task, schedule, &args, sizeof args);
}
