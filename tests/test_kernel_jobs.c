// sanitizers: address undefined
/* What each field of a job does, on one parameter of 3 elements ("small"), which needs no random
 * numbers; and the jobs that test_kernels.c leaves out: master and hash. */
#include "kernel_case.h"
#include "reference_adamw.h"

static const zero1__kernels *kernels[3];
static int isa_count;

/* Two fp32 contributions of 3 elements, all 1; parameter 0 of the layout. */
static kernel_case small_case(void) {
  kernel_case c =
      case_create((case_options){1, 2, 2, 10, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 1});
  CHECK_EQ(c.layout.trainable_numel, 3);
  for (int k = 0; k < 2; ++k)
    for (int e = 0; e < 3; ++e) ((float *)(uintptr_t)c.contributions[k])[e] = 1;
  return c;
}

static float *grad(kernel_case *c, int k) {
  return (float *)(uintptr_t)c->contributions[k];
}

static void reduce_small(kernel_case *c) {
  const zero1__reduce_job job = case_reduce_job(c);
  kernels[0]->reduce(&job, c->blocks, &c->stats);
}

/* ---- stats ---- */

static void squares_are_of_the_sums_before_the_factor(void) {
  kernel_case c = small_case();
  const zero1__update_job job = case_update_job(&c); /* grad_factor is 1/2 */
  kernels[0]->update(&job, c.blocks, &c.stats);
  CHECK(zero1__exact_sum_to_double(&c.stats.squares) == 12); /* 3 * (1 + 1)^2 */
  CHECK(c.stats.nonfinite_numel == 0 && c.stats.culprit == ZERO1__CULPRIT_NONE);
  case_destroy(&c);
}

static void the_culprit_is_the_lowest_rank_of_the_lowest_param(void) {
  kernel_case c = small_case();
  grad(&c, 1)[0] = NAN;
  reduce_small(&c);
  CHECK_EQ(zero1__culprit_param(c.stats.culprit), 0);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), 11);
  grad(&c, 0)[2] = INFINITY;
  reduce_small(&c);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), 10);
  CHECK_EQ(c.stats.nonfinite_numel, 1 + 2);                 /* stats are added to */
  CHECK(zero1__exact_sum_to_double(&c.stats.squares) == 0); /* the block is left out */
  case_destroy(&c);
}

static void opposite_infinities_are_two_culprits_not_an_overflow(void) {
  kernel_case c = small_case();
  grad(&c, 0)[1] = INFINITY;
  grad(&c, 1)[1] = -INFINITY;
  reduce_small(&c);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), 10);
  CHECK_EQ(zero1__bits(c.out[1]), 0x7fc00000);
  case_destroy(&c);
}

static void finite_values_whose_sum_overflows_are_told_apart(void) {
  kernel_case c = small_case();
  grad(&c, 0)[1] = grad(&c, 1)[1] = 0x1.fffffep+127f;
  reduce_small(&c);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), ZERO1__CULPRIT_OVERFLOW);
  CHECK_EQ(c.stats.nonfinite_numel, 1);
  CHECK(isinf(c.out[1]));
  grad(&c, 1)[2] = NAN; /* a rank that is to blame comes before an overflow */
  reduce_small(&c);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), 11);
  case_destroy(&c);
}

static void partial_sums_blame_nobody_but_an_overflow(void) {
  kernel_case c = small_case();
  c.options.rank_begin = -1;
  grad(&c, 0)[0] = NAN;
  reduce_small(&c);
  CHECK(c.stats.culprit == ZERO1__CULPRIT_NONE && c.stats.nonfinite_numel == 1);
  grad(&c, 0)[0] = 0x1.fffffep+127f, grad(&c, 1)[0] = 0x1p+127f;
  reduce_small(&c);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), ZERO1__CULPRIT_OVERFLOW);
  case_destroy(&c);
}

static void a_partial_job_notes_culprits_alone(void) {
  kernel_case c = small_case();
  grad(&c, 1)[0] = NAN;
  zero1__reduce_job job = case_reduce_job(&c);
  job.partial = 1;
  kernels[0]->reduce(&job, c.blocks, &c.stats);
  CHECK_EQ(zero1__culprit_rank(c.stats.culprit), 11);
  CHECK(c.stats.nonfinite_numel == 0 && zero1__exact_sum_to_double(&c.stats.squares) == 0);
  CHECK(c.out[1] == 2 && c.out[2] == 2);
  case_destroy(&c);
}

