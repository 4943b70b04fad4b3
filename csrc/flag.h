/* A counter that one side posts and others wait for, between threads or, in shared memory, between
 * processes: compared with an epoch, so that it is never reset. Waiters sleep in the kernel. */
#ifndef ZERO1__FLAG_H
#define ZERO1__FLAG_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint32_t zero1__flag;

/** Everything written before is visible to whoever sees `value`. One writer per flag. */
void zero1__flag_post(zero1__flag *flag, uint32_t value);

/** Whether the flag is at `value` or beyond; epochs may wrap around. */
static inline int zero1__flag_reached(zero1__flag *flag, uint32_t value) {
  return (int32_t)(atomic_load_explicit(flag, memory_order_acquire) - value) >= 0;
}

/** Waits at most timeout_ns; returns whether the flag reached `value`. */
int zero1__flag_wait(zero1__flag *flag, uint32_t value, int64_t timeout_ns);

/** Waits for as long as it takes. */
static inline void zero1__flag_await(zero1__flag *flag, uint32_t value) {
  const int64_t hour_ns = (int64_t)3600 * 1000000000;
  while (!zero1__flag_wait(flag, value, hour_ns)) {
  }
}

#endif
