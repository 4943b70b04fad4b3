/* Times what checkpoints cost, beside a plain writer and reader, and checks every one of them. */
#include <string.h>
#include <xxhash.h>

#include "bench_checkpoint_report.h"
#include "bench_computation.h"
#include "bench_memory.h"
#include "bench_plain_file.h"
#include "bench_saved.h"
#include "bench_world.h"
#include "manifest.h"
#include "optimizer.h"

/* What was measured of one kind of asynchronous save. */
typedef struct background {
  bench_series step, with, call, copy, write, stall, seen; /* [rounds] */
} background;

typedef struct bench_run {
  const bench_checkpoint_options *options;
  bench_subject subject;
  bench_saved saved;
  bench_computation computation;
  bench_series plain_write, save, write, hash, commit; /* [rounds] */
  bench_series plain_read, load;
  double cached_plain, cached_load;
  double length_ms;
  double snapshot_mib;
  background pinned, snapshot;
  bench_series called;
  bench_extra extra[BENCH_EXTRA_COUNT];
} bench_run;

static void note(const bench_run *run, bench_series *series, double value) {
  if (!series->values)
    series->values = bench_alloc((size_t)run->options->subject.steps, sizeof *series->values);
  series->values[series->count++] = value;
}

static double larger(double a, double b) {
  return a > b ? a : b;
}

/* ---- write and read ---- */

static void note_save(bench_run *run, double save_ms) {
  const zero1_save_report report = bench_saved_report(&run->saved);
  note(run, &run->save, save_ms);
  note(run, &run->write, bench_max(report.write_ms));
  note(run, &run->hash, bench_max(report.hash_ms));
  note(run, &run->commit, bench_max(report.commit_ms));
}

/* What comes second has the disk that the first left behind: they change places. */
static void measure_write(bench_run *run) {
  for (int64_t i = 0; i < run->options->subject.steps; ++i)
    for (int turn = 0; turn < 2; ++turn) {
      if ((i + turn) % 2 == 0) {
        bench_saved_clear_plain(&run->saved);
        note(run, &run->plain_write, bench_saved_write_plain(&run->saved));
      } else {
        bench_saved_clear(&run->saved);
        note_save(run, bench_saved_save(&run->saved));
      }
    }
}

static void measure_read(bench_run *run) {
  for (int64_t i = 0; i < run->options->subject.steps; ++i)
    for (int turn = 0; turn < 2; ++turn) {
      double plain, checkpoint;
      bench_saved_drop(&run->saved, &plain, &checkpoint);
      if ((i + turn) % 2 == 0) {
        run->cached_plain = larger(run->cached_plain, plain);
        note(run, &run->plain_read, bench_saved_read_plain(&run->saved));
      } else {
        bench_subject_step(&run->subject); /* away from what was saved */
        run->cached_load = larger(run->cached_load, checkpoint);
        note(run, &run->load, bench_saved_load(&run->saved));
      }
    }
}

/* ---- saves beside training ---- */

static void require_done(const bench_run *run, zero1_status status) {
  bench_require(!status, "rank %d: step: %s", run->subject.rank,
                zero1_optimizer_last_error(run->subject.optimizer));
}

/* Forward from the first tensor to the last, backward from the last to the first, and the step. */
static void train(bench_run *run) {
  const bench_subject *subject = &run->subject;
  const double part_ms = run->length_ms / 2 / (double)subject->tensors;
  zero1_info info = {0};
  bench_computation_begin(&run->computation);
  for (int64_t i = 0; i < subject->tensors; ++i) {
    require_done(run, zero1_optimizer_wait_param(subject->optimizer, i, ZERO1_STREAM_DEFAULT));
    bench_computation_part(&run->computation, part_ms);
  }
  for (int64_t i = subject->tensors - 1; i >= 0; --i) {
    bench_computation_part(&run->computation, part_ms);
    require_done(run, zero1_optimizer_grad_ready(subject->optimizer, i, ZERO1_STREAM_DEFAULT));
  }
  require_done(run, zero1_optimizer_step(subject->optimizer));
  require_done(run, zero1_optimizer_info(subject->optimizer, &info, sizeof info));
  bench_require(!info.skipped, "rank %d: the step was skipped, for reason %d", subject->rank,
                info.skip_reason);
}

