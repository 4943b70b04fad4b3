/* Times how much of a step's communication backward and forward hide, and checks every result. */
#include <math.h>

#include "bench_check.h"
#include "bench_overlap_report.h"
#include "bench_world.h"

enum { MOST_WAYS = 2 };

/* One kind of computation: what it is, and what was measured. */
typedef struct run_way {
  bench_computation computation;
  bench_buckets buckets;
  bench_series alone, step, hidden; /* [steps] */
} run_way;

typedef struct bench_run {
  const bench_overlap_options *options;
  bench_subject subject;
  bench_check check;
  int64_t count;                  /* steps so far */
  double backward_ms, forward_ms; /* of a computation */
  int way_count;
  run_way ways[MOST_WAYS];
  run_way nothing;                              /* steps without computation */
  bench_series communication, exchange, gather; /* of these; [steps] */
} bench_run;

/* The slowest rank's. */
typedef struct overlap_times {
  double step_ms, exchange_ms, gather_ms, communication_ms;
} overlap_times;

static void note(const bench_run *run, bench_series *series, double value) {
  if (!series->values)
    series->values = bench_alloc((size_t)run->options->subject.steps, sizeof *series->values);
  series->values[series->count++] = value;
}

/* ---- a step ---- */

static void require_done(const bench_subject *subject, zero1_status status) {
  bench_require(!status, "rank %d: step: %s", subject->rank,
                zero1_optimizer_last_error(subject->optimizer));
}

/* The calls of a step, each with what the caller waited in it. */
enum { CALL_READY, CALL_STEP, CALL_WAIT };

static void call(run_way *way, const bench_subject *subject, int which, int64_t tensor) {
  zero1_optimizer *optimizer = subject->optimizer;
  const int64_t begin_ns = zero1__now_ns();
  require_done(subject, which == CALL_READY
                            ? zero1_optimizer_grad_ready(optimizer, tensor, ZERO1_STREAM_DEFAULT)
                        : which == CALL_STEP
                            ? zero1_optimizer_step(optimizer)
                            : zero1_optimizer_wait_param(optimizer, tensor, ZERO1_STREAM_DEFAULT));
  const int64_t end_ns = zero1__now_ns();
  bench_buckets_wait(&way->buckets, begin_ns, end_ns);
  bench_computation_waited(&way->computation, begin_ns, end_ns);
}

/* Backward from the last tensor to the first, the step, forward from the first to the last. */
static double compute_and_step(const bench_run *run, run_way *way, int with_step) {
  const bench_subject *subject = &run->subject;
  const double parts = (double)subject->tensors;
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  bench_computation_begin(&way->computation);
  for (int64_t i = subject->tensors - 1; i >= 0; --i) {
    bench_computation_part(&way->computation, run->backward_ms / parts);
    if (with_step) call(way, subject, CALL_READY, i);
  }
  if (with_step) call(way, subject, CALL_STEP, 0);
  for (int64_t i = 0; i < subject->tensors; ++i) {
    if (with_step) call(way, subject, CALL_WAIT, i);
    bench_computation_part(&way->computation, run->forward_ms / parts);
  }
  return bench_ms_since(begin_ns);
}

static overlap_times checked_step(bench_run *run, run_way *way, int counts) {
  const bench_subject *subject = &run->subject;
  zero1_info info = {0};
  bench_check_before(&run->check);
  const double step_ms = compute_and_step(run, way, 1);
  require_done(subject, zero1_optimizer_info(subject->optimizer, &info, sizeof info));
  bench_require(!info.skipped, "rank %d: the step was skipped, for reason %d", subject->rank,
                info.skip_reason);
  bench_buckets_end_step(&way->buckets, subject->optimizer, counts);
  const bench_step_times checked = {.grad_norm = info.grad_norm, .clip_coef = info.clip_coef};
  bench_check_after(&run->check, ++run->count, &checked);
  return (overlap_times){bench_max(step_ms), bench_max(info.exchange_ms), bench_max(info.gather_ms),
                         bench_max(info.exchange_ms + info.gather_ms)};
}

/* ---- how long to compute ---- */

static double alone(bench_run *run, run_way *way) {
  return bench_max(compute_and_step(run, way, 0));
}

/* Of cores as fast as they were just now. */
static void set_rate(const bench_run *run, run_way *way, double alone_ms) {
  if (way->computation.kind == BENCH_BUSY)
    way->computation.rate *= (run->backward_ms + run->forward_ms) / alone_ms;
}

static double median_of(const bench_run *run, bench_series *series) {
  const double median = run->options->length * bench_series_quartiles(series).median;
  free(series->values);
  return median;
}

/* Warm-up: steps without computation say how long exchange and gathers take. Busy ranks then find
 * out how much they compute in that time while all of them do. */
