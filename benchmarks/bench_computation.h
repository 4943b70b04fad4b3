/* What stands for backward and forward: timers, as if a device computed, or busy cores. */
#ifndef BENCH_COMPUTATION_H
#define BENCH_COMPUTATION_H

#include <stdint.h>

#include "pool.h"

typedef enum bench_computation_kind {
  BENCH_NOTHING, /* a step by itself */
  BENCH_TIMERS,  /* the caller sleeps */
  BENCH_BUSY     /* products of small matrices on every thread */
} bench_computation_kind;

typedef struct bench_computation {
  bench_computation_kind kind;
  zero1__pool *pool;      /* of BENCH_BUSY */
  double rate;            /* of a millisecond: nanoseconds, or products by each thread */
  int64_t done_ns;        /* timers: when the part before was over */
  double owed;            /* busy: of a product, kept for the next part */
  int64_t products;       /* busy: of the part that is computed now */
  int64_t wrong_products; /* busy: whose sum was not what it is */
} bench_computation;

/** Threads of BENCH_BUSY, the caller among them; ends the program where there are none. */
void bench_computation_open(bench_computation *computation, bench_computation_kind kind,
                            int32_t threads);
void bench_computation_close(bench_computation *computation);

/** Before the first part of a step. */
void bench_computation_begin(bench_computation *computation);

/** The caller was elsewhere. Parts of timers follow each other at once, however late a sleep ends,
 *  but where the caller waited in between. */
void bench_computation_waited(bench_computation *computation, int64_t begin_ns, int64_t end_ns);

/** One part of backward or forward: `ms` milliseconds of it, as rate says. */
void bench_computation_part(bench_computation *computation, double ms);

const char *bench_computation_name(bench_computation_kind kind);

#endif
