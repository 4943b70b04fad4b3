/* The arithmetic: every conversion and every optimizer, one element at a time, for the C and the
 * CUDA compiler. A kernel only decides where elements come from and go to.
 *
 * Each operation below is one IEEE fp32 operation rounded to nearest even, in the order in which
 * the parentheses put them: no fused multiply-add, subnormals kept. So a result is the same bits on
 * every instruction set and device.
 *
 * The sum of squares of a block has one order, too. Its 256 squares, in fp64 (where each is exact),
 * are folded in half until one number is left. Elements that the block does not have are +0. With
 * 8 elements, for example:
 *
 *   0   1   2   3   4   5   6   7
 *   0+4         1+5         2+6         3+7
 *   (0+4)+(2+6)             (1+5)+(3+7)
 *   ((0+4)+(2+6)) + ((1+5)+(3+7))
 *
 * A warp whose thread t holds elements t, t + 32, ... folds 128, 64 and 32 apart by itself and 16,
 * 8, 4, 2 and 1 apart by shuffles; vector registers fold likewise. Adding +0 to a square changes
 * no bit, so a short block may also leave out what it does not have. */
#ifndef ZERO1__RULES_H
#define ZERO1__RULES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"
#include "zero1/zero1.h"

ZERO1__INLINE uint32_t zero1__bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

ZERO1__INLINE float zero1__from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/** Devices make different NaNs; what is stored is this one. */
#define ZERO1__NAN_BITS 0x7fc00000u
#define ZERO1__BF16_NAN 0x7fc0u

ZERO1__INLINE float zero1__one_nan(float value) {
  return value == value ? value : zero1__from_bits(ZERO1__NAN_BITS);
}

ZERO1__INLINE int zero1__is_finite(float value) {
  return (zero1__bits(value) & 0x7f800000u) != 0x7f800000u;
}

ZERO1__INLINE float zero1__bf16_to_fp32(uint16_t bits) {
  return zero1__from_bits((uint32_t)bits << 16);
}

