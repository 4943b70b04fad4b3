// sanitizers: address undefined
/* The arithmetic of one element. */
#include "rules.h"

#include "check.h"
#include "random.h"
#include "reference_adamw.h"

/* ---- bf16 ---- */

static int is_nan16(uint32_t bits) {
  return (bits & 0x7fff) > 0x7f80;
}

static void every_bf16_comes_back_and_every_nan_is_the_one_nan(void) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = zero1__bf16_to_fp32((uint16_t)bits);
    CHECK_EQ(zero1__bits(value), bits << 16);
    CHECK_EQ(zero1__fp32_to_bf16(value), is_nan16(bits) ? 0x7fc0 : bits);
  }
}

/* Between the neighbours h and h + 1 (as bits), of either sign: subnormal ones, the step to
 * infinity (0x7f7f, 0x7f80), all of them. */
static void what_lies_between_goes_to_the_nearest_and_half_way_to_the_even(void) {
  for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000)
    for (uint32_t low = sign; low < sign + 0x7f80; ++low) {
      const uint32_t middle = low << 16 | 0x8000;
      const uint32_t even = low + (low & 1);
      CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(middle - 0x7fff)), low);
      CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(middle - 1)), low);
      CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(middle)), even);
      CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(middle + 1)), low + 1);
      CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(middle + 0x7fff)), low + 1);
    }
}

static void a_nan_whose_upper_bits_are_those_of_infinity_stays_nan(void) {
  CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(0x7f800001)), 0x7fc0);
  CHECK_EQ(zero1__fp32_to_bf16(zero1__from_bits(0xffffffff)), 0x7fc0);
}

/* ---- NaN and Inf ---- */

static void one_nan_changes_nothing_but_nans(void) {
  const uint32_t kept[] = {0,          0x80000000, 1,          0x807fffff,
                           0x3f800000, 0x7f7fffff, 0x7f800000, 0xff800000};
  for (int i = 0; i < 8; ++i)
    CHECK_EQ(zero1__bits(zero1__one_nan(zero1__from_bits(kept[i]))), kept[i]);
  const uint32_t nans[] = {0x7f800001, 0x7fffffff, 0xff800001, 0xffc00000, 0xffffffff};
  for (int i = 0; i < 5; ++i)
    CHECK_EQ(zero1__bits(zero1__one_nan(zero1__from_bits(nans[i]))), 0x7fc00000);
}

static void finite_is_neither_nan_nor_infinite(void) {
  CHECK(zero1__is_finite(0.0f) && zero1__is_finite(-0x1p-149f));
  CHECK(zero1__is_finite(0x1.fffffep+127f) && zero1__is_finite(-0x1.fffffep+127f));
  CHECK(!zero1__is_finite(INFINITY) && !zero1__is_finite(-INFINITY));
  CHECK(!zero1__is_finite(zero1__from_bits(0x7f800001)) && !zero1__is_finite(-NAN));
}

static void a_square_is_exact(void) {
  CHECK(zero1__square(0x1p-149f) == 0x1p-298);
  CHECK(zero1__square(-0x1.fffffep+127f) == 0x1.fffffcp+255 + 0x1p+208);
}

/* ---- AdamW ---- */

/* Numbers that fp32 holds: lr 1/2, beta1 1/2, beta2 3/4, no eps. First step: 1 - beta1^t = 1/2,
 * 1 / sqrt(1 - beta2^t) = 2, step_size = 1. */
static zero1_group small_group(double weight_decay, int32_t decoupled) {
  return (zero1_group){.size = sizeof(zero1_group),
                       .lr = 0.5,
                       .beta1 = 0.5,
                       .beta2 = 0.75,
                       .eps = 0,
                       .weight_decay = weight_decay,
                       .decoupled_weight_decay = decoupled};
}

static zero1__adam_element first_step(float param, float grad, zero1_group group) {
  const zero1__adam_element old = {param, 0, 0};
  return zero1__adam(old, grad, zero1__adam_scalars_make(&group, 1));
}

static void the_first_step_by_hand(void) {
  const zero1__adam_element x = first_step(1, 2, small_group(0, 1));
  CHECK(x.exp_avg == 1);            /* 0 + (2 - 0) / 2 */
  CHECK(x.exp_avg_sq == 1);         /* 0 * 3/4 + 1/4 * 4 */
  CHECK(x.master_param == 1 - 0.5); /* 1 - 1 * (1 / (sqrt(1) * 2)) */
}

static void decoupled_decay_shrinks_the_param_before_it_moves(void) {
  const zero1__adam_element x = first_step(1, 2, small_group(0.5, 1));
  CHECK(x.exp_avg == 1 && x.exp_avg_sq == 1);
  CHECK(x.master_param == 0.75 - 0.5);
}

static void l2_goes_through_the_gradient(void) {
  const zero1__adam_element x = first_step(1, 2, small_group(0.5, 0)); /* g = 2 + 1/2 */
  CHECK(x.exp_avg == 1.25 && x.exp_avg_sq == 1.5625f);
  CHECK(x.master_param == 1 - 0.5); /* 1.25 / (1.25 * 2) */
}

static void without_l2_an_infinite_param_does_not_reach_the_moments(void) {
  const zero1__adam_element x = first_step(INFINITY, 2, small_group(0, 0));
  CHECK(x.exp_avg == 1 && x.exp_avg_sq == 1 && isinf(x.master_param));
}

