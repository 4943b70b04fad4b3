/* What a run of bench_overlap found out: as a table, and as one JSON object. */
#ifndef BENCH_OVERLAP_REPORT_H
#define BENCH_OVERLAP_REPORT_H

#include "bench_computation.h"
#include "bench_machine.h"
#include "bench_overlap_buckets.h"
#include "bench_overlap_options.h"
#include "bench_series.h"

/** One kind of computation. Times in milliseconds, but for those of `buckets` the slowest rank's.
 */
typedef struct bench_overlap_way {
  bench_computation_kind kind;
  bench_quartiles computation_ms, step_ms; /* alone, and with a step */
  bench_quartiles hidden;                  /* of repetitions */
  const bench_buckets *buckets;            /* means over steps and ranks */
} bench_overlap_way;

typedef struct bench_overlap_report {
  const bench_overlap_options *options;
  bench_machine machine;
  int world_size, ranks_per_node, threads;
  int64_t bucket_numel; /* in effect */
  const char *backend;
  bench_quartiles communication_ms, exchange_ms, gather_ms; /* of steps without computation */
  bench_quartiles step_ms;                                  /* such a step */
  int way_count;
  const bench_overlap_way *ways; /* [way_count] */
} bench_overlap_report;

void bench_overlap_table(const bench_overlap_report *report, FILE *out);

/** Returns false where the file cannot be written. */
bool bench_overlap_json(const bench_overlap_report *report, const char *path);

#endif
