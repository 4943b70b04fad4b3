/* What bench_kernels found out: as a table, and as one JSON object. */
#ifndef BENCH_KERNELS_REPORT_H
#define BENCH_KERNELS_REPORT_H

#include <stdio.h>

#include "bench_series.h"
#include "bench_shard.h"

typedef struct bench_kernels_options {
  const char *device;
  int64_t threads;
  const char *only; /* a case's name, or all */
  int64_t numel, bucket_numel, tensors;
  int64_t steps, warmup;
  const char *json; /* or NULL */
  int64_t help;
} bench_kernels_options;

typedef struct bench_kernels_result {
  const bench_case *which;
  int64_t launches;
  bench_quartiles ms;
  bench_quartiles copies; /* the time of the copy just before, in times of the case */
} bench_kernels_result;

/** The same parameters in another shape. */
typedef struct bench_kernels_shape {
  int64_t tensors, bucket_numel, launches; /* bucket_numel 0: all in one */
  bench_quartiles ms;
} bench_kernels_shape;

#define BENCH_TENSOR_NUMEL 2560 /* of each of many tensors */
#define BENCH_SHAPES 3

typedef struct bench_kernels_report {
  const bench_kernels_options *options;
  bench_quartiles copy_ms;
  int64_t copy_bytes; /* read and written */
  bench_kernels_result *results;
  int result_count;
  bench_kernels_shape shapes[BENCH_SHAPES]; /* where options->tensors */
  bench_quartiles tensors_ratio;            /* time of many tensors over that of one, in pairs */
} bench_kernels_report;

void bench_kernels_report_table(const bench_kernels_report *report, FILE *out);

/** Returns false where the file cannot be written. */
bool bench_kernels_report_json(const bench_kernels_report *report, const char *path);

#endif