static void a_param_left_out_of_the_norm_is_watched_all_the_same(void) {
  kernel_case c = small_case();
  c.layout.slots[0].flags = ZERO1_PARAM_NOT_IN_NORM;
  reduce_small(&c);
  CHECK(zero1__exact_sum_to_double(&c.stats.squares) == 0 && c.out[0] == 2);
  grad(&c, 0)[0] = NAN;
  reduce_small(&c);
  CHECK(c.stats.nonfinite_numel == 1 && zero1__culprit_rank(c.stats.culprit) == 10);
  case_destroy(&c);
}

/* ---- reduce ---- */

static void out_may_be_any_contribution_or_none(void) {
  const case_options options = {4, 5, 5, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 0, 0};
  kernel_case apart = case_create(options);
  for (int isa = 0; isa < isa_count; ++isa)
    for (int k = -1; k < options.count; ++k) {
      kernel_case c = case_create(options);
      zero1__stats_clear(&apart.stats);
      reduce_small(&apart);
      zero1__reduce_job job = case_reduce_job(&c);
      job.out = k < 0 ? NULL : grad(&c, k);
      kernels[isa]->reduce(&job, c.blocks, &c.stats);
      if (k >= 0) {
        memcpy(c.out, job.out, (size_t)c.numel * 4);
        memcpy(job.out, apart.contributions[k], (size_t)c.numel * 4);
      } else {
        memcpy(c.out, apart.out, (size_t)c.numel * 4);
      }
      CHECK(case_same(&c, &apart));
      case_destroy(&c);
    }
  case_destroy(&apart);
}

/* 1e8 + 1 is 1e8 in fp32, so the order shows: 8 is the spacing of fp32 numbers there. */
static void the_group_size_decides_the_order_of_the_sum(void) {
  const float values[4] = {1e8f, 4, 4, 4};
  const int32_t groups[] = {4, 2, 1};
  const float expected[] = {1e8f, 1e8f + 8, 1e8f}; /* (((a+4)+4)+4), (a+4) + (4+4), as the first */
  for (int i = 0; i < 3; ++i) {
    kernel_case c =
        case_create((case_options){1, 4, groups[i], 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_FP32, 1, 1});
    for (int k = 0; k < 4; ++k) grad(&c, k)[0] = values[k];
    reduce_small(&c);
    CHECK(c.out[0] == expected[i]);
    case_destroy(&c);
  }
}

static void the_sign_of_a_single_zero_is_kept(void) { /* the first contribution starts the sum */
  kernel_case c = small_case();
  c.options.count = c.options.group = 1;
  grad(&c, 0)[0] = -0.0f;
  reduce_small(&c);
  CHECK_EQ(zero1__bits(c.out[0]), 0x80000000);
  case_destroy(&c);
}

/* ---- update ---- */

static void a_skipped_update_reads_and_writes_nothing(void) {
  kernel_case c = small_case(), before = small_case();
  c.verdict.skip = 1;
  zero1__update_job job = case_update_job(&c);
  job.sources.contributions = NULL;
  for (int isa = 0; isa < isa_count; ++isa) kernels[isa]->update(&job, c.blocks, &c.stats);
  CHECK(case_same(&c, &before));
  case_destroy(&c);
  case_destroy(&before);
}

static void an_absent_param_is_left_alone_but_counted(void) {
  kernel_case c = small_case(), before = small_case();
  zero1__update_job job = case_update_job(&c);
  c.absent[0] = before.absent[0] = 1;
  job.stats = NULL;
  kernels[0]->update(&job, c.blocks, NULL);
  CHECK(case_same(&c, &before));
  kernels[0]->update(&job, c.blocks, &c.stats);
  CHECK(memcmp(c.memory, before.memory, c.memory_bytes) == 0);
  CHECK(zero1__exact_sum_to_double(&c.stats.squares) == 12);
  case_destroy(&c);
  case_destroy(&before);
}

static void no_absent_list_means_that_none_is(void) {
  kernel_case c = small_case(), before = small_case();
  zero1__update_job job = case_update_job(&c);
  c.absent[0] = before.absent[0] = 1;
  job.absent = NULL;
  kernels[0]->update(&job, c.blocks, &c.stats);
  CHECK(memcmp(c.memory, before.memory, c.memory_bytes) != 0);
  case_destroy(&c);
  case_destroy(&before);
}

