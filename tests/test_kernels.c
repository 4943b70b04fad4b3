// sanitizers: address undefined
/* Every instruction set against the specification, which is written here element by element. */
#include "kernel_case.h"

#if defined(__x86_64__)
  #include <immintrin.h>
#endif

/* ---- the specification ---- */

/* To nearest even, in double: ties are exact there, and bf16's subnormals are 2^-133 apart. */
static float spec_round(float value) {
  int exponent;
  if (isnan(value)) return zero1__from_bits(0x7fc00000u);
  if (isinf(value) || value == 0) return value;
  frexp((double)value, &exponent);
  const double apart = ldexp(1.0, (exponent < -125 ? -125 : exponent) - 8);
  const double rounded = rint((double)value / apart) * apart;
  return fabs(rounded) > 0x1.fep+127 ? copysignf(INFINITY, value)
                                     : copysignf((float)rounded, value);
}

static float spec_grad(const kernel_case *c, int32_t k, int64_t e) {
  if (c->options.grad_dtype == ZERO1_DTYPE_FP32) return ((const float *)c->contributions[k])[e];
  if (c->options.grad_dtype == ZERO1__DTYPE_FP32_AS_BF16)
    return spec_round(((const float *)c->contributions[k])[e]);
  return zero1__bf16_to_fp32(((const uint16_t *)c->contributions[k])[e]);
}

/* Inside groups in rank order, then across groups; nothing is added to 0. */
static float spec_sum(const kernel_case *c, int64_t e) {
  float total = 0;
  for (int32_t first = 0; first < c->options.count; first += c->options.group) {
    float sum = spec_grad(c, first, e);
    for (int32_t k = first + 1; k < first + c->options.group; ++k) sum += spec_grad(c, k, e);
    if (case_rounds_groups(&c->options) && c->options.group < c->options.count)
      sum = spec_round(sum);
    total = first == 0 ? sum : total + sum;
  }
  return total;
}

/* Folds 256 squares in half until one is left. */
static double spec_squares(const float *value, int64_t numel) {
  double q[ZERO1__BLOCK] = {0};
  for (int64_t e = 0; e < numel; ++e) q[e] = (double)value[e] * (double)value[e];
  for (int half = ZERO1__BLOCK / 2; half > 0; half /= 2)
    for (int e = 0; e < half; ++e) q[e] += q[e + half];
  return q[0];
}

static uint64_t spec_culprit(const kernel_case *c, int64_t param, int64_t e) {
  for (int32_t k = 0; k < c->options.count; ++k)
    if (!isfinite(spec_grad(c, k, e))) {
      if (c->options.rank_begin < 0) return ZERO1__CULPRIT_NONE;
      return zero1__culprit_key(param, (uint32_t)(c->options.rank_begin + k));
    }
  return zero1__culprit_key(param, ZERO1__CULPRIT_OVERFLOW);
}

static void spec_note(kernel_case *c, const zero1__slot *slot, int64_t at, const float *sum,
                      int64_t numel) {
  int64_t bad = 0;
  for (int64_t e = 0; e < numel; ++e) {
    if (isfinite(sum[e])) continue;
    ++bad;
    const uint64_t culprit = spec_culprit(c, slot->param, at + e);
    if (culprit < c->stats.culprit) c->stats.culprit = culprit;
  }
  c->stats.nonfinite_numel += bad;
  if (!bad && !(slot->flags & ZERO1_PARAM_NOT_IN_NORM))
    zero1__exact_sum_add(&c->stats.squares, spec_squares(sum, numel));
}

static void spec_update(kernel_case *c, const zero1__slot *slot, int64_t e, float sum) {
  const zero1__adam_element old = {c->master_param[e], c->exp_avg[e], c->exp_avg_sq[e]};
  const zero1__adam_element next =
      zero1__adam(old, sum * c->verdict.grad_factor, c->groups[slot->group]);
  c->master_param[e] = next.master_param;
  c->exp_avg[e] = next.exp_avg;
  c->exp_avg_sq[e] = next.exp_avg_sq;
  if (c->options.param_dtype == ZERO1_DTYPE_BF16)
    ((uint16_t *)c->param)[e] = zero1__fp32_to_bf16(next.master_param);
  if (c->options.param_dtype == ZERO1__DTYPE_FP32_AS_BF16)
    ((float *)c->param)[e] = spec_round(next.master_param);
}

