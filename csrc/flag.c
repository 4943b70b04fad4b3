#include "flag.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

/* Looks that are cheaper than a sleep; few, for ranks may outnumber cores. */
#define SPINS 200

/* Not FUTEX_PRIVATE: the flag may be in memory that processes share. */
static void futex_wake(zero1__flag *flag) {
  syscall(SYS_futex, flag, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void futex_wait(zero1__flag *flag, uint32_t seen, int64_t timeout_ns) {
  const struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
  syscall(SYS_futex, flag, FUTEX_WAIT, seen, &timeout, NULL, 0);
}

void zero1__flag_post(zero1__flag *flag, uint32_t value) {
  atomic_store_explicit(flag, value, memory_order_release);
  futex_wake(flag);
}

int zero1__flag_wait(zero1__flag *flag, uint32_t value, int64_t timeout_ns) {
  for (int i = 0; i < SPINS; ++i) {
    if (zero1__flag_reached(flag, value)) return 1;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  const int64_t end = zero1__now_ns() + timeout_ns;
  for (;;) {
    const uint32_t seen = atomic_load_explicit(flag, memory_order_acquire);
    if ((int32_t)(seen - value) >= 0) return 1;
    const int64_t left = end - zero1__now_ns();
    if (left <= 0) return 0;
    futex_wait(flag, seen, left);
  }
}