static void nan_is_stored_in_one_form(void) {
  const zero1__adam_element x = first_step(1, -NAN, small_group(0, 1));
  CHECK_EQ(zero1__bits(x.master_param), 0x7fc00000);
  CHECK_EQ(zero1__bits(x.exp_avg), 0x7fc00000);
  CHECK_EQ(zero1__bits(x.exp_avg_sq), 0x7fc00000);
  const zero1__adam_element y = first_step(1, 0, small_group(0, 1)); /* 0 / (0 + eps of 0) */
  CHECK_EQ(zero1__bits(y.master_param), 0x7fc00000);
  CHECK(y.exp_avg == 0 && y.exp_avg_sq == 0);
}

static void scalars_are_rounded_once_from_double(void) {
  zero1_group group = small_group(0.1, 1);
  group.lr = 3e-4, group.beta1 = 0.9, group.beta2 = 0.999, group.eps = 1e-8;
  const zero1__adam_scalars s = zero1__adam_scalars_make(&group, 7);
  CHECK(s.decay == (float)(1.0 - 3e-4 * 0.1) && s.l2 == 0);
  CHECK(s.one_minus_beta1 == (float)(1.0 - 0.9)); /* not 1 - (float)0.9 */
  CHECK(s.beta2 == 0.999f && s.one_minus_beta2 == (float)(1.0 - 0.999) && s.eps == 1e-8f);
  CHECK(s.inverse_sqrt_bias2 == (float)(1.0 / sqrt(1.0 - pow(0.999, 7))));
  CHECK(s.step_size == (float)(3e-4 / (1.0 - pow(0.9, 7))));
  group.decoupled_weight_decay = 0;
  const zero1__adam_scalars l2 = zero1__adam_scalars_make(&group, 7);
  CHECK(l2.decay == 1 && l2.l2 == 0.1f);
}

/* 300 steps of 200 elements; the tolerance is what reference_adamw.h derives. It must also mean
 * something, so it is held against 300 * lr = 0.3, the way that a parameter can have gone. Rounding
 * it three times per step near 1 gives 300 * 3 * 2^-24 = 5.4e-5. L2 feeds a parameter's error back
 * through its gradient: there gradients are kept larger than what the decay adds. */
static void many_steps_stay_within_the_derived_distance_of_double(void) {
  for (int32_t decoupled = 0; decoupled <= 1; ++decoupled) {
    const zero1_group group = {.lr = 1e-3,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .eps = 1e-8,
                               .weight_decay = decoupled ? 0.1 : 1e-3,
                               .decoupled_weight_decay = decoupled};
    random_state random = {(uint64_t)decoupled};
    for (int i = 0; i < 200; ++i) {
      zero1__adam_element x = {random_unit(&random), 0, 0};
      reference_adamw reference = {.param = x.master_param};
      const float scale = ldexpf(1.0f, -(i % (decoupled ? 20 : 3)));
      for (int64_t t = 1; t <= 300; ++t) {
        const float grad = scale * (0.5f + random_unit(&random));
        x = zero1__adam(x, grad, zero1__adam_scalars_make(&group, t));
        reference_adamw_step(&group, t, grad, 0, &reference);
        CHECK_CLOSE(x.master_param, reference.param, 0, reference.param_bound);
        CHECK_CLOSE(x.exp_avg, reference.exp_avg, 0, reference.exp_avg_bound);
        CHECK_CLOSE(x.exp_avg_sq, reference.exp_avg_sq, 0, reference.exp_avg_sq_bound);
      }
      CHECK(reference.param_bound < 0.3 / 3000);
    }
  }
}

/* ---- master, hash ---- */

static void a_master_that_still_rounds_to_its_param_keeps_its_lower_bits(void) {
  const float master = 1.0009765625f; /* rounds to 1 */
  CHECK(zero1__master_of_bf16(0x3f80, master, 1) == master);
  CHECK(zero1__master_of_bf16(0x3f80, master, 0) == 1);
  CHECK(zero1__master_of_bf16(0x4000, master, 1) == 2); /* the caller wrote 2 */
  CHECK_EQ(zero1__bits(zero1__master_of_bf16(0x8000, 0.0f, 1)), 0x80000000);
  CHECK_EQ(zero1__bits(zero1__master_of_bf16(0xffff, -NAN, 1)), 0x7fc00000);
}

static void the_hash_sees_place_and_bits(void) {
  CHECK(zero1__mix(0, 0) == 0); /* so a hash of zeros depends on how many there are */
  CHECK(zero1__mix(0, 1) != zero1__mix(1, 0));
  CHECK(zero1__mix(3, 7) + zero1__mix(4, 8) != zero1__mix(3, 8) + zero1__mix(4, 7));
  CHECK(zero1__mix(1, 0) == 0xe220a8397b1dcdafu); /* SplitMix64's first number of seed 0 */
}

int main(void) {
  RUN(every_bf16_comes_back_and_every_nan_is_the_one_nan);
  RUN(what_lies_between_goes_to_the_nearest_and_half_way_to_the_even);
  RUN(a_nan_whose_upper_bits_are_those_of_infinity_stays_nan);
  RUN(one_nan_changes_nothing_but_nans);
  RUN(finite_is_neither_nan_nor_infinite);
  RUN(a_square_is_exact);
  RUN(the_first_step_by_hand);
  RUN(decoupled_decay_shrinks_the_param_before_it_moves);
  RUN(l2_goes_through_the_gradient);
  RUN(without_l2_an_infinite_param_does_not_reach_the_moments);
  RUN(nan_is_stored_in_one_form);
  RUN(scalars_are_rounded_once_from_double);
  RUN(many_steps_stay_within_the_derived_distance_of_double);
  RUN(a_master_that_still_rounds_to_its_param_keeps_its_lower_bits);
  RUN(the_hash_sees_place_and_bits);
  return check_summary();
}
