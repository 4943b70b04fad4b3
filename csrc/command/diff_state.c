#include "diff_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "progress.h"
#include "safetensors.h"
#include "table.h"

#define PIECE_NUMEL ((int64_t)1 << 20) /* 4 MiB of each */

/* A parameter that both have. */
typedef struct shared_param {
  const char *name;
  int64_t index[2];
  int64_t numel;
  int frozen; /* in one of them: it has no moments to compare */
} shared_param;

typedef struct comparison {
  const diff_pair *pair;
  float *values[2]; /* [PIECE_NUMEL] */
  table rows;
  progress bar;
  uint64_t done, total; /* elements */
  int64_t states, differing;
  zero1_status status; /* of the read that failed */
  int failed_side;
} comparison;

/* Elements that differ in their bits; *largest: by how much at most, NaN where one is none. */
static int64_t count_differing(const float *a, const float *b, int64_t numel, double *largest) {
  int64_t count = 0;
  for (int64_t i = 0; i < numel; ++i) {
    if (!memcmp(&a[i], &b[i], sizeof *a)) continue;
    const double distance = fabs((double)a[i] - (double)b[i]);
    ++count;
    if (isnan(distance) || distance > *largest) *largest = distance;
  }
  return count;
}

static zero1_status compare_state(comparison *self, const shared_param *param, int32_t state,
                                  int32_t rank) {
  int64_t differing = 0;
  double largest = 0;
  for (int64_t begin = 0; begin < param->numel; begin += PIECE_NUMEL) {
    const int64_t left = param->numel - begin;
    const int64_t end = begin + (left < PIECE_NUMEL ? left : PIECE_NUMEL);
    for (int side = 0; side < 2; ++side) {
      self->status = zero1_checkpoint_read(self->pair->side[side], param->index[side], state, rank,
                                           begin, end, ZERO1_DTYPE_FP32, self->values[side]);
      self->failed_side = side;
      if (self->status) return self->status;
    }
    differing += count_differing(self->values[0], self->values[1], end - begin, &largest);
    self->done += (uint64_t)(end - begin);
    progress_show(&self->bar, 8 * self->done, 8 * self->total);
  }
  ++self->states;
  if (!differing) return ZERO1_OK;
  ++self->differing;
  table_add(&self->rows, "%s", param->name);
  if (state == ZERO1_STATE_RESIDUAL)
    table_add(&self->rows, "%s of rank %d", zero1__state_name(state), (int)rank);
  else
    table_add(&self->rows, "%s", zero1__state_name(param->frozen ? ZERO1_STATE_PARAM : state));
  table_add(&self->rows, "%lld", (long long)differing);
  table_add(&self->rows, "%lld", (long long)param->numel);
  table_add(&self->rows, "%.3g", largest);
  return ZERO1_OK;
}

/* Ranks whose residuals are compared. */
static int32_t residual_ranks(const diff_pair *pair) {
  const zero1_checkpoint_info *const a = &pair->info[0], *const b = &pair->info[1];
  return a->has_residual && b->has_residual && a->world_size == b->world_size ? a->world_size : 0;
}

static zero1_status compare_param(comparison *self, const shared_param *param) {
  zero1_status status = compare_state(self, param, ZERO1_STATE_MASTER_PARAM, 0);
  if (param->frozen) return status;
  if (!status) status = compare_state(self, param, ZERO1_STATE_EXP_AVG, 0);
  if (!status) status = compare_state(self, param, ZERO1_STATE_EXP_AVG_SQ, 0);
  for (int32_t rank = 0; rank < residual_ranks(self->pair) && !status; ++rank)
    status = compare_state(self, param, ZERO1_STATE_RESIDUAL, rank);
  return status;
}

/* Whether parameter i of A is one of B, in the same shape. */
static int find_shared(const diff_pair *pair, int64_t i, shared_param *param) {
  zero1_param_spec a, b;
  param->index[0] = i;
  if (zero1_checkpoint_param(pair->side[0], i, &a, sizeof a) ||
      zero1_checkpoint_find(pair->side[1], a.name, &param->index[1]) ||
      zero1_checkpoint_param(pair->side[1], param->index[1], &b, sizeof b) ||
      !command_same_shape(&a, &b))
    return 0;
  param->name = a.name;
  param->numel = command_numel(&a);
  param->frozen = ((a.flags | b.flags) & ZERO1_PARAM_FROZEN) != 0;
  return 1;
}

static zero1_status compare_params(comparison *self) {
  const int64_t count = self->pair->info[0].param_count;
  const uint64_t states = 3 + (uint64_t)residual_ranks(self->pair);
  shared_param param;
  for (int64_t i = 0; i < count; ++i)
    if (find_shared(self->pair, i, &param))
      self->total += (uint64_t)param.numel * (param.frozen ? 1 : states);
  zero1_status status = ZERO1_OK;
  for (int64_t i = 0; i < count && !status; ++i)
    if (find_shared(self->pair, i, &param)) status = compare_param(self, &param);
  return status;
}

static int report(const comparison *self) {
  int code = self->differing ? COMMAND_DIFFERS : COMMAND_FINE;
  if (self->differing) {
    if (table_print(&self->rows, "", stdout)) code = COMMAND_FAILED;
    printf("\n%lld of %lld states differ\n", (long long)self->differing, (long long)self->states);
  }
  if (self->status)
    code = command_fail(self->status,
                        zero1_checkpoint_last_error(self->pair->side[self->failed_side]));
  return code;
}

int diff_state(const diff_pair *pair) {
  static const char *const titles[] = {"PARAMETER", "STATE", "DIFFER", "OF", "LARGEST"};
  comparison self = {.pair = pair};
  int code;
  table_begin(&self.rows, 5, 0x1c);
  for (int i = 0; i < 5; ++i) table_add(&self.rows, "%s", titles[i]);
  for (int side = 0; side < 2; ++side)
    self.values[side] = malloc((size_t)PIECE_NUMEL * sizeof(float));
  if (self.values[0] && self.values[1]) {
    progress_begin(&self.bar);
    compare_params(&self);
    progress_end(&self.bar);
    code = report(&self);
  } else {
    code = command_fail(ZERO1_ERR_MEMORY, "");
  }
  free(self.values[0]);
  free(self.values[1]);
  table_end(&self.rows);
  return code;
}
