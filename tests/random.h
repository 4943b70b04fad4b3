/* Random bits that are the same everywhere (SplitMix64), and fp32 values of the kinds that tests
 * want. */
#ifndef ZERO1_TESTS_RANDOM_H
#define ZERO1_TESTS_RANDOM_H

#include <stdint.h>
#include <string.h>

typedef struct random_state {
  uint64_t state;
} random_state;

static inline uint64_t random_bits(random_state *random) {
  uint64_t x = random->state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static inline float random_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Uniform in [-1, 1). */
static inline float random_unit(random_state *random) {
  return (float)((double)(random_bits(random) >> 11) * 0x1p-52 - 1.0);
}

/* Any fp32 number: subnormal, infinite, NaN. */
static inline float random_any(random_state *random) {
  return random_from_bits((uint32_t)random_bits(random));
}

/* Any fp32 number between -2^-118 and 2^-118, most of them subnormal or near. */
static inline float random_tiny(random_state *random) {
  return random_from_bits((uint32_t)random_bits(random) & 0x84ffffffu);
}

/* Finite and within a factor of 4 of the largest. */
static inline float random_huge(random_state *random) {
  return random_unit(random) * 0x1.fffffep+127f;
}

#endif
