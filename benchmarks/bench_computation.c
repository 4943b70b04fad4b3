#include "bench_computation.h"

#include <sys/prctl.h>

#include "bench_require.h"
#include "clock.h"

/* A call that takes longer has waited for something. */
#define WAIT_NS 20000

enum { SIDE = 32 };

void bench_computation_open(bench_computation *computation, bench_computation_kind kind,
                            int32_t threads) {
  zero1__error error;
  *computation = (bench_computation){.kind = kind, .rate = kind == BENCH_BUSY ? 10 : 1e6};
  if (kind == BENCH_TIMERS) prctl(PR_SET_TIMERSLACK, 1UL); /* of this thread alone */
  if (kind != BENCH_BUSY) return;
  zero1__error_clear(&error);
  bench_require(!zero1__pool_create(threads, &computation->pool, &error), "%s", error.text);
}

void bench_computation_close(bench_computation *computation) {
  if (computation->pool) zero1__pool_destroy(computation->pool);
}

void bench_computation_begin(bench_computation *computation) {
  computation->done_ns = zero1__now_ns();
  computation->owed = 0;
}

void bench_computation_waited(bench_computation *computation, int64_t begin_ns, int64_t end_ns) {
  if (end_ns - begin_ns > WAIT_NS) computation->done_ns = end_ns;
}

/* ---- timers ---- */

static void sleep_part(bench_computation *computation, double ms) {
  computation->done_ns += (int64_t)(ms * computation->rate);
  const struct timespec until = {computation->done_ns / 1000000000,
                                 computation->done_ns % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) {
  }
}

/* ---- busy cores ---- */

/* a[i][k] = i + k, b[k][j] = k - j, c = a b: small whole numbers, so that c's sum is exact in fp32
 * whatever the compiler makes of the loops. */
static void multiply(float a[SIDE][SIDE], float b[SIDE][SIDE], float c[SIDE][SIDE]) {
  for (int i = 0; i < SIDE; ++i)
    for (int j = 0; j < SIDE; ++j) {
      a[i][j] = (float)(i + j);
      b[i][j] = (float)(i - j);
      c[i][j] = 0;
    }
  __asm__ volatile("" ::"r"(a), "r"(b) : "memory"); /* the values are not known from here on */
  for (int i = 0; i < SIDE; ++i)
    for (int k = 0; k < SIDE; ++k)
      for (int j = 0; j < SIDE; ++j) c[i][j] += a[i][k] * b[k][j];
  __asm__ volatile("" ::"r"(c) : "memory");
}

/* The same sum in whole numbers: of (i + k)(k - j). */
static int64_t sum_of_product(void) {
  int64_t sum = 0;
  for (int i = 0; i < SIDE; ++i)
    for (int k = 0; k < SIDE; ++k)
      for (int j = 0; j < SIDE; ++j) sum += (i + k) * (k - j);
  return sum;
}

static void multiply_part(void *context, int32_t thread, int32_t threads) {
  bench_computation *computation = context;
  float a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
  int64_t sum = 0;
  (void)thread;
  (void)threads;
  for (int64_t i = 0; i < computation->products; ++i) multiply(a, b, c);
  if (!computation->products) return;
  for (int i = 0; i < SIDE; ++i)
    for (int j = 0; j < SIDE; ++j) sum += (int64_t)c[i][j];
  if (sum != sum_of_product())
    __atomic_fetch_add(&computation->wrong_products, 1, __ATOMIC_RELAXED);
}

static void work_part(bench_computation *computation, double ms) {
  computation->owed += ms * computation->rate;
  computation->products = (int64_t)computation->owed;
  computation->owed -= (double)computation->products;
  zero1__pool_run(computation->pool, multiply_part, computation);
  bench_require(!computation->wrong_products, "wrong result: a product of matrices");
}

void bench_computation_part(bench_computation *computation, double ms) {
  if (computation->kind == BENCH_TIMERS) sleep_part(computation, ms);
  if (computation->kind == BENCH_BUSY) work_part(computation, ms);
}

const char *bench_computation_name(bench_computation_kind kind) {
  static const char *const names[] = {"nothing", "timers", "busy"};
  return names[kind];
}