/* Two contributions of bf16, summed and halved, against double; 20 steps of 4,000 elements. The sum
 * of two bf16 values is rounded once, and once more by the factor 1/2: not at all. */
static void twenty_steps_stay_within_the_derived_distance_of_double(void) {
  const zero1_group group = {0, 1e-3, 0.9, 0.999, 1e-8, 0.1, 1, 0};
  kernel_case c = case_create((case_options){5, 2, 2, 0, ZERO1_DTYPE_BF16, ZERO1_DTYPE_BF16, 1, 4});
  memset(c.absent, 0, 4);
  reference_adamw *reference = calloc((size_t)c.numel, sizeof *reference);
  CHECK(reference != NULL);
  for (int64_t e = 0; e < c.numel; ++e)
    reference[e] = (reference_adamw){c.master_param[e], c.exp_avg[e], c.exp_avg_sq[e], 0, 0, 0};
  for (int64_t count = 1; count <= 20; ++count) {
    c.groups[0] = c.groups[1] = zero1__adam_scalars_make(&group, count);
    const zero1__update_job job = case_update_job(&c);
    kernels[count % isa_count]->update(&job, c.blocks, &c.stats);
    zero1__walk walk = zero1__walk_begin(&c.layout, c.blocks);
    for (zero1__segment s; zero1__walk_next(&walk, &s);)
      for (int64_t e = s.block * ZERO1__BLOCK; e < s.block * ZERO1__BLOCK + s.numel; ++e) {
        const double sum = (double)zero1__bf16_to_fp32(((const uint16_t *)c.contributions[0])[e]) +
                           (double)zero1__bf16_to_fp32(((const uint16_t *)c.contributions[1])[e]);
        reference_adamw *x = &reference[e];
        reference_adamw_step(&group, count, 0.5 * sum, 0x1p-24 * fabs(0.5 * sum), x);
        CHECK_CLOSE(c.master_param[e], x->param, 0, x->param_bound);
        CHECK_CLOSE(c.exp_avg[e], x->exp_avg, 0, x->exp_avg_bound);
        CHECK_CLOSE(c.exp_avg_sq[e], x->exp_avg_sq, 0, x->exp_avg_sq_bound);
        CHECK_EQ(((uint16_t *)c.param)[e], zero1__fp32_to_bf16(c.master_param[e]));
      }
  }
  free(reference);
  case_destroy(&c);
}

/* ---- master and hash ---- */

static void masters_follow_the_params_that_changed(void) {
  for (int isa = 0; isa < isa_count; ++isa)
    for (int keep = 0; keep <= 1; ++keep) {
      kernel_case c =
          case_create((case_options){6, 1, 1, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, 1, 0});
      kernel_case before = case_create(c.options);
      uint16_t *param = c.param;
      for (int64_t e = 0; e < c.numel; e += 9) param[e] = (uint16_t)(e * 77); /* NaNs among them */
      case_poison_padding(&c);
      const zero1__master_job job = {&c.layout,        c.blocks,       c.param,
                                     ZERO1_DTYPE_BF16, c.master_param, keep};
      kernels[isa]->master(&job, (zero1__range){0, 100});
      kernels[isa]->master(&job, (zero1__range){100, c.blocks.end});
      zero1__walk walk = zero1__walk_begin(&c.layout, c.blocks);
      for (zero1__segment s; zero1__walk_next(&walk, &s);)
        for (int64_t e = s.block * ZERO1__BLOCK; e < s.block * ZERO1__BLOCK + s.numel; ++e) {
          const float expected = zero1__master_of_bf16(param[e], before.master_param[e], keep);
          CHECK_EQ(zero1__bits(c.master_param[e]), zero1__bits(expected));
          before.master_param[e] = expected;
        }
      memcpy(before.param, c.param, (size_t)c.numel * 2);
      CHECK(case_same(&c, &before)); /* padding, too */
      case_destroy(&c);
      case_destroy(&before);
    }
}

