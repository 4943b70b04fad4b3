/* Times the full step of a sharded optimizer beside the memory's limit and beside MPI's textbook
 * way, and checks every result. */
#include <math.h>
#include <string.h>

#include "bench_baseline.h"
#include "bench_check.h"
#include "bench_limit.h"
#include "bench_options.h"
#include "bench_report.h"
#include "bench_world.h"
#include "optimizer.h"

typedef struct bench_run {
  const bench_options *options;
  bench_subject subject;
  bench_check check;
  bench_limit limit;
  bench_baseline baseline;
  int has_limit, has_baseline;
  /* what counts; [steps] each */
  bench_series step, ready, exchange, reduce, agree, update, gather, first, wait, cpu;
  bench_series limit_times, mpi, mpi_reduce, mpi_update, mpi_gather;
} bench_run;

static void note(const bench_run *run, bench_series *series, double value) {
  if (!series->values)
    series->values = bench_alloc((size_t)run->options->steps, sizeof *series->values);
  series->values[series->count++] = value;
}

static void note_step(bench_run *run, const bench_step_times *times) {
  note(run, &run->step, times->step_ms);
  note(run, &run->ready, times->ready_ms);
  note(run, &run->exchange, times->exchange_ms);
  note(run, &run->reduce, times->reduce_ms);
  note(run, &run->agree, times->agree_ms);
  note(run, &run->update, times->update_ms);
  note(run, &run->gather, times->gather_ms);
  note(run, &run->first, times->first_ms);
  note(run, &run->wait, times->wait_ms);
  note(run, &run->cpu, times->cpu_ms);
}

static void note_baseline(bench_run *run, const bench_baseline_times *times) {
  note(run, &run->mpi, times->total_ms);
  note(run, &run->mpi_reduce, times->reduce_ms);
  note(run, &run->mpi_update, times->update_ms);
  note(run, &run->mpi_gather, times->gather_ms);
}

/* ---- repetitions ---- */

static void check_norm(const bench_run *run, double norm, const bench_step_times *times) {
  /* Of sums that are rounded to fp32; or of a node's that are rounded to bf16, by 2^-9 at most. */
  const double each = run->subject.grad_wire ? 0x1p-9 : 1e-6;
  const double tolerance = each * run->subject.world_size;
  const double clip = run->options->clip;
  const double coef = clip > 0 ? fmin(1, clip / (norm + 1e-6)) : 1;
  bench_require(fabs(times->grad_norm - norm) <= tolerance * norm,
                "wrong result: grad_norm is %.9g, not %.9g", times->grad_norm, norm);
  bench_require(fabs(times->clip_coef - coef) <= tolerance * coef,
                "wrong result: clip_coef is %.9g, not %.9g", times->clip_coef, coef);
}

static bench_step_times checked_step(bench_run *run, int64_t count) {
  bench_check_before(&run->check);
  const bench_step_times times = bench_subject_step(&run->subject);
  bench_check_after(&run->check, count, &times);
  return times;
}

static void repeat(bench_run *run) {
  const bench_options *options = run->options;
  const double norm = bench_check_norm(&run->subject);
  for (int64_t i = 0; i < options->warmup + options->steps; ++i) {
    const int counts = i >= options->warmup;
    const bench_step_times step = checked_step(run, i + 1);
    if (counts) note_step(run, &step);
    if (i == 0) check_norm(run, norm, &step);
    if (run->has_baseline) {
      const bench_baseline_times baseline = bench_baseline_run(&run->baseline);
      if (counts) note_baseline(run, &baseline);
      if (i == 0) bench_check_alike(&run->check, run->baseline.params);
    }
    if (run->has_limit) {
      if (i + 1 == options->warmup) bench_limit_tune(&run->limit);
      const double limit_ms = bench_limit_run(&run->limit);
      if (counts) note(run, &run->limit_times, limit_ms);
    }
  }
}

/* ---- the report ---- */

static double median(const bench_series *series) {
  return bench_series_quartiles(series).median;
}

