/* The ranks of a benchmark: MPI_COMM_WORLD. A failure ends all of them. */
#ifndef BENCH_WORLD_H
#define BENCH_WORLD_H

#include <mpi.h>

#include "bench_require.h"
#include "clock.h"

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