/* 1 + 2^-8 is as far from 1 as from 1 + 2^-7: to the even one, which is 1. */
static void masters_of_rounded_params_keep_what_the_wire_drops(void) {
  for (int isa = 0; isa < isa_count; ++isa) {
    kernel_case c = small_case();
    float param[3] = {1 + 0x1p-8f, 1 + 0x1p-7f, 1 + 0x1p-10f};
    float master[3] = {5, 1 + 0x1p-7f + 0x1p-12f, 3};
    const zero1__master_job job = {&c.layout, c.blocks, param, ZERO1__DTYPE_FP32_AS_BF16,
                                   master,    1};
    kernels[isa]->master(&job, job.blocks);
    CHECK(master[0] == 1 + 0x1p-8f);            /* the caller's, all of it */
    CHECK(master[1] == 1 + 0x1p-7f + 0x1p-12f); /* still rounds to the parameter: kept */
    CHECK(master[2] == 1 + 0x1p-10f);
    const zero1__round_job round = {&c.layout, c.blocks, param};
    kernels[isa]->round_params(&round, round.blocks);
    CHECK(param[0] == 1 && param[1] == 1 + 0x1p-7f && param[2] == 1);
    case_destroy(&c);
  }
}

static void the_hash_is_a_sum_over_elements(void) {
  kernel_case c = case_create((case_options){7, 1, 1, 0, ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, 1, 0});
  for (int isa = 0; isa < isa_count; ++isa) {
    uint64_t ignored = 0, fp32 = 0, bf16 = 0;
    for (int64_t e = 5; e < 1005; ++e) {
      fp32 += zero1__mix((uint64_t)e, zero1__bits(c.master_param[e]));
      bf16 += zero1__mix((uint64_t)e, ((uint16_t *)c.param)[e]);
    }
    const zero1__range all = {5, 1005}, left = {5, 338}, right = {338, 1005};
    const zero1__hash_job of_fp32 = {c.master_param, ZERO1_DTYPE_FP32, all, &ignored};
    const zero1__hash_job of_bf16 = {c.param, ZERO1_DTYPE_BF16, all, &ignored};
    CHECK(kernels[isa]->hash(&of_fp32, all) == fp32);
    CHECK(kernels[isa]->hash(&of_bf16, all) == bf16);
    CHECK(kernels[isa]->hash(&of_fp32, left) + kernels[isa]->hash(&of_fp32, right) == fp32);
  }
  case_destroy(&c);
}

/* ---- picking ---- */

static void an_unknown_instruction_set_is_an_error_that_names_it(void) {
  zero1__error error;
  const zero1__kernels *picked = kernels[0];
  zero1__error_clear(&error);
  CHECK(setenv("ZERO1_ISA", "avx9", 1) == 0);
  CHECK_STATUS(zero1__kernels_pick(&picked, &error), ZERO1_ERR_INVALID);
  CHECK(picked == NULL && strstr(error.text, "avx9") != NULL);
  CHECK(setenv("ZERO1_ISA", "baseline", 1) == 0);
  CHECK_STATUS(zero1__kernels_pick(&picked, NULL), ZERO1_OK);
  CHECK(strcmp(picked->isa, "baseline") == 0);
  CHECK(unsetenv("ZERO1_ISA") == 0);
  CHECK_STATUS(zero1__kernels_pick(&picked, NULL), ZERO1_OK);
  CHECK(picked == kernels[0]); /* the widest */
}

int main(void) {
  isa_count = case_all_kernels(kernels);
  RUN(squares_are_of_the_sums_before_the_factor);
  RUN(the_culprit_is_the_lowest_rank_of_the_lowest_param);
  RUN(opposite_infinities_are_two_culprits_not_an_overflow);
  RUN(finite_values_whose_sum_overflows_are_told_apart);
  RUN(partial_sums_blame_nobody_but_an_overflow);
  RUN(a_partial_job_notes_culprits_alone);
  RUN(a_param_left_out_of_the_norm_is_watched_all_the_same);
  RUN(out_may_be_any_contribution_or_none);
  RUN(the_group_size_decides_the_order_of_the_sum);
  RUN(the_sign_of_a_single_zero_is_kept);
  RUN(a_skipped_update_reads_and_writes_nothing);
  RUN(an_absent_param_is_left_alone_but_counted);
  RUN(no_absent_list_means_that_none_is);
  RUN(twenty_steps_stay_within_the_derived_distance_of_double);
  RUN(masters_follow_the_params_that_changed);
  RUN(masters_of_rounded_params_keep_what_the_wire_drops);
  RUN(the_hash_is_a_sum_over_elements);
  RUN(an_unknown_instruction_set_is_an_error_that_names_it);
  return check_summary();
}
