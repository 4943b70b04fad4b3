#include "bench_overlap_report.h"

#include <inttypes.h>

#include "bench_arguments.h"
#include "bench_json.h"
#include "bench_subject.h"

/* What the caller waited for, milliseconds a step. */
typedef struct exposure {
  double exchange_ms, gather_ms;
  double rest_ms;   /* the verdict, updates, hand-overs */
  double slowed_ms; /* and by what the computation itself took longer; below 0: less long */
} exposure;

static exposure exposure_of(const bench_overlap_way *way) {
  exposure sum = {0};
  for (int64_t b = 0; b < way->buckets->count; ++b) {
    sum.exchange_ms += way->buckets->buckets[b].exchange_exposed_ms;
    sum.gather_ms += way->buckets->buckets[b].gather_exposed_ms;
  }
  sum.rest_ms = way->buckets->waited_ms - sum.exchange_ms - sum.gather_ms;
  sum.slowed_ms = way->step_ms.median - way->computation_ms.median - way->buckets->waited_ms;
  return sum;
}

/* ---- the table ---- */

static void spread(FILE *out, const char *what, bench_quartiles of, const char *unit) {
  fprintf(out, "  %-30s %9.3f%s (quartiles %.3f to %.3f)\n", what, of.median, unit, of.q1, of.q3);
}

static void number(FILE *out, const char *what, double value) {
  fprintf(out, "  %-30s %9.3f ms\n", what, value);
}

static void table_way(const bench_overlap_way *way, FILE *out) {
  const exposure exposed = exposure_of(way);
  fprintf(out, "%s\n",
          way->kind == BENCH_TIMERS ? "timers: backward and forward sleep"
                                    : "busy: backward and forward keep every core of the ranks");
  spread(out, "computation alone", way->computation_ms, " ms");
  spread(out, "step with it", way->step_ms, " ms");
  spread(out, "hidden", way->hidden, "");
  number(out, "waited for the exchange", exposed.exchange_ms);
  number(out, "waited for parameters", exposed.gather_ms);
  number(out, "waited for verdict, updates", exposed.rest_ms);
  number(out, "computation slowed down by", exposed.slowed_ms);
}

static void table_buckets(const bench_overlap_report *report, FILE *out) {
  fprintf(out, "%6s", "bucket");
  for (int w = 0; w < report->way_count; ++w)
    fprintf(out, " | %-7s exchange  exposed   gather  exposed",
            bench_computation_name(report->ways[w].kind));
  fputc('\n', out);
  for (int64_t b = 0; b < report->ways[0].buckets->count; ++b) {
    fprintf(out, "%6" PRId64, b);
    for (int w = 0; w < report->way_count; ++w) {
      const bench_bucket *bucket = &report->ways[w].buckets->buckets[b];
      fprintf(out, " | %16.2f %8.2f %8.2f %8.2f", bucket->exchange_ms, bucket->exchange_exposed_ms,
              bucket->gather_ms, bucket->gather_exposed_ms);
    }
    fputc('\n', out);
  }
}

void bench_overlap_table(const bench_overlap_report *report, FILE *out) {
  const bench_options *subject = &report->options->subject;
  fprintf(out,
          "%s%s%" PRId64 " elements in %" PRId64 " tensors and %" PRId64
          " buckets, %s parameters, %s gradients, clip %g, %d ranks (%s, %d a node), %d threads\n",
          report->options->label ? report->options->label : "", report->options->label ? ": " : "",
          subject->numel, subject->tensors, report->ways[0].buckets->count,
          bench_dtype_name(subject->param_dtype), bench_dtype_name(subject->grad_dtype),
          subject->clip, report->world_size, report->backend, report->ranks_per_node,
          report->threads);
  spread(out, "communication alone", report->communication_ms, " ms");
  spread(out, "  exchange", report->exchange_ms, " ms");
  spread(out, "  gathers", report->gather_ms, " ms");
  spread(out, "step without computation", report->step_ms, " ms");
  for (int w = 0; w < report->way_count; ++w) table_way(&report->ways[w], out);
  table_buckets(report, out);
}

/* ---- JSON ---- */

static void json_case(bench_json *object, const bench_overlap_report *report) {
  const bench_options *subject = &report->options->subject;
  bench_json_text(object, "label", report->options->label ? report->options->label : "");
  bench_json_whole(object, "world_size", report->world_size);
  bench_json_whole(object, "ranks_per_node", report->ranks_per_node);
  bench_json_text(object, "backend", report->backend);
  bench_json_whole(object, "threads", report->threads);
  bench_json_whole(object, "numel", subject->numel);
  bench_json_whole(object, "tensors", subject->tensors);
  bench_json_dtypes(object, subject);
  bench_json_real(object, "clip", subject->clip);
  bench_json_whole(object, "bucket_numel", report->bucket_numel);
  bench_json_whole(object, "overlap", subject->overlap);
  bench_json_real(object, "length", report->options->length);
  bench_json_whole(object, "steps", subject->steps);
  bench_json_spread(object, "communication_ms", report->communication_ms);
  bench_json_spread(object, "exchange_ms", report->exchange_ms);
  bench_json_spread(object, "gather_ms", report->gather_ms);
  bench_json_spread(object, "step_ms", report->step_ms);
}

static void json_way(bench_json *object, const bench_overlap_way *way) {
  const exposure exposed = exposure_of(way);
  bench_json_item(object);
  bench_json_text(object, "computation", bench_computation_name(way->kind));
  bench_json_spread(object, "computation_ms", way->computation_ms);
  bench_json_spread(object, "step_ms", way->step_ms);
  bench_json_spread(object, "hidden", way->hidden);
  bench_json_real(object, "exposed_exchange_ms", exposed.exchange_ms);
  bench_json_real(object, "exposed_gather_ms", exposed.gather_ms);
  bench_json_real(object, "exposed_rest_ms", exposed.rest_ms);
  bench_json_real(object, "slowed_ms", exposed.slowed_ms);
  bench_json_list(object, "buckets");
  for (int64_t b = 0; b < way->buckets->count; ++b) {
    const bench_bucket *bucket = &way->buckets->buckets[b];
    bench_json_item(object);
    bench_json_whole(object, "bucket", b);
    bench_json_real(object, "exchange_ms", bucket->exchange_ms);
    bench_json_real(object, "exchange_exposed_ms", bucket->exchange_exposed_ms);
    bench_json_real(object, "gather_ms", bucket->gather_ms);
    bench_json_real(object, "gather_exposed_ms", bucket->gather_exposed_ms);
    bench_json_item_end(object);
  }
  bench_json_list_end(object);
  bench_json_item_end(object);
}

bool bench_overlap_json(const bench_overlap_report *report, const char *path) {
  FILE *out = fopen(path, "w");
  if (!out) return false;
  bench_json object = bench_json_begin(out);
  json_case(&object, report);
  bench_json_list(&object, "computations");
  for (int w = 0; w < report->way_count; ++w) json_way(&object, &report->ways[w]);
  bench_json_list_end(&object);
  bench_machine_json(&object, &report->machine);
  bench_json_end(&object);
  const bool good = !ferror(out);
  return fclose(out) == 0 && good;
}
