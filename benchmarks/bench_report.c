#include "bench_report.h"

#include <inttypes.h>
#include <math.h>

#include "bench_arguments.h"
#include "bench_json.h"
#include "bench_subject.h"

double bench_report_bytes(const bench_report *report) {
  return (double)report->options->numel * report->bytes_per_param;
}

static double gbps(const bench_report *report, double ms) {
  return bench_report_bytes(report) / ms * 1e-6;
}

/* ---- the table ---- */

static void number(FILE *out, const char *what, double value, const char *unit) {
  if (!isnan(value)) fprintf(out, "  %-22s %10.3f %s\n", what, value, unit);
}

static void spread(FILE *out, const char *what, bench_quartiles of, const char *unit) {
  if (!isnan(of.median))
    fprintf(out, "  %-22s %10.3f %s (quartiles %.3f to %.3f)\n", what, of.median, unit, of.q1,
            of.q3);
}

void bench_report_table(const bench_report *report, FILE *out) {
  const bench_options *options = report->options;
  fprintf(out,
          "%" PRId64 " elements in %" PRId64
          " tensors, %s parameters, %s gradients, clip %g, %d ranks (%s, %d a node), %d threads, "
          "%s, %s\n",
          options->numel, options->tensors, bench_dtype_name(options->param_dtype),
          bench_dtype_name(options->grad_dtype), options->clip, report->world_size, report->backend,
          report->ranks_per_node, report->threads, report->isa,
          report->two_passes ? "two passes" : "one pass");
  spread(out, "step", report->step_ms, "ms");
  number(out, "  grad_ready", report->ready_ms, "ms");
  number(out, "  exchange", report->exchange_ms, "ms");
  number(out, "  reduce", report->reduce_ms, "ms");
  number(out, "  agree", report->agree_ms, "ms");
  number(out, "  update", report->update_ms, "ms");
  number(out, "  gather", report->gather_ms, "ms");
  number(out, "  first parameter", report->first_ms, "ms");
  number(out, "  CPU, all ranks", report->cpu_ms, "ms");
  number(out, "wait_param, all", report->wait_ms, "ms");
  number(out, "moved", bench_report_bytes(report) * 1e-6, "MB");
  number(out, "achieved", gbps(report, report->step_ms.median), "GB/s");
  spread(out, "limit", report->limit_ms, "ms");
  number(out, "limit", gbps(report, report->limit_ms.median), "GB/s");
  spread(out, "ratio to limit", report->ratio_to_limit, "");
  spread(out, "MPI baseline", report->mpi_baseline_ms, "ms");
  number(out, "  reduce_scatter", report->mpi_reduce_ms, "ms");
  number(out, "  update", report->mpi_update_ms, "ms");
  number(out, "  allgather", report->mpi_gather_ms, "ms");
  spread(out, "speed-up against MPI", report->speedup_vs_mpi, "");
  number(out, "sent per rank", (double)report->sent_bytes * 1e-6, "MB");
  number(out, "create", report->create_ms, "ms");
  number(out, "memory per rank", (double)report->memory_bytes * 1e-6, "MB");
  number(out, "  padding of that", (double)report->padding_bytes * 1e-6, "MB");
}

/* ---- JSON ---- */

static void json_case(bench_json *object, const bench_report *report) {
  const bench_options *options = report->options;
  bench_json_whole(object, "world_size", report->world_size);
  bench_json_whole(object, "ranks_per_node", report->ranks_per_node);
  bench_json_text(object, "backend", report->backend);
  bench_json_text(object, "isa", report->isa);
  bench_json_whole(object, "threads", report->threads);
  bench_json_whole(object, "numel", options->numel);
  bench_json_whole(object, "tensors", options->tensors);
  bench_json_dtypes(object, options);
  bench_json_real(object, "clip", options->clip);
  bench_json_whole(object, "passes", report->two_passes ? 2 : 1);
  bench_json_whole(object, "bucket_numel", report->bucket_numel);
  bench_json_whole(object, "share_params", options->share_params);
  bench_json_whole(object, "overlap", options->overlap);
  bench_json_whole(object, "steps", options->steps);
  bench_json_whole(object, "warmup", options->warmup);
}

static void json_times(bench_json *object, const bench_report *report) {
  bench_json_spread(object, "step_ms", report->step_ms);
  bench_json_real(object, "ready_ms", report->ready_ms);
  bench_json_real(object, "exchange_ms", report->exchange_ms);
  bench_json_real(object, "reduce_ms", report->reduce_ms);
  bench_json_real(object, "agree_ms", report->agree_ms);
  bench_json_real(object, "update_ms", report->update_ms);
  bench_json_real(object, "gather_ms", report->gather_ms);
  bench_json_real(object, "first_ms", report->first_ms);
  bench_json_real(object, "wait_ms", report->wait_ms);
  bench_json_real(object, "cpu_ms", report->cpu_ms);
  bench_json_real(object, "bytes_per_param", report->bytes_per_param);
  bench_json_whole(object, "bytes_moved", (int64_t)bench_report_bytes(report));
  bench_json_real(object, "achieved_gbps", gbps(report, report->step_ms.median));
  bench_json_real(object, "limit_gbps", gbps(report, report->limit_ms.median));
  bench_json_spread(object, "limit_ms", report->limit_ms);
  bench_json_spread(object, "ratio_to_limit", report->ratio_to_limit);
  bench_json_text(object, "limit_way", report->limit_way);
  bench_json_spread(object, "mpi_baseline_ms", report->mpi_baseline_ms);
  bench_json_real(object, "mpi_reduce_ms", report->mpi_reduce_ms);
  bench_json_real(object, "mpi_update_ms", report->mpi_update_ms);
  bench_json_real(object, "mpi_gather_ms", report->mpi_gather_ms);
  bench_json_spread(object, "speedup_vs_mpi", report->speedup_vs_mpi);
  bench_json_whole(object, "sent_bytes", report->sent_bytes);
  bench_json_real(object, "create_ms", report->create_ms);
  bench_json_whole(object, "memory_bytes", (int64_t)report->memory_bytes);
  bench_json_whole(object, "padding_bytes", (int64_t)report->padding_bytes);
}

bool bench_report_json(const bench_report *report, const char *path) {
  FILE *out = fopen(path, "w");
  if (!out) return false;
  bench_json object = bench_json_begin(out);
  json_case(&object, report);
  json_times(&object, report);
  bench_machine_json(&object, &report->machine);
  bench_json_end(&object);
  const bool good = !ferror(out);
  return fclose(out) == 0 && good;
}