/* Reduce into out, and update, of all blocks. */
static void spec_run(kernel_case *c, int reduce, int update) {
  for (int64_t s = 0; s < c->layout.slot_count; ++s) {
    const zero1__slot *slot = &c->layout.slots[s];
    for (int64_t done = 0; done < slot->numel; done += ZERO1__BLOCK) {
      const int64_t at = slot->block_begin * ZERO1__BLOCK + done;
      const int64_t numel = slot->numel - done < ZERO1__BLOCK ? slot->numel - done : ZERO1__BLOCK;
      float sum[ZERO1__BLOCK];
      for (int64_t e = 0; e < numel; ++e) sum[e] = spec_sum(c, at + e);
      spec_note(c, slot, at, sum, numel);
      for (int64_t e = 0; e < numel; ++e) {
        if (reduce) c->out[at + e] = zero1__one_nan(sum[e]);
        if (update && !c->absent[s]) spec_update(c, slot, at + e, sum[e]);
      }
    }
  }
}

/* ---- every combination ---- */

static const case_options COMBINATIONS[] = {
    /* seed, count, group, rank_begin, gradients, params, tame, params */
    {1, 1, 1, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 0, 0},
    {2, 2, 2, 3, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 0, 0},
    {3, 3, 3, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, 0, 0},
    {4, 4, 2, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 0, 0},
    {5, 5, 5, -1, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 0, 0},
    {6, 6, 3, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_FP32, 0, 0},
    {7, 7, 1, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 0, 0},
    {8, 8, 4, 100, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, 0, 0},
    {9, 8, 2, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 0, 0},
    {10, 1, 1, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 0, 0},
    {11, 2, 2, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 0},
    {12, 2, 1, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 1, 0},
    {13, 1, 1, -1, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, 1, 0},
    {14, 1, 1, 0, ZERO1__DTYPE_FP32_AS_BF16, ZERO1__DTYPE_FP32_AS_BF16, 0, 0},
    {15, 2, 2, 3, ZERO1__DTYPE_FP32_AS_BF16, ZERO1_DTYPE_FP32, 0, 0},
    {16, 4, 2, 0, ZERO1__DTYPE_FP32_AS_BF16, ZERO1__DTYPE_FP32_AS_BF16, 0, 0},
    {17, 6, 3, -1, ZERO1__DTYPE_FP32_AS_BF16, ZERO1_DTYPE_BF16, 0, 0},
    {18, 5, 1, 0, ZERO1__DTYPE_FP32_AS_BF16, ZERO1__DTYPE_FP32_AS_BF16, 1, 0},
    {19, 6, 2, 0, ZERO1_DTYPE_BF16, ZERO1__DTYPE_FP32_AS_BF16, 0, 0},
};
#define COMBINATION_COUNT (int)(sizeof COMBINATIONS / sizeof *COMBINATIONS)

typedef void (*run_fn)(const zero1__kernels *kernels, kernel_case *c);

static void run_reduce(const zero1__kernels *kernels, kernel_case *c) {
  const zero1__reduce_job job = case_reduce_job(c);
  kernels->reduce(&job, c->blocks, &c->stats);
}

static void run_update(const zero1__kernels *kernels, kernel_case *c) {
  const zero1__update_job job = case_update_job(c);
  kernels->update(&job, c->blocks, &c->stats);
}

static void each_isa_is_the_specification(run_fn run, int reduce, int update) {
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  for (int i = 0; i < COMBINATION_COUNT; ++i) {
    kernel_case expected = case_create(COMBINATIONS[i]);
    spec_run(&expected, reduce, update);
    for (int isa = 0; isa < isa_count; ++isa) {
      kernel_case c = case_create(COMBINATIONS[i]);
      run(kernels[isa], &c);
      CHECK(case_same(&c, &expected));
      case_destroy(&c);
    }
    case_destroy(&expected);
  }
}

static void reduce_is_the_specification_to_the_bit(void) {
  each_isa_is_the_specification(run_reduce, 1, 0);
}

static void update_is_the_specification_to_the_bit(void) {
  each_isa_is_the_specification(run_update, 0, 1);
}