static double timed_step(bench_run *run) {
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  train(run);
  return bench_max(bench_ms_since(begin_ns));
}

static void repeat(bench_run *run, background *way, int32_t mode) {
  const double step_ms = timed_step(run);
  bench_saved_clear(&run->saved);
  const double call_ms = bench_saved_begin(&run->saved, mode);
  const int64_t begin_ns = zero1__now_ns();
  train(run);
  const double with_ms = bench_max(call_ms + bench_ms_since(begin_ns));
  bench_saved_wait(&run->saved);
  const zero1_save_report report = bench_saved_report(&run->saved);
  note(run, &way->step, step_ms);
  note(run, &way->with, with_ms);
  note(run, &way->seen, with_ms - step_ms);
  note(run, &way->call, bench_max(call_ms));
  note(run, &way->copy, bench_max(report.copy_ms));
  note(run, &way->write, bench_max(report.write_ms));
  note(run, &way->stall, bench_max(report.stall_ms));
  if (mode == ZERO1_SAVE_SNAPSHOT) {
    note(run, &run->called, bench_max(call_ms - report.copy_ms));
    run->snapshot_mib = bench_max((double)report.snapshot_bytes / (1 << 20));
  }
  bench_saved_load(&run->saved); /* the state at the call, though training went on */
}

static void measure_background(bench_run *run) {
  bench_computation_open(&run->computation, BENCH_TIMERS, 1);
  run->length_ms = run->options->length * bench_series_quartiles(&run->save).median;
  for (int64_t i = 0; i < run->options->subject.steps; ++i) {
    repeat(run, &run->pinned, ZERO1_SAVE_PINNED);
    repeat(run, &run->snapshot, ZERO1_SAVE_SNAPSHOT);
  }
  for (int64_t i = 0; i < run->called.count; ++i)
    run->called.values[i] /= bench_series_quartiles(&run->save).median;
  bench_computation_close(&run->computation);
}

/* ---- memory ---- */

/* In runs of their own: the thread that looks would take time of the others. */
static void measure_memory(bench_run *run) {
  for (int i = 0; i < BENCH_EXTRA_COUNT; ++i) {
    bench_memory memory;
    double resident_mib;
    if (i != BENCH_LOAD) bench_saved_clear(&run->saved);
    if (i == BENCH_LOAD) bench_subject_step(&run->subject);
    bench_memory_begin(&memory);
    if (i == BENCH_SAVE) bench_saved_save(&run->saved);
    if (i == BENCH_LOAD) bench_saved_load(&run->saved);
    if (i == BENCH_PINNED || i == BENCH_SNAPSHOT) {
      bench_saved_begin(&run->saved, i == BENCH_PINNED ? ZERO1_SAVE_PINNED : ZERO1_SAVE_SNAPSHOT);
      train(run);
      bench_saved_wait(&run->saved);
    }
    const double own_mib = bench_memory_end(&memory, &resident_mib);
    run->extra[i] = (bench_extra){bench_max(own_mib), bench_max(resident_mib)};
    if (i == BENCH_PINNED || i == BENCH_SNAPSHOT) bench_saved_load(&run->saved);
  }
}

/* ---- the whole ---- */

/* Of what a checkpoint holds, each rank its own at the same time; the slowest one's. */
static double xxh3_gbps(const bench_saved *saved) {
  const size_t piece = (size_t)ZERO1__CHUNK_BYTES;
  uint64_t sum = 0;
  MPI_Barrier(MPI_COMM_WORLD);
  const int64_t begin_ns = zero1__now_ns();
  for (size_t at = 0; at < saved->bytes; at += piece)
    sum ^= XXH3_64bits((const char *)saved->data + at,
                       saved->bytes - at < piece ? saved->bytes - at : piece);
  __asm__ volatile("" ::"r"(sum));
  const double ms = bench_ms_since(begin_ns);
  return -bench_max(-(double)saved->bytes / ms * 1e-6);
}

