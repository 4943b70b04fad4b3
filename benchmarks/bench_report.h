/* What a run found out: as a table, and as one JSON object. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "bench_machine.h"
#include "bench_options.h"
#include "bench_series.h"

/** Times in milliseconds. NaN: not measured. */
typedef struct bench_report {
  const bench_options *options;
  bench_machine machine;
  int world_size, ranks_per_node, threads;
  int64_t bucket_numel; /* in effect */
  const char *backend, *isa, *limit_way;
  int two_passes;
  double create_ms;
  bench_quartiles step_ms, limit_ms, mpi_baseline_ms;
  bench_quartiles ratio_to_limit, speedup_vs_mpi;                          /* of pairs */
  double ready_ms, exchange_ms, reduce_ms, agree_ms, update_ms, gather_ms; /* medians */
  double first_ms, wait_ms, cpu_ms;
  double mpi_reduce_ms, mpi_update_ms, mpi_gather_ms;
  int bytes_per_param;
  uint64_t memory_bytes, padding_bytes; /* of the rank that has most */
  int64_t sent_bytes;                   /* to other nodes, in a step; the same */
} bench_report;

/** Every byte that a step moves through memory, of all ranks. */
double bench_report_bytes(const bench_report *report);

void bench_report_table(const bench_report *report, FILE *out);

/** Returns false where the file cannot be written. */
bool bench_report_json(const bench_report *report, const char *path);

#endif
