/* Monotonic time. */
#ifndef ZERO1__CLOCK_H
#define ZERO1__CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t zero1__now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/** Seconds as nanoseconds; very many are as many as can be waited for. seconds >= 0. */
static inline int64_t zero1__seconds_ns(double seconds) {
  const double most = (double)(INT64_MAX / 4);
  return seconds * 1e9 < most ? (int64_t)(seconds * 1e9) : INT64_MAX / 4;
}

#endif
