/* Gradients that travel in 8 bits, as zero1.h defines them, written in plain loops: codes,
 * residuals and sums; and a training whose every bit is held against them. */
#ifndef ZERO1_TESTS_INT8_CASE_H
#define ZERO1_TESTS_INT8_CASE_H

#include "trainer.h"

enum { RANKS_MAX = 4, PARAMS = 4, NUMEL_MAX = 700, STEPS = 6, BLOCK = 256 };

static const trainer_param int8_params[PARAMS] = {
    {700, 0, 0}, {5, 0, 0}, {30, 0, ZERO1_PARAM_FROZEN}, {256, 0, 0}};
static const zero1_group int8_groups[] = {{sizeof(zero1_group), 0.01, 0.5, 0.5, 1e-8, 0, 1, 0}};

static const trainer_case int8_base = {.params = int8_params,
                                       .param_count = PARAMS,
                                       .groups = int8_groups,
                                       .group_count = 1,
                                       .grad_wire = ZERO1_WIRE_INT8,
                                       .steps = STEPS,
                                       .guard = 1,
                                       .grad_scale = 1,
                                       .bucket_numel = 600,
                                       .threads = 1,
                                       .share_params = 1,
                                       .overlap = 1,
                                       .order = TRAINER_BACKWARD,
                                       .microbatches = 1,
                                       .on_host = 1};

typedef float tensors[PARAMS][NUMEL_MAX];

/* What has to be there after each step. */
typedef struct model {
  tensors residual[STEPS][RANKS_MAX], exp_avg[STEPS];
  double squares[STEPS]; /* of the sums */
  int32_t clamped, lost; /* codes of 127, and elements that a step left something of */
} model;

typedef struct int8_case {
  trainer_case train;
  int32_t world_size, ranks_per_node;
  int32_t group;    /* in effect */
  int32_t nan_step; /* rank 1 has a NaN in it; -1: none */
  model *expected;
} int8_case;

/* ---- the definition ---- */

