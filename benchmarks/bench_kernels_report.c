#include "bench_kernels_report.h"

#include <inttypes.h>

#include "bench_arguments.h"
#include "bench_json.h"

static double case_bytes(const bench_kernels_report *report, const bench_kernels_result *result) {
  return (double)bench_case_bytes(result->which) * (double)report->options->numel;
}

static double gbps(double bytes, double ms) {
  return bytes / ms * 1e-6;
}

/* Bandwidths, not times: a case moves other bytes than the copy before it. */
static bench_quartiles of_copy(const bench_kernels_report *report,
                               const bench_kernels_result *result) {
  const double factor = case_bytes(report, result) / (double)report->copy_bytes;
  const bench_quartiles times = result->copies;
  return (bench_quartiles){times.q1 * factor, times.median * factor, times.q3 * factor};
}

/* ---- the table ---- */

static void print_shapes(const bench_kernels_report *report, FILE *out) {
  fprintf(out, "\n%" PRId64 " parameters in two passes, bf16 / bf16\n%9s %12s %9s %10s\n",
          report->options->tensors * BENCH_TENSOR_NUMEL, "tensors", "a bucket", "launches", "ms");
  for (int k = 0; k < BENCH_SHAPES; ++k) {
    const bench_kernels_shape *shape = &report->shapes[k];
    char bucket[32] = "all";
    if (shape->bucket_numel) snprintf(bucket, sizeof bucket, "%" PRId64, shape->bucket_numel);
    fprintf(out, "%9" PRId64 " %12s %9" PRId64 " %10.3f\n", shape->tensors, bucket, shape->launches,
            shape->ms.median);
  }
  fprintf(out, "many tensors take %.3f times as long as one (quartiles %.3f to %.3f)\n",
          report->tensors_ratio.median, report->tensors_ratio.q1, report->tensors_ratio.q3);
}

void bench_kernels_report_table(const bench_kernels_report *report, FILE *out) {
  const bench_kernels_options *options = report->options;
  fprintf(out, "%s, %" PRId64 " parameters; medians of %" PRId64 " repetitions, ratios of pairs\n",
          options->device, options->numel, options->steps);
  fprintf(out, "%-22s %13s %8s %7s %9s %10s %8s %8s\n", "case", "params/grads", "sources", "bytes",
          "launches", "ms", "GB/s", "of copy");
  fprintf(out, "%-22s %13s %8s %7d %9d %10.3f %8.1f %8.3f\n", "copy", "", "", 8, 1,
          report->copy_ms.median, gbps((double)report->copy_bytes, report->copy_ms.median), 1.0);
  for (int k = 0; k < report->result_count; ++k) {
    const bench_kernels_result *result = &report->results[k];
    const bench_case *which = result->which;
    fprintf(out, "%-22s %6s / %4s %8d %7d %9" PRId64 " %10.3f %8.1f %8.3f\n", which->name,
            bench_dtype_name(which->param_dtype), bench_dtype_name(which->grad_dtype),
            which->contributions, bench_case_bytes(which), result->launches, result->ms.median,
            gbps(case_bytes(report, result), result->ms.median), of_copy(report, result).median);
  }
  if (options->tensors) print_shapes(report, out);
}

/* ---- JSON ---- */

static void write_case(bench_json *json, const bench_kernels_report *report,
                       const bench_kernels_result *result) {
  const bench_case *which = result->which;
  bench_json_item(json);
  bench_json_text(json, "name", which->name);
  bench_json_text(json, "param_dtype", bench_dtype_name(which->param_dtype));
  bench_json_text(json, "grad_dtype", bench_dtype_name(which->grad_dtype));
  bench_json_whole(json, "contributions", which->contributions);
  bench_json_whole(json, "bytes_per_param", bench_case_bytes(which));
  bench_json_whole(json, "launches", result->launches);
  bench_json_spread(json, "ms", result->ms);
  bench_json_real(json, "gbps", gbps(case_bytes(report, result), result->ms.median));
  bench_json_spread(json, "of_copy", of_copy(report, result));
  bench_json_item_end(json);
}

static void write_shapes(bench_json *json, const bench_kernels_report *report) {
  bench_json_list(json, "shapes");
  for (int k = 0; k < BENCH_SHAPES; ++k) {
    const bench_kernels_shape *shape = &report->shapes[k];
    bench_json_item(json);
    bench_json_whole(json, "numel", report->options->tensors * BENCH_TENSOR_NUMEL);
    bench_json_whole(json, "tensors", shape->tensors);
    bench_json_whole(json, "bucket_numel", shape->bucket_numel);
    bench_json_whole(json, "launches", shape->launches);
    bench_json_spread(json, "ms", shape->ms);
    bench_json_item_end(json);
  }
  bench_json_list_end(json);
  bench_json_spread(json, "tensors_ratio", report->tensors_ratio);
}

bool bench_kernels_report_json(const bench_kernels_report *report, const char *path) {
  const bench_kernels_options *options = report->options;
  FILE *out = fopen(path, "w");
  if (!out) return false;
  bench_json json = bench_json_begin(out);
  bench_json_text(&json, "device", options->device);
  bench_json_whole(&json, "threads", options->threads);
  bench_json_whole(&json, "numel", options->numel);
  bench_json_whole(&json, "bucket_numel", options->bucket_numel);
  bench_json_whole(&json, "steps", options->steps);
  bench_json_whole(&json, "warmup", options->warmup);
  bench_json_whole(&json, "copy_bytes", report->copy_bytes);
  bench_json_spread(&json, "copy_ms", report->copy_ms);
  bench_json_real(&json, "copy_gbps", gbps((double)report->copy_bytes, report->copy_ms.median));
  bench_json_list(&json, "cases");
  for (int k = 0; k < report->result_count; ++k) write_case(&json, report, &report->results[k]);
  bench_json_list_end(&json);
  if (options->tensors) write_shapes(&json, report);
  bench_json_end(&json);
  const bool good = !ferror(out);
  return fclose(out) == 0 && good;
}
