/* An exact sum of sums of squares: integers, so that the total has no order.
 *
 * The square of a finite fp32 value is a multiple of 2^-298 below 2^256, and so is, below 2^265, a
 * block's sum of squares in fp64. Such numbers are added as fixed-point integers. Limb k holds 32
 * bits of weight 2^(32 * (k - 11)) in 64, so limb 11 is the units:
 *
 *   value            limb 12   limb 11   limb 10
 *   1.5              0         1         0x80000000
 *   2^32 + 1.5       1         1         0x80000000
 *   the sum of both  1         3         0
 *
 * Every limb is kept below 2^32. So equal sums are equal bytes, and a sum may be sent as it is; and
 * the limbs of up to 2^31 sums may be added up one by one (MPI_SUM, ncclSum, atomicAdd) and made
 * proper afterwards by zero1__exact_sum_carry. 2^55 blocks of the largest squares fit. */
#ifndef ZERO1__EXACT_SUM_H
#define ZERO1__EXACT_SUM_H

#include <stdint.h>
#include <string.h>

#include "inline.h"

#define ZERO1__EXACT_LIMBS 21
#define ZERO1__EXACT_UNITS 11 /* the limb of weight 1 */

typedef struct zero1__exact_sum {
  int64_t limb[ZERO1__EXACT_LIMBS]; /* [0, 2^32) each; all 0: zero */
} zero1__exact_sum;

/** A number as three limbs: part[0] goes to limb[first], part[1] to limb[first + 1], ... */
typedef struct zero1__exact_parts {
  int32_t first;
  int64_t part[3]; /* [0, 2^32) each */
} zero1__exact_parts;

/** `value` is 0 or a multiple of 2^-298 in [2^-298, 2^265). */
ZERO1__INLINE zero1__exact_parts zero1__exact_split(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  zero1__exact_parts parts = {0, {0, 0, 0}};
  if (bits << 1 == 0) return parts;
  /* value = mantissa * 2^(exponent - 1075); its lowest bit stands `place` bits above limb 0's. */
  const uint64_t mantissa = (bits & 0xfffffffffffff) | (uint64_t)1 << 52;
  const int32_t place = (int32_t)(bits >> 52 & 0x7ff) - 1075 + 32 * ZERO1__EXACT_UNITS;
  const int32_t shift = place & 31;
  const uint64_t low = (mantissa & 0xffffffff) << shift;
  const uint64_t high = ((mantissa >> 32) << shift) + (low >> 32);
  parts.first = place >> 5;
  parts.part[0] = (int64_t)(low & 0xffffffff);
  parts.part[1] = (int64_t)(high & 0xffffffff);
  parts.part[2] = (int64_t)(high >> 32);
  return parts;
}

ZERO1__INLINE void zero1__exact_sum_clear(zero1__exact_sum *sum) {
  memset(sum, 0, sizeof *sum);
}

/** Carries what stands above 32 bits to the next limb, after limbs were added up one by one. */
ZERO1__INLINE void zero1__exact_sum_carry(zero1__exact_sum *sum) {
  for (int32_t k = 0; k + 1 < ZERO1__EXACT_LIMBS; ++k) {
    sum->limb[k + 1] += sum->limb[k] >> 32;
    sum->limb[k] &= 0xffffffff;
  }
}

/** Adds `value`: 0 or a multiple of 2^-298 in [2^-298, 2^265). */
ZERO1__INLINE void zero1__exact_sum_add(zero1__exact_sum *sum, double value) {
  const zero1__exact_parts parts = zero1__exact_split(value);
  int32_t k = parts.first;
  int64_t carry = 0;
  for (int32_t i = 0; i < 3; ++i, ++k) {
    carry += sum->limb[k] + parts.part[i];
    sum->limb[k] = carry & 0xffffffff;
    carry >>= 32;
  }
  for (; carry; ++k) {
    carry += sum->limb[k];
    sum->limb[k] = carry & 0xffffffff;
    carry >>= 32;
  }
}

ZERO1__INLINE void zero1__exact_sum_merge(zero1__exact_sum *into, const zero1__exact_sum *from) {
  for (int32_t k = 0; k < ZERO1__EXACT_LIMBS; ++k) into->limb[k] += from->limb[k];
  zero1__exact_sum_carry(into);
}

/** The fp64 number nearest to the sum; of two, the even one. In integers: no rounding mode. */
ZERO1__INLINE double zero1__exact_sum_to_double(const zero1__exact_sum *sum) {
  int32_t top = ZERO1__EXACT_LIMBS - 1;
  while (top >= 0 && sum->limb[top] == 0) --top;
  if (top < 0) return 0.0;
  /* The highest 64 bits, the first of them set; the last one also stands for any bit below. */
  uint64_t window = (uint64_t)sum->limb[top] << 32;
  uint64_t below = top > 1 ? (uint64_t)sum->limb[top - 2] << 32 : 0;
  int32_t exponent = 32 * (top - ZERO1__EXACT_UNITS) + 31;
  if (top > 0) window |= (uint64_t)sum->limb[top - 1];
  for (; !(window >> 63); --exponent, below <<= 1) window = window << 1 | below >> 63;
  for (int32_t k = top - 3; k >= 0; --k) below |= (uint64_t)sum->limb[k];
  if (below) window |= 1;
  const uint64_t odd = window >> 11 & 1;
  const uint64_t round_up = (window & 0x7ff) + odd > 0x400;
  /* The first bit is the implicit one: it adds 1 to the exponent field below it. */
  const uint64_t bits = ((uint64_t)(exponent + 1022) << 52) + (window >> 11) + round_up;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

#endif
