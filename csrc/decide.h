/* What follows from the ranks' records of a step: the same numbers on every rank and on every
 * device, since the C and the CUDA compiler take the same functions. No text: outcome.c has it. */
#ifndef ZERO1__DECIDE_H
#define ZERO1__DECIDE_H

#include <math.h>

#include "jobs.h"
#include "zero1/zero1.h"

/** What a rank came for. All ranks of a step must have come for the same. */
enum {
  ZERO1__CAME_TO_REDUCE = 1, /* reduce_grads */
  ZERO1__CAME_TO_STEP = 2,   /* step, reduction included */
  ZERO1__CAME_TO_GO_ON = 3,  /* step after reduce_grads */
  ZERO1__CAME_TO_DROP = 4,   /* drop_grads */
  ZERO1__CAME_AFTER = 5      /* the norm of a step in one pass, told after it */
};

/** The hyper-parameters that decide. */
typedef struct zero1__limits {
  double grad_scale, max_grad_norm, skip_grad_norm;
  int32_t guard;
  int32_t one_pass; /* of reduction and update, which follows from the others, and from when they
                       were set */
} zero1__limits;

#define ZERO1__RECORD_TEXT 256

/** What one rank tells; sent as bytes, so that all of it is set. */
typedef struct zero1__record {
  uint32_t epoch;
  int32_t came_to;
  zero1_status status;
  int32_t comm_cause; /* to agree_comm: why the comm failed, ZERO1__CAUSE_; `text` is then empty */
  zero1__limits limits;
  uint64_t groups_hash;
  int64_t absent; /* gradients absent on this rank */
  zero1__stats stats;
  char text[ZERO1__RECORD_TEXT]; /* of status */
} zero1__record;

/** [count] records in rank order, `stride` bytes apart. */
typedef struct zero1__records {
  const void *first;
  size_t stride;
  int32_t count;
} zero1__records;

/** Why a step has a status. */
enum {
  ZERO1__CAUSE_NONE = 0,
  ZERO1__CAUSE_STATUS = 1,   /* `rank` came with it, and with `text` */
  ZERO1__CAUSE_CALLS = 2,    /* rank 0 and `rank` made other calls */
  ZERO1__CAUSE_WIDER = 3,    /* the same, of agree_comm */
  ZERO1__CAUSE_GROUPS = 4,   /* rank 0 and `rank` have other hyper-parameters of a group */
  ZERO1__CAUSE_LIMITS = 5,   /* ... other limits */
  ZERO1__CAUSE_ONE_PASS = 6, /* ... set limits at other times */
  ZERO1__CAUSE_LOST = 7      /* a peer did not come: devices that decide by themselves alone */
};

/** What became of a step, in numbers. */
typedef struct zero1__decision {
  zero1_status status; /* the same on every rank */
  int32_t cause;       /* ZERO1__CAUSE_ */
  int32_t rank;
  int32_t came_to[2]; /* of rank 0 and of `rank` */
  uint32_t epoch[2];
  int32_t skip, skip_reason;
  int32_t comm_cause; /* of `rank`, as it told agree_comm; NONE: it has a text */
  double grad_norm, clip_coef;
  double grad_scale; /* that the two were made with: what is set later is of the next step */
  int64_t nonfinite_numel, bad_param;
  int32_t bad_rank;
  int32_t any_absent;  /* some rank has absent gradients */
  int32_t out_of_step; /* the ranks came for different things: they cannot go on together */
  char text[ZERO1__RECORD_TEXT];
} zero1__decision;

/* The divisor's margin of torch.nn.utils.clip_grad_norm_ and Megatron-LM. */
#define ZERO1__CLIP_EPS 1e-6

ZERO1__INLINE const zero1__record *zero1__record_at(const zero1__records *records, int32_t rank) {
  return (const zero1__record *)((const char *)records->first + (size_t)rank * records->stride);
}

/** Of a step that was neither skipped nor clipped. */
ZERO1__INLINE void zero1__decision_clear(zero1__decision *decision) {
  memset(decision, 0, sizeof *decision);
  decision->clip_coef = 1;
  decision->bad_param = -1;
  decision->bad_rank = -1;
}

ZERO1__INLINE void zero1__decide_cause(zero1__decision *decision, zero1_status status,
                                       int32_t cause, const zero1__records *records, int32_t rank) {
  const zero1__record *first = zero1__record_at(records, 0);
  const zero1__record *other = zero1__record_at(records, rank);
  decision->status = status;
  decision->cause = cause;
  decision->rank = rank;
  decision->came_to[0] = first->came_to;
  decision->came_to[1] = other->came_to;
  decision->epoch[0] = first->epoch;
  decision->epoch[1] = other->epoch;
  if (cause != ZERO1__CAUSE_STATUS) return;
  decision->comm_cause = other->comm_cause;
  for (int32_t i = 0; i < ZERO1__RECORD_TEXT; ++i) decision->text[i] = other->text[i];
}

ZERO1__INLINE void zero1__decide_fail(zero1__decision *decision) {
  if (!decision->status) return;
  decision->skip = 1;
  decision->skip_reason = ZERO1_SKIP_ERROR;
}

ZERO1__INLINE void zero1__decide_statuses(const zero1__records *records,
                                          zero1__decision *decision) {
  for (int32_t i = 0; i < records->count && !decision->status; ++i) {
    const zero1_status status = zero1__record_at(records, i)->status;
    if (status) zero1__decide_cause(decision, status, ZERO1__CAUSE_STATUS, records, i);
  }
}

/** Whether the ranks came for the same thing with the same groups: ZERO1_ERR_MISMATCH, or the
 *  status of the lowest rank with one. */
