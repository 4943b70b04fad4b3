// sanitizers: address undefined
/* The exact sum against binary addition by hand: one digit after the other, as on paper. */
#include "check.h"

#include <string.h>

#include "exact_sum.h"
#include "random.h"

#define LARGEST 0x1.fffffffffffffp+264
#define SMALLEST 0x1p-298

/* ---- the reference: digit k has weight 2^(k - 298) ---- */

#define DIGITS 700
typedef struct paper_sum {
  uint8_t digit[DIGITS];
} paper_sum;

static void paper_add(paper_sum *sum, double value) {
  int exponent;
  const double fraction = frexp(value, &exponent); /* value = mantissa * 2^(exponent - 53) */
  uint64_t mantissa = (uint64_t)ldexp(fraction, 53);
  int carry = 0;
  for (int k = exponent - 53 + 298; mantissa || carry; ++k, mantissa >>= 1) {
    if (k < 0) continue; /* digits below 2^-298 are 0 */
    const int total = sum->digit[k] + (int)(mantissa & 1) + carry;
    sum->digit[k] = total & 1;
    carry = total >> 1;
  }
}

/* To nearest, of two the even one. */
static double paper_to_double(const paper_sum *sum) {
  int top = DIGITS - 1;
  while (top >= 0 && !sum->digit[top]) --top;
  if (top < 53) { /* fits as it is */
    double value = 0;
    for (int k = top; k >= 0; --k) value = 2 * value + sum->digit[k];
    return ldexp(value, -298);
  }
  uint64_t mantissa = 0;
  for (int k = top; k > top - 53; --k) mantissa = mantissa << 1 | sum->digit[k];
  int above_half = 0;
  for (int k = top - 54; k >= 0; --k) above_half |= sum->digit[k];
  if (sum->digit[top - 53] && (above_half || (mantissa & 1))) ++mantissa;
  return ldexp((double)mantissa, top - 52 - 298);
}

/* ---- helpers ---- */

static zero1__exact_sum sum_of(const double *values, int count) {
  zero1__exact_sum sum;
  zero1__exact_sum_clear(&sum);
  for (int i = 0; i < count; ++i) zero1__exact_sum_add(&sum, values[i]);
  return sum;
}

static int same_bytes(const zero1__exact_sum *a, const zero1__exact_sum *b) {
  return memcmp(a, b, sizeof *a) == 0;
}

/* From the whole range; a multiple of 2^-298, as a sum of squares is. */
static double random_value(random_state *random) {
  const uint64_t mantissa = random_bits(random) >> 11;
  const int exponent = (int)(random_bits(random) % 564) - 299; /* of the highest bit, at most */
  const double value = ldexp((double)mantissa, exponent - 52);
  return value >= 0x1p-245 ? value : floor(ldexp(value, 298)) * SMALLEST;
}

static double nearest(const double *values, int count) {
  const zero1__exact_sum sum = sum_of(values, count);
  return zero1__exact_sum_to_double(&sum);
}

/* ---- the specification ---- */

static void one_number_comes_back_as_it_is(void) {
  const double values[] = {
      0.0,     SMALLEST, 3 * SMALLEST,      0x1p-268, 0x1p-149, 1.0,     1.5,
      0x1p+31, 0x1p+32,  0x1p+32 + 0x1p-20, 0x1p+53,  0x1p+256, LARGEST, 0x1.0000000000001p+264};
  for (int i = 0; i < (int)(sizeof values / sizeof *values); ++i)
    CHECK(nearest(&values[i], 1) == values[i]);
}

static void the_sum_is_the_one_on_paper(void) {
  random_state random = {1};
  paper_sum paper = {{0}};
  zero1__exact_sum sum = sum_of(NULL, 0);
  for (int i = 0; i < 20000; ++i) {
    const double value = random_value(&random);
    zero1__exact_sum_add(&sum, value);
    paper_add(&paper, value);
    if (i % 50 == 0) CHECK(zero1__exact_sum_to_double(&sum) == paper_to_double(&paper));
  }
  CHECK(zero1__exact_sum_to_double(&sum) == paper_to_double(&paper));
}

static void small_sums_are_the_ones_on_paper(void) { /* the last digits, and ties among them */
  random_state random = {2};
  for (int i = 0; i < 20000; ++i) {
    paper_sum paper = {{0}};
    zero1__exact_sum sum = sum_of(NULL, 0);
    for (int k = 0; k < 3; ++k) {
      const int place = (int)(random_bits(&random) % 120);
      const double value = ldexp((double)(random_bits(&random) % 4), place - 298);
      zero1__exact_sum_add(&sum, value);
      paper_add(&paper, value);
    }
    CHECK(zero1__exact_sum_to_double(&sum) == paper_to_double(&paper));
  }
}