/* What the comparisons above rest on. */
static void one_bit_in_one_gradient_is_noticed(void) {
  const zero1__kernels *kernels[3];
  case_all_kernels(kernels);
  kernel_case a = case_create(COMBINATIONS[10]), b = case_create(COMBINATIONS[10]);
  float *grad = (float *)(uintptr_t)b.contributions[1];
  const float before = grad[300 * ZERO1__BLOCK / 2];
  grad[300 * ZERO1__BLOCK / 2] = zero1__from_bits(zero1__bits(before) ^ 0x400000);
  run_update(kernels[0], &a);
  run_update(kernels[0], &b);
  memcpy(b.memory, a.memory, a.grads_bytes); /* the difference that was put in */
  CHECK(!case_same(&a, &b));
  CHECK(memcmp(&a.stats.squares, &b.stats.squares, sizeof a.stats.squares) != 0);
  case_destroy(&a);
  case_destroy(&b);
}

/* ---- how a job is cut ---- */

static void any_split_into_ranges_gives_the_same_bytes(void) {
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  random_state random = {1};
  for (int round = 0; round < 12; ++round) {
    const case_options options = COMBINATIONS[round % COMBINATION_COUNT];
    kernel_case whole = case_create(options), split = case_create(options);
    run_update(kernels[0], &whole);
    const zero1__update_job job = case_update_job(&split);
    for (int64_t begin = 0; begin < split.blocks.end;) {
      int64_t end = begin + (int64_t)(random_bits(&random) % 40); /* empty ones, too */
      if (end > split.blocks.end) end = split.blocks.end;
      zero1__stats part;
      zero1__stats_clear(&part);
      kernels[round % isa_count]->update(&job, (zero1__range){begin, end}, &part);
      zero1__stats_merge(&split.stats, &part);
      begin = end;
    }
    CHECK(case_same(&whole, &split));
    case_destroy(&whole);
    case_destroy(&split);
  }
}

/* A job whose arrays start with its first block, in the middle of the layout and of a parameter. */
static void a_job_may_begin_at_any_block(void) {
  const zero1__kernels *kernels[3];
  case_all_kernels(kernels);
  kernel_case whole = case_create(COMBINATIONS[1]), part = case_create(COMBINATIONS[1]);
  const int64_t begin = 3, at = begin * ZERO1__BLOCK; /* block 3 of the 2000 elements */
  zero1__reduce_job job = case_reduce_job(&part);
  for (int k = 0; k < 2; ++k) part.contributions[k] = (const float *)part.contributions[k] + at;
  job.out += at;
  job.blocks.begin = begin;
  kernels[0]->reduce(&job, job.blocks, &part.stats);
  run_reduce(kernels[0], &whole);
  CHECK(memcmp(whole.out + at, part.out + at, (size_t)(whole.numel - at) * 4) == 0);
  CHECK(part.out[0] == -1 && part.out[at - 1] == -1);
  case_destroy(&whole);
  case_destroy(&part);
}

/* ---- the thread's floating-point mode ---- */

static void the_callers_rounding_and_flushing_change_nothing_and_come_back(void) {
#if defined(__x86_64__)
  const zero1__kernels *kernels[3];
  const int isa_count = case_all_kernels(kernels);
  for (int isa = 0; isa < isa_count; ++isa) {
    kernel_case plain = case_create(COMBINATIONS[2]), odd = case_create(COMBINATIONS[2]);
    run_update(kernels[isa], &plain);
    run_reduce(kernels[isa], &plain);
    const unsigned before = _mm_getcsr();
    const unsigned flush_and_round_up = (before & ~0x3fu) | 0x8040 | 0x4000;
    _mm_setcsr(flush_and_round_up);
    run_update(kernels[isa], &odd);
    run_reduce(kernels[isa], &odd);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK_EQ(after, flush_and_round_up);
    CHECK(case_same(&plain, &odd));
    case_destroy(&plain);
    case_destroy(&odd);
  }
#endif
}

int main(void) {
  RUN(reduce_is_the_specification_to_the_bit);
  RUN(update_is_the_specification_to_the_bit);
  RUN(one_bit_in_one_gradient_is_noticed);
  RUN(any_split_into_ranges_gives_the_same_bytes);
  RUN(a_job_may_begin_at_any_block);
  RUN(the_callers_rounding_and_flushing_change_nothing_and_come_back);
  return check_summary();
}