static void find_memory(const bench_run *run, bench_report *report) {
  zero1_memory memory;
  zero1_optimizer_memory(run->subject.optimizer, &memory, sizeof memory);
  report->memory_bytes = (uint64_t)bench_max((double)memory.total_bytes);
  report->sent_bytes = run->subject.sent_bytes;
  report->padding_bytes = (uint64_t)bench_max((double)memory.padding_bytes);
}

static bench_report report_of(const bench_run *run) {
  const zero1_optimizer *optimizer = run->subject.optimizer;
  bench_report report = {
      .options = run->options,
      .world_size = run->subject.world_size,
      .ranks_per_node = zero1_comm_ranks_per_node(run->subject.comm),
      .threads = optimizer->settings.config.threads,
      .bucket_numel = optimizer->settings.config.bucket_numel,
      .backend = zero1_comm_backend(run->subject.comm),
      .isa = run->limit.loops->isa,
      .limit_way = run->has_limit ? bench_limit_way(&run->limit) : "none",
      .two_passes = run->limit.two_passes,
      .bytes_per_param = run->limit.bytes_per_param,
      .create_ms = run->subject.create_ms,
      .step_ms = bench_series_quartiles(&run->step),
      .limit_ms = bench_series_quartiles(&run->limit_times),
      .mpi_baseline_ms = bench_series_quartiles(&run->mpi),
      .ratio_to_limit = bench_series_ratio(&run->limit_times, &run->step),
      .speedup_vs_mpi = bench_series_ratio(&run->mpi, &run->step),
      .ready_ms = median(&run->ready),
      .exchange_ms = median(&run->exchange),
      .reduce_ms = median(&run->reduce),
      .agree_ms = median(&run->agree),
      .update_ms = median(&run->update),
      .gather_ms = median(&run->gather),
      .first_ms = median(&run->first),
      .wait_ms = median(&run->wait),
      .cpu_ms = median(&run->cpu),
      .mpi_reduce_ms = median(&run->mpi_reduce),
      .mpi_update_ms = median(&run->mpi_update),
      .mpi_gather_ms = median(&run->mpi_gather),
  };
  find_memory(run, &report);
  bench_machine_find(&report.machine);
  return report;
}

static void free_series(bench_run *run) {
  bench_series *all[] = {&run->step,  &run->ready,      &run->exchange,   &run->reduce,
                         &run->agree, &run->update,     &run->gather,     &run->limit_times,
                         &run->mpi,   &run->mpi_reduce, &run->mpi_update, &run->mpi_gather,
                         &run->first, &run->wait,       &run->cpu};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]->values);
}

static void measure(const bench_options *options) {
  bench_run run = {.options = options, .has_limit = options->limit != 0};
  bench_subject_open(&run.subject, options);
  bench_check_open(&run.check, &run.subject);
  bench_limit_open(&run.limit, &run.subject, options); /* it knows what a step moves, too */
  run.has_baseline = options->baseline && bench_baseline_open(&run.baseline, &run.subject, options);
  repeat(&run);
  const bench_report report = report_of(&run);
  if (run.subject.rank == 0) {
    bench_report_table(&report, stdout);
    if (options->json)
      bench_require(bench_report_json(&report, options->json), "--json: %s cannot be written",
                    options->json);
  }
  if (run.has_baseline) bench_baseline_close(&run.baseline);
  bench_limit_close(&run.limit);
  bench_check_close(&run.check);
  bench_subject_close(&run.subject);
  free_series(&run);
}

int main(int argc, char **argv) {
  bench_options options;
  char error[256];
  int rank, provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const bool good = bench_options_parse(&options, argc, argv, error, sizeof error);
  if (rank == 0 && !good) fprintf(stderr, "bench_step: %s\n", error);
  if (rank == 0 && good && options.help) bench_options_help(stdout);
  if (good && !options.help) measure(&options);
  MPI_Finalize();
  return good ? 0 : 2;
}