static void no_order_and_no_split_changes_a_byte(void) {
  enum { COUNT = 1000 };
  double values[COUNT];
  random_state random = {3};
  for (int i = 0; i < COUNT; ++i) values[i] = random_value(&random);
  const zero1__exact_sum expected = sum_of(values, COUNT);
  for (int round = 0; round < 100; ++round) {
    for (int i = COUNT - 1; i > 0; --i) {
      const int k = (int)(random_bits(&random) % (uint64_t)(i + 1));
      const double value = values[i];
      values[i] = values[k];
      values[k] = value;
    }
    const int a = (int)(random_bits(&random) % COUNT);
    const int b = a + (int)(random_bits(&random) % (uint64_t)(COUNT - a));
    const zero1__exact_sum part[3] = {sum_of(values, a), sum_of(values + a, b - a),
                                      sum_of(values + b, COUNT - b)};
    zero1__exact_sum left = part[0], right = part[2];
    zero1__exact_sum_merge(&left, &part[1]); /* (0 + 1) + 2 */
    zero1__exact_sum_merge(&left, &part[2]);
    zero1__exact_sum_merge(&right, &part[1]); /* (2 + 1) + 0 */
    zero1__exact_sum_merge(&right, &part[0]);
    CHECK(same_bytes(&left, &expected));
    CHECK(same_bytes(&right, &expected));
  }
}

static void a_different_sum_is_different_bytes(void) {
  const double values[] = {LARGEST, SMALLEST};
  const zero1__exact_sum with = sum_of(values, 2), without = sum_of(values, 1);
  CHECK(!same_bytes(&with, &without));
  CHECK(zero1__exact_sum_to_double(&with) == LARGEST); /* though fp64 does not see it */
}

static void half_way_goes_to_the_even_number(void) {
  const double tie_down[] = {0x1p+53, 1}, tie_up[] = {0x1p+53 + 2, 1};
  CHECK(nearest(tie_down, 2) == 0x1p+53);
  CHECK(nearest(tie_up, 2) == 0x1p+53 + 4);
  const double over_the_tie[] = {0x1p+53, 1, SMALLEST};
  CHECK(nearest(over_the_tie, 3) == 0x1p+53 + 2);
  const double under_the_tie[] = {0x1p+53 + 2, 0.5, 0.25};
  CHECK(nearest(under_the_tie, 3) == 0x1p+53 + 2);
  const double to_the_next_power[] = {0x1.fffffffffffffp+53, 1};
  CHECK(nearest(to_the_next_power, 2) == 0x1p+54);
}

static void two_to_the_50_of_the_largest_blocks_fit(void) {
  zero1__exact_sum sum = sum_of((const double[]){LARGEST}, 1);
  for (int i = 0; i < 50; ++i) {
    const zero1__exact_sum same = sum;
    zero1__exact_sum_merge(&sum, &same);
  }
  CHECK(zero1__exact_sum_to_double(&sum) == ldexp(LARGEST, 50));
}

static void limbs_may_be_added_one_by_one_2_to_the_31_times(void) {
  random_state random = {4};
  zero1__exact_sum sum = sum_of(NULL, 0);
  for (int k = 0; k + 2 < ZERO1__EXACT_LIMBS; ++k)
    sum.limb[k] = (int64_t)(random_bits(&random) | 0xfffffff0) & 0xffffffff; /* nearly full */
  zero1__exact_sum many = sum, doubled = sum;
  for (int k = 0; k < ZERO1__EXACT_LIMBS; ++k) many.limb[k] *= (int64_t)1 << 31;
  zero1__exact_sum_carry(&many);
  for (int i = 0; i < 31; ++i) {
    const zero1__exact_sum same = doubled;
    zero1__exact_sum_merge(&doubled, &same);
  }
  CHECK(same_bytes(&many, &doubled));
}

static void every_limb_stays_below_2_to_the_32(void) {
  random_state random = {5};
  zero1__exact_sum sum = sum_of(NULL, 0);
  for (int i = 0; i < 5000; ++i) zero1__exact_sum_add(&sum, random_value(&random));
  for (int k = 0; k < ZERO1__EXACT_LIMBS; ++k) CHECK(sum.limb[k] >= 0 && sum.limb[k] <= 0xffffffff);
}

int main(void) {
  RUN(one_number_comes_back_as_it_is);
  RUN(the_sum_is_the_one_on_paper);
  RUN(small_sums_are_the_ones_on_paper);
  RUN(no_order_and_no_split_changes_a_byte);
  RUN(a_different_sum_is_different_bytes);
  RUN(half_way_goes_to_the_even_number);
  RUN(two_to_the_50_of_the_largest_blocks_fit);
  RUN(limbs_may_be_added_one_by_one_2_to_the_31_times);
  RUN(every_limb_stays_below_2_to_the_32);
  return check_summary();
}
