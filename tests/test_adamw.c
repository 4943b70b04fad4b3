// sanitizers: address undefined
// devices: host standin cuda

/* What training computes, against AdamW in double: within the distance that reference_adamw.h
 * derives for fp32. */
#include "reference_adamw.h"
#include "trainer.h"

static const trainer_param params[] = {
    {300, 0, 0}, {7, 1, 0}, {1, 0, 0}, {20, 0, ZERO1_PARAM_NOT_IN_NORM}};

/* AdamW, and Adam with an L2 penalty. */
static const zero1_group groups[] = {
    {sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0},
    {sizeof(zero1_group), 0.002, 0.8, 0.95, 1e-6, 0.03, 0, 0},
};

static const trainer_case base = {.params = params,
                                  .param_count = 4,
                                  .groups = groups,
                                  .group_count = 2,
                                  .steps = 20,
                                  .guard = 1,
                                  .grad_scale = 0.37,
                                  .max_grad_norm = 100,
                                  .bucket_numel = 256,
                                  .threads = 1,
                                  .overlap = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1};

/* The norm of the made-up gradients. Squares of whole numbers are summed, so that it is exact. */
static double norm_of(const trainer_case *train, int32_t step) {
  double squares = 0;
  for (int32_t i = 0; i < train->param_count; ++i)
    for (int64_t e = 0; e < train->params[i].numel; ++e) {
      const double sum = trainer_sum(step, i, e);
      if (!(train->params[i].flags & ZERO1_PARAM_NOT_IN_NORM)) squares += sum * sum;
    }
  return train->grad_scale * sqrt(squares);
}

/* What gradients are multiplied by, clipped or not. */
static double factor_of(const trainer_case *train, double norm) {
  const double coef = train->max_grad_norm / (norm + 1e-6);
  return coef < 1 ? train->grad_scale * coef : train->grad_scale;
}

static reference_adamw train_reference(const trainer_case *train, int64_t param, int64_t element,
                                       const double *factors) {
  random_state random = {(uint64_t)param + 100}; /* as trainer_begin */
  reference_adamw x = {0};
  for (int64_t e = 0; e <= element; ++e) x.param = random_unit(&random);
  for (int32_t step = 0; step < train->steps; ++step) {
    const double grad = trainer_sum(step, param, element) * factors[step];
    /* the factor is rounded to fp32, and so is the product */
    const double bound = 1.01 * 2 * 0x1p-24 * fabs(grad);
    reference_adamw_step(&groups[train->params[param].group], step + 1, grad, bound, &x);
  }
  return x;
}

static void check_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *train = (const trainer_case *)arg;
  double factors[TRAINER_STEPS];
  trainer_result mine;
  (void)rank;
  trainer_run(comm, train, &mine);
  CHECK(mine.clipped > 0 && mine.clipped < train->steps);
  for (int32_t step = 0; step < train->steps; ++step) {
    const double norm = norm_of(train, step);
    CHECK(mine.grad_norm[step] == norm);
    factors[step] = factor_of(train, norm);
  }
  for (int64_t i = 0; i < train->param_count; ++i) {
    for (int64_t e = 0; e < train->params[i].numel; ++e) {
      const reference_adamw x = train_reference(train, i, e, factors);
      const int64_t at = trainer_offset(train, i) + e;
      if (!mine.owned[at]) continue;
      CHECK_CLOSE(random_from_bits(mine.master_param[at]), x.param, 0, x.param_bound);
      CHECK_CLOSE(random_from_bits(mine.exp_avg[at]), x.exp_avg, 0, x.exp_avg_bound);
      CHECK_CLOSE(random_from_bits(mine.exp_avg_sq[at]), x.exp_avg_sq, 0, x.exp_avg_sq_bound);
      CHECK(x.param_bound < 1e-5 * (1 + fabs(x.param))); /* or the test would say little */
    }
  }
  trainer_result_free(&mine);
}

static void twenty_steps_agree_with_adamw_in_double(void) {
  trainer_case train = base;
  check_threads(1, NULL, check_rank, &train);
  check_threads(3, NULL, check_rank, &train);
}

static void so_they_do_from_bf16_gradients(void) {
  trainer_case train = base;
  train.grad_dtype = ZERO1_DTYPE_BF16;
  check_threads(2, NULL, check_rank, &train);
}

/* A bf16 parameter is its master, rounded to the nearest, of two to the even one. */
static void round_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case *train = (const trainer_case *)arg;
  trainer_result mine;
  int64_t rounded = 0;
  (void)rank;
  trainer_run(comm, train, &mine);
  for (int64_t e = 0; e < mine.numel; ++e) {
    if (!mine.owned[e]) continue;
    const uint32_t master = mine.master_param[e], below = master & 0xffff0000u;
    const uint32_t rest = master & 0xffffu;
    const int up = rest > 0x8000u || (rest == 0x8000u && (below & 0x10000u));
    CHECK_EQ(mine.params[e], up ? below + 0x10000u : below);
    rounded += rest != 0;
  }
  CHECK(rounded > 0);
  trainer_result_free(&mine);
}

static void bf16_parameters_are_their_masters_rounded_to_nearest(void) {
  trainer_case train = base;
  train.param_dtype = ZERO1_DTYPE_BF16;
  train.bucket_numel = 1;
  check_threads(2, NULL, round_rank, &train);
}

int main(void) {
  device_skip_without();
  RUN(twenty_steps_agree_with_adamw_in_double);
  RUN(so_they_do_from_bf16_gradients);
  RUN(bf16_parameters_are_their_masters_rounded_to_nearest);
  return check_summary();
}