static void warm_up(bench_run *run) {
  enum { TRIES = 4 };
  const size_t warmup = (size_t)run->options->subject.warmup;
  bench_series exchange = {0, bench_alloc(warmup, sizeof *exchange.values)};
  bench_series gather = {0, bench_alloc(warmup, sizeof *gather.values)};
  const double norm = bench_check_norm(&run->subject);
  zero1_info info;
  for (size_t i = 0; i < warmup; ++i) {
    const overlap_times times = checked_step(run, &run->nothing, 0);
    exchange.values[exchange.count++] = times.exchange_ms;
    gather.values[gather.count++] = times.gather_ms;
  }
  zero1_optimizer_info(run->subject.optimizer, &info, sizeof info);
  bench_require(fabs(info.grad_norm - norm) <= 1e-6 * run->subject.world_size * norm,
                "wrong result: grad_norm is %.9g, not %.9g", info.grad_norm, norm);
  run->backward_ms = median_of(run, &exchange);
  run->forward_ms = median_of(run, &gather);
  bench_require(run->backward_ms + run->forward_ms > 0,
                "the ranks do not communicate: there is nothing to hide");
  for (int w = 0; w < run->way_count; ++w)
    for (int i = 0; i < TRIES; ++i) set_rate(run, &run->ways[w], alone(run, &run->ways[w]));
}

/* ---- repetitions ---- */

/* The same computation before the step and after it: what drifts slowly drops out of their mean. */
static void repeat_way(bench_run *run, run_way *way, double communication_ms) {
  const double before_ms = alone(run, way);
  const double step_ms = checked_step(run, way, 1).step_ms;
  const double after_ms = alone(run, way), alone_ms = (before_ms + after_ms) / 2;
  note(run, &way->alone, alone_ms);
  note(run, &way->step, step_ms);
  note(run, &way->hidden, 1 - (step_ms - alone_ms) / communication_ms);
  set_rate(run, way, after_ms);
}

static void repeat(bench_run *run) {
  for (int64_t i = 0; i < run->options->subject.steps; ++i) {
    const overlap_times by_itself = checked_step(run, &run->nothing, 1);
    note(run, &run->nothing.step, by_itself.step_ms);
    note(run, &run->communication, by_itself.communication_ms);
    note(run, &run->exchange, by_itself.exchange_ms);
    note(run, &run->gather, by_itself.gather_ms);
    for (int w = 0; w < run->way_count; ++w)
      repeat_way(run, &run->ways[w], by_itself.communication_ms);
  }
}

/* ---- the whole ---- */

static void open_way(bench_run *run, run_way *way, bench_computation_kind kind) {
  const zero1_optimizer *optimizer = run->subject.optimizer;
  bench_computation_open(&way->computation, kind, optimizer->settings.config.threads);
  bench_buckets_open(&way->buckets, optimizer, 2 * run->subject.tensors + 1);
}

static void close_way(run_way *way) {
  bench_computation_close(&way->computation);
  bench_buckets_close(&way->buckets);
  free(way->alone.values);
  free(way->step.values);
  free(way->hidden.values);
}

static void report(bench_run *run) {
  const zero1_optimizer *optimizer = run->subject.optimizer;
  bench_overlap_way ways[MOST_WAYS];
  for (int w = 0; w < run->way_count; ++w) {
    run_way *way = &run->ways[w];
    bench_buckets_mean(&way->buckets);
    ways[w] = (bench_overlap_way){.kind = way->computation.kind,
                                  .computation_ms = bench_series_quartiles(&way->alone),
                                  .step_ms = bench_series_quartiles(&way->step),
                                  .hidden = bench_series_quartiles(&way->hidden),
                                  .buckets = &way->buckets};
  }
  bench_overlap_report report = {
      .options = run->options,
      .world_size = run->subject.world_size,
      .ranks_per_node = zero1_comm_ranks_per_node(run->subject.comm),
      .threads = optimizer->settings.config.threads,
      .bucket_numel = optimizer->settings.config.bucket_numel,
      .backend = zero1_comm_backend(run->subject.comm),
      .communication_ms = bench_series_quartiles(&run->communication),
      .exchange_ms = bench_series_quartiles(&run->exchange),
      .gather_ms = bench_series_quartiles(&run->gather),
      .step_ms = bench_series_quartiles(&run->nothing.step),
      .way_count = run->way_count,
      .ways = ways,
  };
  if (run->subject.rank != 0) return;
  bench_machine_find(&report.machine);
  bench_overlap_table(&report, stdout);
  const char *json = run->options->subject.json;
  bench_require(!json || bench_overlap_json(&report, json), "--json: %s cannot be written", json);
}

static void measure(const bench_overlap_options *options) {
  bench_run run = {.options = options};
  bench_subject_open(&run.subject, &options->subject);
  bench_require(run.subject.world_size > 1,
                "one rank has nobody to communicate with: it takes mpirun -n 2, or more");
  bench_check_open(&run.check, &run.subject);
  open_way(&run, &run.nothing, BENCH_NOTHING);
  if (options->timers) open_way(&run, &run.ways[run.way_count++], BENCH_TIMERS);
  if (options->busy) open_way(&run, &run.ways[run.way_count++], BENCH_BUSY);
  warm_up(&run);
  repeat(&run);
  report(&run);
  close_way(&run.nothing);
  for (int w = 0; w < run.way_count; ++w) close_way(&run.ways[w]);
  free(run.communication.values);
  free(run.exchange.values);
  free(run.gather.values);
  bench_check_close(&run.check);
  bench_subject_close(&run.subject);
}

int main(int argc, char **argv) {
  bench_overlap_options options;
  char error[256];
  int rank, provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const bool good = bench_overlap_options_parse(&options, argc, argv, error, sizeof error);
  if (rank == 0 && !good) fprintf(stderr, "bench_overlap: %s\n", error);
  if (rank == 0 && good && options.subject.help) bench_overlap_options_help(stdout);
  if (good && !options.subject.help) measure(&options);
  MPI_Finalize();
  return good ? 0 : 2;
}
