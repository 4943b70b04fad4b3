/* What the ranks tell each other about a step, and what follows from it: pure functions of the
 * records of all ranks, so that every rank comes to the same verdict. */
#ifndef ZERO1__AGREED_H
#define ZERO1__AGREED_H

#include "error.h"
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

/** What one rank tells; sent as bytes, so that all of it is set. */
typedef struct zero1__record {
  uint32_t epoch;
  int32_t came_to;
  zero1_status status;
  int32_t reserved;
  zero1__limits limits;
  uint64_t groups_hash;
  int64_t absent; /* gradients absent on this rank */
  zero1__stats stats;
  char text[256]; /* of status */
} zero1__record;

/** What became of the step. */
typedef struct zero1__outcome {
  zero1__error error; /* of the step: every rank has the same status */
  double grad_norm, clip_coef;
  double grad_scale; /* that the two were made with: what is set later is of the next step */
  int32_t skip, skip_reason;
  int64_t nonfinite_numel, bad_param;
  int32_t bad_rank;
  int32_t any_absent;  /* some rank has absent gradients */
  int32_t out_of_step; /* the ranks came for different things: they cannot go on together */
} zero1__outcome;

/** Whether the ranks came for the same thing with the same groups. `records`: one per rank, in
 *  order. ZERO1_ERR_MISMATCH, or the status of the lowest rank with one: in outcome->error. */
void zero1__agreed_check(const zero1__record *records, int32_t count, zero1__outcome *outcome);

/** The same over config.agree_comm, whose optimizers have groups and attempts of their own. */
void zero1__agreed_check_wider(const zero1__record *records, int32_t count,
                               zero1__outcome *outcome);

/** Norm, clipping and the verdict to skip from all ranks' stats. */
void zero1__agreed_decide(const zero1__record *records, int32_t count, zero1__outcome *outcome);

/** Of a step that was neither skipped nor clipped. */
void zero1__outcome_clear(zero1__outcome *outcome);

#endif
