/* What the small jobs of a step do (step_jobs.h), wherever it is decided: the kernels of
 * cuda/step.cu and the stand-in's launchers call these where the device decides, agree_host.c where
 * the host does.
 *
 * One thread runs each of them, but zero1__step_scalars and zero1__step_absent: these are one
 * thread for each group and slot, after zero1__step_decide. */
#ifndef ZERO1__STEP_RULES_H
#define ZERO1__STEP_RULES_H

#include "decide.h"
#include "step_jobs.h"

/* ---- lost: waits on several streams may set and read it at once ---- */

ZERO1__INLINE int zero1__step_is_lost(const zero1__step *step) {
#if defined(__CUDA_ARCH__)
  return *(const volatile int32_t *)&step->lost != 0;
#else
  return __atomic_load_n(&step->lost, __ATOMIC_ACQUIRE) != 0;
#endif
}

/** A wait was given up: for `peer`, or for -1 because the host says so. The first one is kept. */
ZERO1__INLINE void zero1__step_lose(zero1__step *step, int32_t peer) {
#if defined(__CUDA_ARCH__)
  if (atomicCAS(&step->lost, 0, 1) == 0) *(volatile int32_t *)&step->lost_peer = peer;
#else
  int32_t none = 0;
  if (__atomic_compare_exchange_n(&step->lost, &none, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    __atomic_store_n(&step->lost_peer, peer, __ATOMIC_RELEASE);
#endif
}

ZERO1__INLINE int32_t zero1__step_lost_peer(const zero1__step *step) {
#if defined(__CUDA_ARCH__)
  return *(const volatile int32_t *)&step->lost_peer;
#else
  return __atomic_load_n(&step->lost_peer, __ATOMIC_ACQUIRE);
#endif
}

/* ---- open, record ---- */

ZERO1__INLINE void zero1__step_open(const zero1__open_job *job) {
  zero1__step *step = job->step;
  ++step->epoch;
  zero1__stats_clear(&step->stats);
  step->verdict.skip = 1;
  step->verdict.grad_factor = 0;
}

ZERO1__INLINE void zero1__step_record(const zero1__record_job *job) {
  const zero1__step *step = job->step;
  zero1__record *to = job->to;
  *to = job->record;
  to->epoch = step->epoch;
  to->limits = step->limits;
  to->limits.one_pass = job->record.limits.one_pass;
  to->groups_hash = step->groups_hash;
  to->stats = step->stats;
  zero1__exact_sum_carry(&to->stats.squares);
}

/* ---- check, decide ---- */

/** A peer did not come, or the host said that none will: what was gathered is not to be read. */
ZERO1__INLINE void zero1__step_decide_lost(zero1__step *step) {
  zero1__decision *decision = &step->decision;
  decision->rank = zero1__step_lost_peer(step);
  decision->status = decision->rank >= 0 ? ZERO1_ERR_TIMEOUT : ZERO1_ERR_ABORTED;
  decision->cause = ZERO1__CAUSE_LOST;
}

/** The ranks of agree_comm are told of a failure of the comm: what a rank said itself as it is,
 * else the cause. */
ZERO1__INLINE void zero1__step_warn_wider(const zero1__decision *decision, zero1__record *wider) {
  const int in_words = decision->cause == ZERO1__CAUSE_STATUS;
  if (!decision->status || wider->status) return;
  wider->status = decision->status;
  wider->comm_cause = in_words ? ZERO1__CAUSE_NONE : decision->cause;
  for (int32_t i = 0; i < ZERO1__RECORD_TEXT; ++i)
    wider->text[i] = in_words ? decision->text[i] : (char)0;
}

ZERO1__INLINE void zero1__step_check_comm(zero1__step *step, const zero1__records *records,
                                          int32_t came_to) {
  if (came_to != ZERO1__CAME_TO_GO_ON) zero1__decision_clear(&step->decision);
  if (!zero1__step_is_lost(step)) zero1__decide_check(records, &step->decision);
}

/** *wider holds this rank's record already. */
ZERO1__INLINE void zero1__step_check(const zero1__check_job *job) {
  zero1__step *step = job->step;
  zero1__step_check_comm(step, &job->records, job->came_to);
  if (zero1__step_is_lost(step)) {
    zero1__step_decide_lost(step);
    zero1__decide_fail(&step->decision);
  }
  zero1__step_warn_wider(&step->decision, job->wider);
}

/** Memory that deciding needs; for kernels, which have no stack. */
typedef struct zero1__decide_scratch {
  zero1__stats total;
  zero1__decision after;
} zero1__decide_scratch;

/** The norm of a step in one pass: nothing is decided any more. */
ZERO1__INLINE void zero1__step_decide_after(const zero1__decide_job *job,
                                            zero1__decide_scratch *scratch) {
  zero1__decision *decision = &job->step->decision, *after = &scratch->after;
  if (zero1__step_is_lost(job->step)) {
    zero1__step_decide_lost(job->step);
    return;
  }
  if (decision->skip) return;
  zero1__decision_clear(after);
  zero1__decide_verdict_in(&job->records, &scratch->total, after);
  decision->grad_norm = after->grad_norm;
  decision->nonfinite_numel = after->nonfinite_numel;
  decision->bad_param = after->bad_param;
  decision->bad_rank = after->bad_rank;
}

/** The parameters will be updated. */
ZERO1__INLINE void zero1__step_let_update(zero1__step *step) {
  step->count += 1;
  step->verdict.grad_factor = zero1__decided_factor(&step->decision);
  step->verdict.skip = 0;
}

/** After all checks: the verdict. */
ZERO1__INLINE void zero1__step_conclude(const zero1__decide_job *job,
                                        zero1__decide_scratch *scratch) {
  zero1__decision *decision = &job->step->decision;
  if (job->came_to != ZERO1__CAME_TO_GO_ON)
    zero1__decide_verdict_in(&job->records, &scratch->total, decision);
  if (job->came_to == ZERO1__CAME_TO_DROP && !decision->status) {
    decision->skip = 1;
    decision->skip_reason = ZERO1_SKIP_DROPPED;
  } else if ((job->came_to == ZERO1__CAME_TO_STEP || job->came_to == ZERO1__CAME_TO_GO_ON) &&
             !decision->skip) {
    zero1__step_let_update(job->step);
  }
}

ZERO1__INLINE void zero1__step_decide_now(const zero1__decide_job *job,
                                          zero1__decide_scratch *scratch) {
  zero1__step *step = job->step;
  zero1__decision *decision = &step->decision;
  if (!job->wider)
    zero1__step_check_comm(step, &job->records, job->came_to);
  else if (!zero1__step_is_lost(step))
    zero1__decide_check_wider(&job->records, decision);
  if (zero1__step_is_lost(step)) {
    zero1__step_decide_lost(step);
    zero1__decide_fail(decision);
    return;
  }
  zero1__step_conclude(job, scratch);
}

ZERO1__INLINE void zero1__step_decide(const zero1__decide_job *job,
                                      zero1__decide_scratch *scratch) {
  if (job->came_to == ZERO1__CAME_AFTER)
    zero1__step_decide_after(job, scratch);
  else
    zero1__step_decide_now(job, scratch);
}

/** Whether zero1__step_scalars and zero1__step_absent are to follow: for each group, each slot. */
ZERO1__INLINE int zero1__step_prepares(const zero1__decide_job *job) {
  return job->came_to != ZERO1__CAME_AFTER && !job->step->verdict.skip;
}

ZERO1__INLINE void zero1__step_scalars(const zero1__decide_job *job, int64_t group) {
  const zero1__device_group *from = &job->groups[group];
  const int64_t column = job->step->count % ZERO1__BIAS_COUNTS;
  job->scalars[group] =
      zero1__adam_scalars_of(&from->hyper, job->bias[from->row * ZERO1__BIAS_COUNTS + column]);
}

ZERO1__INLINE void zero1__step_absent(const zero1__decide_job *job, int64_t slot) {
  int absent = job->step->decision.any_absent;
  for (int32_t rank = 0; rank < job->absent.count && absent; ++rank) {
    const uint8_t *bits = (const uint8_t *)job->absent.first + (size_t)rank * job->absent.stride;
    absent = bits[slot / 8] >> slot % 8 & 1;
  }
  job->absent_slots[slot] = (uint8_t)absent;
}

/* ---- tell ----
 *
 * The host reads while the device writes: each word is one store, in order. */

#if defined(__GNUC__)
typedef uint64_t __attribute__((may_alias)) zero1__told_word;
#else
typedef uint64_t zero1__told_word;
#endif

ZERO1__INLINE void zero1__told_fence(void) {
#if defined(__CUDA_ARCH__)
  __threadfence_system();
#endif
}

ZERO1__INLINE void zero1__told_store(zero1__told_word *to, uint64_t value) {
#if defined(__CUDA_ARCH__)
  *(volatile zero1__told_word *)to = value;
#else
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
#endif
}

ZERO1__INLINE void zero1__told_decision(zero1__decision *to, const zero1__decision *from) {
  for (size_t i = 0; i < sizeof *to / sizeof(zero1__told_word); ++i)
    zero1__told_store((zero1__told_word *)to + i, ((const zero1__told_word *)from)[i]);
}

ZERO1__INLINE void zero1__step_tell(const zero1__tell_job *job) {
  zero1__step *step = job->step;
  zero1__told *told = job->told;
  const int64_t ticket = ++step->tickets;
  if (zero1__step_is_lost(step)) zero1__step_decide_lost(step); /* maybe after the verdict */
  zero1__told_store((zero1__told_word *)&told->began, (uint64_t)ticket);
  zero1__told_fence();
  zero1__told_store((zero1__told_word *)&told->count, (uint64_t)step->count);
  zero1__told_decision(&told->decision, &step->decision);
  if (step->decision.status) {
    zero1__told_store((zero1__told_word *)&told->failed_ticket, (uint64_t)ticket);
    zero1__told_decision(&told->failed, &step->decision);
  }
  zero1__told_fence();
  zero1__told_store((zero1__told_word *)&told->ended, (uint64_t)ticket);
}

#if !defined(__CUDACC__)
/** The host's side: copies what was told last; returns 0 where the device wrote meanwhile, and the
 *  copy is of no use. */
static inline int zero1__told_read(const zero1__told *told, zero1__told *copy) {
  const zero1__told_word *from = (const zero1__told_word *)told;
  zero1__told_word *to = (zero1__told_word *)copy;
  const uint64_t ended = __atomic_load_n((const zero1__told_word *)&told->ended, __ATOMIC_ACQUIRE);
  for (size_t i = 0; i < sizeof *told / sizeof *from; ++i)
    to[i] = __atomic_load_n(from + i, __ATOMIC_ACQUIRE);
  return ended == __atomic_load_n((const zero1__told_word *)&told->began, __ATOMIC_ACQUIRE);
}
#endif

#endif