static inline float int8_rounded(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Blocks of all zeros and blocks of subnormal scales among them. */
static inline float int8_grad_of(int32_t rank, int32_t step, int64_t param, int64_t element) {
  const uint64_t key = ((uint64_t)rank << 48) + ((uint64_t)step << 40) + ((uint64_t)param << 32);
  random_state random = {key + (uint64_t)element},
               block = {key + (uint64_t)(element / BLOCK) + 7777};
  const uint64_t kind = random_bits(&block) % 8;
  const int32_t whole = trainer_whole(random_bits(&random), 127); /* bf16 holds it */
  return kind ? ldexpf((float)whole, kind == 1 ? -133 : (int)kind - 10) : 0;
}

static inline int int8_is_present(const int8_case *what, int32_t rank, int32_t step,
                                  int64_t param) {
  const int absence = trainer_absence(&what->train, step, param);
  return absence == TRAINER_PRESENT ||
         (absence == TRAINER_ON_LAST_RANK && rank + 1 == what->world_size);
}

/* One block: what its codes stand for, and what they leave. */
static inline void int8_code_block(const float *value, int64_t numel, model *m, float *stands_for,
                                   float *left) {
  float most = 0;
  for (int64_t e = 0; e < numel; ++e) most = fmaxf(most, fabsf(value[e]));
  const float scale = most / 127;
  for (int64_t e = 0; e < numel; ++e) {
    const float code = scale > 0 ? fmaxf(-127, fminf(127, rintf(value[e] / scale))) : 0;
    stands_for[e] = code * scale;
    left[e] = value[e] - stands_for[e];
    m->clamped += fabsf(code) == 127;
    m->lost += left[e] != 0;
  }
}

static inline void int8_model_step(const int8_case *what, int32_t step) {
  static tensors coded[RANKS_MAX];
  model *m = what->expected;
  const int skipped = step == what->nan_step;
  memset(coded, 0, sizeof coded);
  for (int32_t rank = 0; rank < what->world_size; ++rank) {
    const tensors *before = step ? &m->residual[step - 1][rank] : NULL;
    tensors *after = &m->residual[step][rank];
    if (before) memcpy(after, before, sizeof *after);
    for (int64_t p = 0; p < PARAMS; ++p) {
      if (skipped || (int8_params[p].flags & ZERO1_PARAM_FROZEN) ||
          !int8_is_present(what, rank, step, p))
        continue;
      for (int64_t begin = 0; begin < int8_params[p].numel; begin += BLOCK) {
        const int64_t left = int8_params[p].numel - begin, numel = left < BLOCK ? left : BLOCK;
        float value[BLOCK];
        for (int64_t e = 0; e < numel; ++e)
          value[e] =
              int8_grad_of(rank, step, p, begin + e) + (before ? (*before)[p][begin + e] : 0);
        int8_code_block(value, numel, m, &coded[rank][p][begin], &(*after)[p][begin]);
      }
    }
  }
  for (int64_t p = 0; p < PARAMS; ++p)
    for (int64_t e = 0; e < int8_params[p].numel; ++e) {
      float sum = 0;
      for (int32_t first = 0; first < what->world_size; first += what->group) {
        float part = coded[first][p][e];
        for (int32_t k = first + 1; k < first + what->group; ++k) part += coded[k][p][e];
        if (what->group < what->world_size) part = int8_rounded(part);
        sum = first ? sum + part : part;
      }
      const float old = step ? m->exp_avg[step - 1][p][e] : 0;
      const int absent = trainer_absence(&what->train, step, p) == TRAINER_ABSENT;
      m->exp_avg[step][p][e] = skipped || absent ? old : old + (sum - old) * 0.5f;
      m->squares[step] += (double)sum * (double)sum;
    }
}

/* ---- the library ---- */

static inline void int8_write_grad(trainer *self, int64_t param, void *grad) {
  const int8_case *what = (const int8_case *)((void **)self->context)[0];
  const int32_t step = *(const int32_t *)((void **)self->context)[1];
  for (int64_t e = 0; e < int8_params[param].numel; ++e)
    trainer_store(grad, self->what->grad_dtype, e, int8_grad_of(self->rank, step, param, e));
  if (step == what->nan_step && self->rank == 1 && param == 3)
    trainer_store(grad, self->what->grad_dtype, 17, NAN);
}

static inline void int8_check_residuals(trainer *self, const tensors *expected) {
  for (int64_t p = 0; p < PARAMS; ++p) {
    float *residual;
    CHECK_STATUS(zero1_optimizer_residual(self->optimizer, p, &residual), ZERO1_OK);
    CHECK_EQ(residual == NULL, (int8_params[p].flags & ZERO1_PARAM_FROZEN) != 0);
    if (residual)
      CHECK(!memcmp(residual, (*expected)[p], (size_t)int8_params[p].numel * sizeof *residual));
  }
}

static inline void int8_check_state(trainer *self, const tensors *expected) {
  int64_t count;
  CHECK_STATUS(zero1_optimizer_owned_count(self->optimizer, &count), ZERO1_OK);
  for (int64_t i = 0; i < count; ++i) {
    zero1_owned owned;
    CHECK_STATUS(zero1_optimizer_owned(self->optimizer, i, 1, &owned, sizeof owned), ZERO1_OK);
    CHECK(!memcmp(owned.exp_avg, &(*expected)[owned.param][owned.begin],
                  (size_t)(owned.end - owned.begin) * sizeof *owned.exp_avg));
  }
}

static inline void int8_train_rank(int32_t rank, zero1_comm *comm, void *arg) {
  int8_case *const what = (int8_case *)arg;
  int32_t step = 0;
  void *context[] = {arg, &step};
  trainer self;
  trainer_begin(&self, &what->train, comm);
  self.spoil = int8_write_grad;
  self.context = context;
  for (; step < STEPS; ++step) {
    const int skipped = step == what->nan_step;
    zero1_info info;
    trainer_set_lr(&self, step);
    trainer_backward(&self, step);
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
    trainer_forward(&self);
    info = trainer_info(&self);
    CHECK_EQ(info.skipped, skipped);
    CHECK_EQ(info.bad_rank, skipped ? 1 : -1);
    CHECK_EQ(info.bad_param, skipped ? 3 : -1);
    CHECK_EQ(info.nonfinite_numel, skipped ? 256 : 0); /* of the block, all */
    int8_check_residuals(&self, &what->expected->residual[step][rank]);
    int8_check_state(&self, &what->expected->exp_avg[step]);
    if (!skipped) /* exact sums here and there, in another order of roundings */
      CHECK_CLOSE(info.grad_norm, sqrt(what->expected->squares[step]), 1e-12, 0);
  }
  trainer_end(&self);
}

/* Fills in what a case has to come to; `expected` is zeroed and kept by the caller. */
static inline void int8_expect(int8_case *what, model *expected) {
  memset(expected, 0, sizeof *expected);
  what->expected = expected;
  if (!what->group) what->group = what->world_size;
  for (int32_t step = 0; step < STEPS; ++step) int8_model_step(what, step);
  CHECK(expected->lost > 500 && expected->clamped > 8);
}

/* Case `i` of 6: each cuts the work in another way. */
static inline int8_case int8_case_of(int32_t i, int32_t world_size, int32_t ranks_per_node,
                                     int32_t reduce_group, int32_t group) {
  static const int64_t buckets[] = {600, 1, (int64_t)1 << 40};
  int8_case what = {.train = int8_base,
                    .world_size = world_size,
                    .ranks_per_node = ranks_per_node,
                    .group = group,
                    .nan_step = i > 0 && i < 3 && world_size > 1 ? 3 : -1};
  what.train.grad_dtype = i % 2;
  what.train.bucket_numel = buckets[i % 3];
  what.train.threads = 1 + i / 3;
  what.train.overlap = i % 4 > 0;
  what.train.share_params = i % 2;
  what.train.absences = i > 2;
  what.train.order = i % 3;
  what.train.reduce_group = reduce_group;
  return what;
}

#endif
