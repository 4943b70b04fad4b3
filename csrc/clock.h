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

#endif