ZERO1__INLINE void zero1__decide_check(const zero1__records *records, zero1__decision *decision) {
  const zero1__record *first = zero1__record_at(records, 0);
  for (int32_t i = 1; i < records->count && !decision->status; ++i) {
    const zero1__record *other = zero1__record_at(records, i);
    if (other->epoch == first->epoch && other->came_to == first->came_to) continue;
    decision->out_of_step = 1;
    zero1__decide_cause(decision, ZERO1_ERR_MISMATCH, ZERO1__CAUSE_CALLS, records, i);
  }
  zero1__decide_statuses(records, decision);
  for (int32_t i = 1; i < records->count && !decision->status; ++i)
    if (zero1__record_at(records, i)->groups_hash != first->groups_hash)
      zero1__decide_cause(decision, ZERO1_ERR_MISMATCH, ZERO1__CAUSE_GROUPS, records, i);
  for (int32_t i = 0; i < records->count; ++i)
    decision->any_absent |= zero1__record_at(records, i)->absent > 0;
  zero1__decide_fail(decision);
}

/** The same over config.agree_comm, whose optimizers have groups and attempts of their own. */
ZERO1__INLINE void zero1__decide_check_wider(const zero1__records *records,
                                             zero1__decision *decision) {
  const zero1__record *first = zero1__record_at(records, 0);
  for (int32_t i = 1; i < records->count && !decision->status; ++i) {
    if (zero1__record_at(records, i)->came_to == first->came_to) continue;
    decision->out_of_step = 1;
    zero1__decide_cause(decision, ZERO1_ERR_MISMATCH, ZERO1__CAUSE_WIDER, records, i);
  }
  zero1__decide_statuses(records, decision);
  zero1__decide_fail(decision);
}

ZERO1__INLINE int zero1__same_number(double a, double b) {
  uint64_t a_bits, b_bits;
  memcpy(&a_bits, &a, sizeof a);
  memcpy(&b_bits, &b, sizeof b);
  return a_bits == b_bits;
}

ZERO1__INLINE void zero1__decide_limits(const zero1__records *records, zero1__decision *decision) {
  const zero1__limits *first = &zero1__record_at(records, 0)->limits;
  zero1__decide_statuses(records, decision);
  for (int32_t i = 1; i < records->count && !decision->status; ++i) {
    const zero1__limits *other = &zero1__record_at(records, i)->limits;
    const int same = zero1__same_number(first->grad_scale, other->grad_scale) &&
                     zero1__same_number(first->max_grad_norm, other->max_grad_norm) &&
                     zero1__same_number(first->skip_grad_norm, other->skip_grad_norm) &&
                     first->guard == other->guard;
    if (!same)
      zero1__decide_cause(decision, ZERO1_ERR_MISMATCH, ZERO1__CAUSE_LIMITS, records, i);
    else if (first->one_pass != other->one_pass)
      zero1__decide_cause(decision, ZERO1_ERR_MISMATCH, ZERO1__CAUSE_ONE_PASS, records, i);
  }
  zero1__decide_fail(decision);
}

ZERO1__INLINE void zero1__decide_culprit(const zero1__stats *total, zero1__decision *decision) {
  decision->nonfinite_numel = total->nonfinite_numel;
  if (total->culprit == ZERO1__CULPRIT_NONE) return;
  const uint32_t rank = zero1__culprit_rank(total->culprit);
  decision->bad_param = zero1__culprit_param(total->culprit);
  decision->bad_rank = rank == ZERO1__CULPRIT_OVERFLOW ? -1 : (int32_t)rank;
}

ZERO1__INLINE void zero1__decide_skip(const zero1__limits *limits, zero1__decision *decision) {
  if (limits->guard && decision->nonfinite_numel) {
    decision->skip_reason = decision->bad_param >= 0 && decision->bad_rank < 0
                                ? ZERO1_SKIP_OVERFLOW
                                : ZERO1_SKIP_NONFINITE;
  } else if (limits->skip_grad_norm > 0 && decision->grad_norm > limits->skip_grad_norm) {
    decision->skip_reason = ZERO1_SKIP_NORM;
  } else {
    return;
  }
  decision->skip = 1;
}

/** Norm, clipping and the verdict to skip from all ranks' stats, which are added up in *total. */
ZERO1__INLINE void zero1__decide_verdict_in(const zero1__records *records, zero1__stats *total,
                                            zero1__decision *decision) {
  const zero1__limits *limits = &zero1__record_at(records, 0)->limits;
  zero1__decide_limits(records, decision);
  zero1__stats_clear(total);
  for (int32_t i = 0; i < records->count; ++i)
    zero1__stats_merge(total, &zero1__record_at(records, i)->stats);
  zero1__decide_culprit(total, decision);
  decision->grad_scale = limits->grad_scale;
  decision->grad_norm =
      total->nonfinite_numel
          ? (double)NAN
          : limits->grad_scale * sqrt(zero1__exact_sum_to_double(&total->squares));
  if (decision->skip) return;
  if (limits->max_grad_norm > 0) {
    const double coef = limits->max_grad_norm / (decision->grad_norm + ZERO1__CLIP_EPS);
    if (!(coef >= 1)) decision->clip_coef = coef; /* NaN too: without guard, it is to be seen */
  }
  zero1__decide_skip(limits, decision);
}

ZERO1__INLINE void zero1__decide_verdict(const zero1__records *records, zero1__decision *decision) {
  zero1__stats total;
  zero1__decide_verdict_in(records, &total, decision);
}

/** What update multiplies gradients by. */
ZERO1__INLINE float zero1__decided_factor(const zero1__decision *decision) {
  return (float)(decision->grad_scale * decision->clip_coef);
}

#endif
