/* The ranks of a benchmark: MPI_COMM_WORLD. A failure ends all of them. */
#ifndef BENCH_WORLD_H
#define BENCH_WORLD_H

#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"

/** Ends all ranks, with a text, where `good` is 0. */
__attribute__((format(printf, 2, 3))) static inline void bench_require(int good, const char *format,
                                                                       ...) {
  char text[512];
  va_list arguments;
  if (good) return;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "bench_step: %s\n", text); /* at once: other ranks may speak, too */
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

/** [count] zeroed elements; ends all ranks where there is no memory. */
static inline void *bench_alloc(size_t count, size_t each) {
  void *memory = calloc(count ? count : 1, each);
  bench_require(memory != NULL, "no memory for %zu times %zu bytes", count, each);
  return memory;
}

/** The largest of all ranks' values. Collective. */
static inline double bench_max(double mine) {
  double largest;
  MPI_Allreduce(&mine, &largest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return largest;
}

/** Milliseconds since `begin_ns`. */
static inline double bench_ms_since(int64_t begin_ns) {
  return (double)(zero1__now_ns() - begin_ns) * 1e-6;
}

#endif
