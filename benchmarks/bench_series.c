#include "bench_series.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_require.h"

static int ascending(const void *left, const void *right) {
  const double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* 5 values: the quartiles are values 1, 2 and 3. */
static double at(const double *sorted, int64_t count, double part) {
  const double place = part * (double)(count - 1);
  const int64_t below = (int64_t)place;
  const int64_t above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

bench_quartiles bench_series_quartiles(const bench_series *series) {
  if (!series->count) return (bench_quartiles){NAN, NAN, NAN};
  const size_t count = (size_t)series->count;
  double *sorted = bench_alloc(count, sizeof *sorted);
  memcpy(sorted, series->values, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, ascending);
  const bench_quartiles quartiles = {at(sorted, series->count, 0.25),
                                     at(sorted, series->count, 0.5),
                                     at(sorted, series->count, 0.75)};
  free(sorted);
  return quartiles;
}

bench_quartiles bench_series_ratio(const bench_series *over, const bench_series *under) {
  const int64_t count = over->count < under->count ? over->count : under->count;
  bench_series ratios = {count, bench_alloc((size_t)count, sizeof *ratios.values)};
  for (int64_t i = 0; i < count; ++i) ratios.values[i] = over->values[i] / under->values[i];
  const bench_quartiles quartiles = bench_series_quartiles(&ratios);
  free(ratios.values);
  return quartiles;
}
