/* Random numbers that are a function of their key alone: the same on every machine. */
#ifndef LM_RANDOM_H
#define LM_RANDOM_H

#include <math.h>
#include <stdint.h>

/** The next 64 bits of the sequence of `state` (splitmix64, Steele et al., OOPSLA 2014). */
static inline uint64_t lm_random_next(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/** Start of a sequence of its own for every (seed, a, b, c). */
static inline uint64_t lm_random_key(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
  const uint64_t parts[] = {a, b, c};
  uint64_t state = seed;
  for (int i = 0; i < 3; ++i) {
    state = lm_random_next(&state) ^ parts[i];
  }
  return lm_random_next(&state);
}

/** Uniform in [0, 1). */
static inline double lm_random_uniform(uint64_t *state) {
  return (double)(lm_random_next(state) >> 11) * 0x1p-53;
}

/** Standard normal (Box and Muller). */
static inline double lm_random_normal(uint64_t *state) {
  const double radius = sqrt(-2.0 * log(1.0 - lm_random_uniform(state)));
  return radius * cos(6.283185307179586 * lm_random_uniform(state));
}

#endif
