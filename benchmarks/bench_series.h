/* What was measured, repetition by repetition, and its quartiles. */
#ifndef BENCH_SERIES_H
#define BENCH_SERIES_H

#include <stdint.h>

typedef struct bench_series {
  int64_t count;
  double *values; /* [count] */
} bench_series;

typedef struct bench_quartiles {
  double q1, median, q3;
} bench_quartiles;

/** Between two values, the line through them; NaN for an empty series. */
bench_quartiles bench_series_quartiles(const bench_series *series);

/** Quartiles of over.values[i] / under.values[i]: what drifts slowly drops out of a pair. */
bench_quartiles bench_series_ratio(const bench_series *over, const bench_series *under);

#endif