/** To nearest, of two the even one; a value beyond the largest bf16 becomes infinite. */
ZERO1__INLINE uint16_t zero1__fp32_to_bf16(float value) {
  const uint32_t bits = zero1__bits(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (uint16_t)(value == value ? rounded : ZERO1__BF16_NAN);
}

/** The fp32 value that is left of `value` when it has crossed a wire in 16 bits. */
ZERO1__INLINE float zero1__round_to_bf16(float value) {
  return zero1__bf16_to_fp32(zero1__fp32_to_bf16(value));
}

/* Gradients of 8 bits: a block has a scale, 1/127 of its largest magnitude, and an element is a
 * code from -127 to 127 times the scale. What is lost is kept, and added to the next gradient
 * (error feedback: Seide et al., Interspeech 2014; Karimireddy et al., arXiv 1901.09847). */

/** Scale of a block whose largest magnitude has the bits `most`. 0: so small that its codes are 0;
 *  NaN: some element is not finite, and so is none that comes of the block. */
ZERO1__INLINE float zero1__int8_scale(uint32_t most) {
  return most < 0x7f800000u ? zero1__from_bits(most) / 127.0f : zero1__from_bits(ZERO1__NAN_BITS);
}

/** To nearest, of two the even one, by adding and taking away 1.5 * 2^23, whose last bit is 1; as
 *  fp32. A scale that is subnormal may be too small by half: then 127 is not enough. scale > 0. */
ZERO1__INLINE float zero1__int8_code(float value, float scale) {
  const float wanted = value / scale;
  const float high = wanted < 127.0f ? wanted : 127.0f;
  const float bounded = high > -127.0f ? high : -127.0f;
  return (bounded + 12582912.0f) - 12582912.0f;
}

/** What a code stands for. */
ZERO1__INLINE float zero1__int8_value(int8_t code, float scale) {
  return (float)code * scale;
}

/** The square of an fp32 value has 48 bits: exact. */
ZERO1__INLINE double zero1__square(float value) {
  return (double)value * (double)value;
}

/** Per-step scalars of one parameter group, from its hyper-parameters and the count. */
typedef struct zero1__adam_scalars {
  float decay;           /* 1 - lr * weight_decay where decoupled, else 1 */
  float l2;              /* weight_decay where not decoupled, else 0 */
  float one_minus_beta1; /* 1 - beta1, subtracted in double */
  float beta2;
  float one_minus_beta2;
  float inverse_sqrt_bias2; /* 1 / sqrt(1 - beta2^count) */
  float eps;
  float step_size; /* lr / (1 - beta1^count) */
} zero1__adam_scalars;

/** State of one element. */
typedef struct zero1__adam_element {
  float master_param, exp_avg, exp_avg_sq;
} zero1__adam_element;

/** One step of AdamW, or of Adam where l2 is not 0. `grad` is multiplied by grad_factor already.
 *    p <- p * decay                                 g <- g + l2 * p, of the p before (l2 not 0)
 *    m <- m + (g - m) * (1 - beta1)                 v <- v * beta2 + (1 - beta2) * (g * g)
 *    p <- p - step_size * (m / (sqrt(v) * (1 / sqrt(1 - beta2^t)) + eps)) */
ZERO1__INLINE zero1__adam_element zero1__adam(zero1__adam_element old, float grad,
                                              zero1__adam_scalars s) {
  const float g = s.l2 != 0.0f ? grad + s.l2 * old.master_param : grad;
  const float m = old.exp_avg + (g - old.exp_avg) * s.one_minus_beta1;
  const float v = (old.exp_avg_sq * s.beta2) + s.one_minus_beta2 * (g * g);
  const float denominator = sqrtf(v) * s.inverse_sqrt_bias2 + s.eps;
  const float p = old.master_param * s.decay - s.step_size * (m / denominator);
  const zero1__adam_element element = {zero1__one_nan(p), zero1__one_nan(m), zero1__one_nan(v)};
  return element;
}

/** master_param for a bf16 parameter that the caller wrote: `old`, where that is what the parameter
 *  was rounded from and `keep` asks for it, else the parameter itself. */
ZERO1__INLINE float zero1__master_of_bf16(uint16_t param, float old, int keep) {
  const float value = zero1__one_nan(zero1__bf16_to_fp32(param));
  return keep && zero1__fp32_to_bf16(old) == param ? zero1__one_nan(old) : value;
}

/** The same of an fp32 parameter that is its master rounded to bf16: one that the caller wrote may
 *  have more bits, and these are the master's. */
ZERO1__INLINE float zero1__master_of_rounded(float param, float old, int keep) {
  const int same = zero1__bits(zero1__round_to_bf16(old)) == zero1__bits(param);
  return zero1__one_nan(keep && same ? old : param);
}

/** One element's part of a hash: of its index and its bits, both scattered (the finalizer of
 *  SplitMix64), so that parts may be added in any order. */
ZERO1__INLINE uint64_t zero1__mix(uint64_t index, uint32_t bits) {
  uint64_t x = index * 0x9e3779b97f4a7c15u + bits;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/** What the moments of step number `count` are divided by. */
typedef struct zero1__bias {
  double bias1, bias2; /* 1 - beta1^count, 1 - beta2^count */
} zero1__bias;

/** Scalars of a group, in double, each rounded to fp32 once. */
ZERO1__INLINE zero1__adam_scalars zero1__adam_scalars_of(const zero1_group *group,
                                                         zero1__bias bias) {
  const int decoupled = group->decoupled_weight_decay != 0;
  zero1__adam_scalars scalars;
  scalars.decay = decoupled ? (float)(1.0 - group->lr * group->weight_decay) : 1.0f;
  scalars.l2 = decoupled ? 0.0f : (float)group->weight_decay;
  scalars.one_minus_beta1 = (float)(1.0 - group->beta1);
  scalars.beta2 = (float)group->beta2;
  scalars.one_minus_beta2 = (float)(1.0 - group->beta2);
  scalars.inverse_sqrt_bias2 = (float)(1.0 / sqrt(bias.bias2));
  scalars.eps = (float)group->eps;
  scalars.step_size = (float)(group->lr / bias.bias1);
  return scalars;
}

#ifdef __cplusplus
extern "C" {
#endif

/** Bias of a group's step number `count`; the first is 1. Host only: pow differs elsewhere. */
zero1__bias zero1__bias_make(const zero1_group *group, int64_t count);

/** Scalars of a group for its step number `count`. Host only. */
zero1__adam_scalars zero1__adam_scalars_make(const zero1_group *group, int64_t count);

#ifdef __cplusplus
}
#endif

#endif