static bench_background background_of(const background *way) {
  return (bench_background){.step_ms = bench_series_quartiles(&way->step),
                            .with_ms = bench_series_quartiles(&way->with),
                            .call_ms = bench_series_quartiles(&way->call),
                            .copy_ms = bench_series_quartiles(&way->copy),
                            .write_ms = bench_series_quartiles(&way->write),
                            .stall_ms = bench_series_quartiles(&way->stall),
                            .seen_ms = bench_series_quartiles(&way->seen),
                            .stalled = bench_series_ratio(&way->stall, &way->write),
                            .stall_seen = bench_series_ratio(&way->seen, &way->write)};
}

static void report(bench_run *run, const char *filesystem) {
  const double xxh3 = xxh3_gbps(&run->saved);
  double bytes = (double)run->saved.bytes;
  MPI_Allreduce(MPI_IN_PLACE, &bytes, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  if (run->subject.rank != 0) return;
  bench_checkpoint_report report = {
      .options = run->options,
      .world_size = run->subject.world_size,
      .threads = run->subject.optimizer->settings.config.threads,
      .backend = zero1_comm_backend(run->subject.comm),
      .filesystem = filesystem,
      .bytes = bytes,
      .plain_write_ms = bench_series_quartiles(&run->plain_write),
      .save_ms = bench_series_quartiles(&run->save),
      .written = bench_series_ratio(&run->plain_write, &run->save),
      .write_ms = bench_series_quartiles(&run->write),
      .hash_ms = bench_series_quartiles(&run->hash),
      .commit_ms = bench_series_quartiles(&run->commit),
      .plain_read_ms = bench_series_quartiles(&run->plain_read),
      .load_ms = bench_series_quartiles(&run->load),
      .read = bench_series_ratio(&run->plain_read, &run->load),
      .cached_plain = run->cached_plain,
      .cached_load = run->cached_load,
      .length_ms = run->length_ms,
      .pinned = background_of(&run->pinned),
      .snapshot = background_of(&run->snapshot),
      .snapshot_mib = run->snapshot_mib,
      .called = bench_series_quartiles(&run->called),
      .xxh3_gbps = xxh3,
  };
  memcpy(report.extra, run->extra, sizeof report.extra);
  bench_machine_find(&report.machine);
  bench_checkpoint_table(&report, stdout);
  const char *json = run->options->subject.json;
  bench_require(!json || bench_checkpoint_json(&report, json), "--json: %s cannot be written",
                json);
}

static void free_series(bench_run *run) {
  bench_series *const series[] = {&run->plain_write, &run->save,       &run->write, &run->hash,
                                  &run->commit,      &run->plain_read, &run->load,  &run->called};
  for (size_t i = 0; i < sizeof series / sizeof *series; ++i) free(series[i]->values);
  background *const ways[] = {&run->pinned, &run->snapshot};
  for (int w = 0; w < 2; ++w) {
    background *const way = ways[w];
    bench_series *const all[] = {&way->step,  &way->with,  &way->call, &way->copy,
                                 &way->write, &way->stall, &way->seen};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]->values);
  }
}

static void measure(const bench_checkpoint_options *options) {
  bench_run run = {.options = options};
  char filesystem[64];
  const char *dir = options->dir ? options->dir : getenv("TMPDIR");
  if (!dir || !*dir) dir = "/tmp";
  bench_filesystem_name(dir, filesystem, sizeof filesystem);
  bench_subject_open(&run.subject, &options->subject);
  for (int i = 0; i < 2; ++i) bench_subject_step(&run.subject); /* moments that are not zero */
  bench_saved_open(&run.saved, &run.subject, dir);
  measure_write(&run);
  measure_read(&run);
  measure_memory(&run); /* a snapshot's memory stays: the first one is here */
  measure_background(&run);
  report(&run, filesystem);
  free_series(&run);
  bench_saved_close(&run.saved);
  bench_subject_close(&run.subject);
}

int main(int argc, char **argv) {
  bench_checkpoint_options options;
  char error[256];
  int rank, provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const bool good = bench_checkpoint_options_parse(&options, argc, argv, error, sizeof error);
  if (rank == 0 && !good) fprintf(stderr, "bench_checkpoint: %s\n", error);
  if (rank == 0 && good && options.subject.help) bench_checkpoint_options_help(stdout);
  if (good && !options.subject.help) measure(&options);
  MPI_Finalize();
  return good ? 0 : 2;
}
