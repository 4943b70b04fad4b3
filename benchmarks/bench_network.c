/* Times the step of an optimizer whose ranks are on several hosts, beside what the wire between
 * them takes, and beside MPI's textbook way in fp32 and in 16 bits. Every result is checked.
 *
 * The wire's limit, h hosts: of the gradients each host sends (h - 1)/h, summed over its own ranks,
 * and receives as much; of the parameters likewise. They do not overlap: no parameter is known
 * before the last gradient. So (h - 1)/h * numel * (grad bytes + param bytes) each way. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "bench_arguments.h"
#include "bench_baseline.h"
#include "bench_check.h"
#include "bench_json.h"
#include "bench_machine.h"
#include "bench_stream.h"
#include "bench_world.h"
#include "optimizer.h"

/* ---- options ---- */

typedef struct network_options {
  bench_options step;
  double gbits, delay_ms;
} network_options;

#define FIELD(name) offsetof(network_options, name)

static const bench_argument rows[] = {
    {"numel", "N", BENCH_WHOLE, FIELD(step.numel), "8Mi", 1, 1e12, "elements"},
    {"tensors", "N", BENCH_WHOLE, FIELD(step.tensors), "16", 1, 1e8, "tensors"},
    {"param-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(step.param_dtype), "bf16", 0, 0, "parameters"},
    {"grad-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(step.grad_dtype), "bf16", 0, 0, "gradients"},
    {"param-wire", "fp32|bf16", BENCH_DTYPE, FIELD(step.param_wire), "bf16", 0, 0,
     "parameters between ranks"},
    {"grad-wire", "fp32|bf16", BENCH_DTYPE, FIELD(step.grad_wire), "bf16", 0, 0,
     "gradients between ranks, and the sums of a host's ranks between hosts"},
    {"steps", "N", BENCH_WHOLE, FIELD(step.steps), "9", 1, 1e6, "repetitions that count"},
    {"warmup", "N", BENCH_WHOLE, FIELD(step.warmup), "2", 1, 1e6, "repetitions before them"},
    {"threads", "N", BENCH_WHOLE, FIELD(step.threads), "1", 0, 1024, "threads per rank"},
    {"bucket-numel", "N", BENCH_WHOLE, FIELD(step.bucket_numel), "0", 0, 1e12,
     "most elements in a bucket; 0: the library's default"},
    {"ranks-per-node", "N", BENCH_WHOLE, FIELD(step.ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: all apart"},
    {"no-baseline", NULL, BENCH_OFF, FIELD(step.baseline), NULL, 0, 0, "without MPI's way"},
    {"gbits", "X", BENCH_REAL, FIELD(gbits), "0", 0, 1e6,
     "the links' nominal rate, Gbit/s; 0: unknown"},
    {"delay-ms", "X", BENCH_REAL, FIELD(delay_ms), "0", 0, 1e6,
     "from host to host, as far as known"},
    {"json", "FILE", BENCH_TEXT, FIELD(step.json), NULL, 0, 0,
     "writes the results there, as one object"},
    {"help", NULL, BENCH_ON, FIELD(step.help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

static bool parse(network_options *options, int argc, char **argv, char *error,
                  size_t error_bytes) {
  *options = (network_options){.step = {.share_params = 1, .overlap = 1, .baseline = 1}};
  if (!bench_arguments_parse(rows, ROW_COUNT, options, argc, argv, error, error_bytes))
    return false;
  if (options->step.help || options->step.tensors <= options->step.numel) return true;
  snprintf(error, error_bytes, "--tensors: more of them than elements");
  return false;
}

static void help(void) {
  puts(
      "usage: mpirun ... bench_network [options]\n\n"
      "Times a step between hosts, beside raw TCP streams over the same links and the textbook "
      "way\n"
      "(MPI_Reduce_scatter_block, AdamW, MPI_Allgather) in fp32 and in 16 bits, in turns.\n"
      "scripts/netns_bench makes hosts of one machine to run it on.\n");
  bench_arguments_help(rows, ROW_COUNT, stdout);
}

/* ---- what leaves a host ---- */

/* Bytes sent so far by all interfaces of this host but the loopback, headers included; 0 where the
 * kernel does not tell. */
static double sent_bytes(void) {
  char line[512];
  double total = 0;
  FILE *file = fopen("/proc/self/net/dev", "r");
  while (file && fgets(line, sizeof line, file)) {
    char name[64];
    double sent;
    /* of each direction 8 numbers, bytes first */
    if (sscanf(line, " %63[^:]: %*f %*f %*f %*f %*f %*f %*f %*f %lf", name, &sent) == 2 &&
        strcmp(name, "lo") != 0)
      total += sent;
  }
  if (file) fclose(file);
  return total;
}

/* ---- the sides ---- */

enum { TEXTBOOK_FP32, TEXTBOOK_16, TEXTBOOKS };

typedef struct side {
  bench_subject subject; /* the same, seen in the side's data types; borrowed parts */
  bench_baseline baseline;
  int open;
  bench_series total, reduce, update, gather, sent;
} side;

typedef struct run {
  const network_options *options;
  bench_subject subject;
  bench_check check;
  bench_stream stream;
  side sides[TEXTBOOKS];
  bench_series step, ready, exchange, reduce, agree, update, gather, sent, rate;
} run;

static void note(const run *self, bench_series *series, double value) {
  if (!series->values)
    series->values = bench_alloc((size_t)self->options->step.steps, sizeof *series->values);
  series->values[series->count++] = value;
}

static void open_side(run *self, int which) {
  side *at = &self->sides[which];
  bench_options options = self->options->step;
  at->subject = self->subject;
  if (which == TEXTBOOK_FP32)
    at->subject.param_dtype = at->subject.grad_dtype = options.param_dtype = options.grad_dtype =
        ZERO1_DTYPE_FP32;
  else if (options.grad_dtype != ZERO1_DTYPE_BF16 || options.param_dtype != ZERO1_DTYPE_BF16)
    return; /* there is nothing of 16 bits to send */
  at->open = bench_baseline_open(&at->baseline, &at->subject, &options);
  at->baseline.narrow_sums = which == TEXTBOOK_16;
}

/* A wire is never wider than what crosses it is in memory. */
static int64_t crossing_bytes(int64_t dtype, int64_t wire) {
  return dtype == ZERO1_DTYPE_BF16 || wire == ZERO1_DTYPE_BF16 ? 2 : 4;
}

static int64_t bytes_each(const run *self) {
  return crossing_bytes(self->subject.grad_dtype, self->subject.grad_wire) +
         crossing_bytes(self->subject.param_dtype, self->subject.param_wire);
}

/* Of one step, each way: see above. */
static double wire_bytes(const run *self) {
  const double hosts = self->stream.host_count;
  return (hosts - 1) / hosts * (double)self->subject.numel * (double)bytes_each(self);
}

/* ---- repetitions ---- */

/* The parameters after the first step: fp32 sums in another order, or sums of 16 bits, move the
 * first update, of about lr, by less than 2^-7 of itself; and what is bf16 may round the other way.
 */
static void check_side(const run *self, const side *at) {
  for (int64_t i = 0; i < self->check.count; ++i) {
    const bench_sample *sample = &self->check.samples[i];
    const double is = bench_load(at->baseline.params, sample->flat, at->subject.param_dtype);
    const double should_be = bench_load(self->subject.params[sample->tensor], sample->element,
                                        self->subject.param_dtype);
    bench_require(fabs(is - should_be) <= 0x1p-7 * (fabs(should_be) + self->subject.group.lr),
                  "wrong result: the textbook's parameter %" PRId64 " is %.9g, not %.9g",
                  sample->flat, is, should_be);
  }
}

static void run_side(run *self, side *at, int counts) {
  bench_stream_meet();
  const double before = sent_bytes();
  const bench_baseline_times times = bench_baseline_run(&at->baseline);
  bench_stream_meet();
  const double sent = bench_max(sent_bytes() - before);
  if (at->baseline.count == 1) check_side(self, at);
  if (!counts) return;
  note(self, &at->total, times.total_ms);
  note(self, &at->reduce, times.reduce_ms);
  note(self, &at->update, times.update_ms);
  note(self, &at->gather, times.gather_ms);
  note(self, &at->sent, sent);
}

static void run_step(run *self, int64_t count, int counts) {
  bench_check_before(&self->check);
  bench_stream_meet();
  const double before = sent_bytes();
  const bench_step_times times = bench_subject_step(&self->subject);
  bench_stream_meet();
  const double sent = bench_max(sent_bytes() - before);
  bench_check_after(&self->check, count, &times);
  if (!counts) return;
  note(self, &self->step, times.step_ms);
  note(self, &self->ready, times.ready_ms);
  note(self, &self->exchange, times.exchange_ms);
  note(self, &self->reduce, times.reduce_ms);
  note(self, &self->agree, times.agree_ms);
  note(self, &self->update, times.update_ms);
  note(self, &self->gather, times.gather_ms);
  note(self, &self->sent, sent);
}

/* Long enough that TCP's start does not count. */
static int64_t stream_bytes(run *self) {
  const double enough_s = 0.25;
  double rate = 0;
  for (int i = 0; i < 3; ++i) rate = fmax(rate, bench_stream_run(&self->stream, 8 << 20));
  return (int64_t)(rate * enough_s);
}

static void repeat(run *self) {
  const bench_options *options = &self->options->step;
  const int64_t stream = stream_bytes(self);
  for (int64_t i = 0; i < options->warmup + options->steps; ++i) {
    const int counts = i >= options->warmup;
    run_step(self, i + 1, counts);
    const double rate = bench_stream_run(&self->stream, stream);
    if (counts) note(self, &self->rate, rate * 8e-9);
    for (int which = 0; which < TEXTBOOKS; ++which)
      if (self->sides[which].open) run_side(self, &self->sides[which], counts);
  }
}

/* ---- the report ---- */

static double median(const bench_series *series) {
  return bench_series_quartiles(series).median;
}

/* What the wire takes at the raw rate of the same repetition, over the step. */
static bench_quartiles efficiency(const run *self) {
  const int64_t count = self->step.count;
  bench_series limit = {count, bench_alloc((size_t)count, sizeof *limit.values)};
  for (int64_t i = 0; i < count; ++i)
    limit.values[i] = wire_bytes(self) * 8e-6 / self->rate.values[i];
  const bench_quartiles ratio = bench_series_ratio(&limit, &self->step);
  free(limit.values);
  return ratio;
}

static double nominal_ms(const run *self) {
  return self->options->gbits > 0 ? wire_bytes(self) * 8e-6 / self->options->gbits : NAN;
}

static void json_case(bench_json *object, const run *self) {
  bench_json_whole(object, "hosts", self->stream.host_count);
  bench_json_whole(object, "ranks_per_host", self->stream.ranks_per_host);
  bench_json_real(object, "nominal_gbits", self->options->gbits);
  bench_json_real(object, "delay_ms", self->options->delay_ms);
  bench_json_text(object, "backend", zero1_comm_backend(self->subject.comm));
  bench_json_whole(object, "ranks_per_node", zero1_comm_ranks_per_node(self->subject.comm));
  bench_json_whole(object, "numel", self->subject.numel);
  bench_json_dtypes(object, &self->options->step);
  bench_json_whole(object, "bucket_numel", self->subject.optimizer->settings.config.bucket_numel);
  bench_json_whole(object, "steps", self->options->step.steps);
}

static void json_times(bench_json *object, const run *self) {
  bench_json_spread(object, "step_ms", bench_series_quartiles(&self->step));
  bench_json_real(object, "ready_ms", median(&self->ready));
  bench_json_real(object, "exchange_ms", median(&self->exchange));
  bench_json_real(object, "reduce_ms", median(&self->reduce));
  bench_json_real(object, "agree_ms", median(&self->agree));
  bench_json_real(object, "update_ms", median(&self->update));
  bench_json_real(object, "gather_ms", median(&self->gather));
  bench_json_real(object, "wire_bytes", wire_bytes(self));
  bench_json_real(object, "sent_bytes", median(&self->sent));
  bench_json_spread(object, "raw_gbits", bench_series_quartiles(&self->rate));
  bench_json_real(object, "limit_ms", wire_bytes(self) * 8e-6 / median(&self->rate));
  bench_json_real(object, "nominal_limit_ms", nominal_ms(self));
  bench_json_spread(object, "efficiency", efficiency(self));
  bench_json_real(object, "nominal_efficiency", nominal_ms(self) / median(&self->step));
}

static void json_side(bench_json *object, const run *self, const side *at, const char *name) {
  static const char *const parts[] = {"ms", "reduce_ms", "update_ms", "gather_ms", "sent_bytes"};
  const bench_series *const series[] = {&at->total, &at->reduce, &at->update, &at->gather,
                                        &at->sent};
  char key[64];
  for (int i = 0; i < 5; ++i) {
    snprintf(key, sizeof key, "%s_%s", name, parts[i]);
    bench_json_real(object, key, median(series[i]));
  }
  snprintf(key, sizeof key, "speedup_vs_%s", name);
  bench_json_spread(object, key, bench_series_ratio(&at->total, &self->step));
}

static void report_json(const run *self, const char *path) {
  FILE *out = fopen(path, "w");
  bench_require(out != NULL, "--json: %s cannot be written", path);
  bench_json object = bench_json_begin(out);
  bench_machine machine;
  json_case(&object, self);
  json_times(&object, self);
  json_side(&object, self, &self->sides[TEXTBOOK_FP32], "mpi_fp32");
  json_side(&object, self, &self->sides[TEXTBOOK_16], "mpi_16bit");
  bench_machine_find(&machine);
  bench_machine_json(&object, &machine);
  bench_json_end(&object);
  const int bad = ferror(out);
  bench_require(!fclose(out) && !bad, "--json: %s cannot be written", path);
}

static void line(const char *what, const bench_series *series, const char *unit) {
  const bench_quartiles of = bench_series_quartiles(series);
  if (series->count)
    printf("  %-22s %9.2f %s (quartiles %.2f to %.2f)\n", what, of.median, unit, of.q1, of.q3);
}

static void report_text(const run *self) {
  const bench_quartiles ratio = efficiency(self);
  printf("%d hosts of %d ranks, %s, %" PRId64 " elements, %s gradients, %s parameters\n",
         self->stream.host_count, self->stream.ranks_per_host,
         zero1_comm_backend(self->subject.comm), self->subject.numel,
         bench_dtype_name(self->subject.grad_dtype), bench_dtype_name(self->subject.param_dtype));
  line("step", &self->step, "ms");
  line("  exchange", &self->exchange, "ms");
  line("  reduce", &self->reduce, "ms");
  line("  agree", &self->agree, "ms");
  line("  update", &self->update, "ms");
  line("  gather", &self->gather, "ms");
  printf("  %-22s %9.2f MB; the limit's %.2f MB\n", "sent by a host", median(&self->sent) * 1e-6,
         wire_bytes(self) * 1e-6);
  line("raw stream", &self->rate, "Gbit/s");
  printf("  %-22s %9.2f ms; nominal %.2f ms\n", "wire's limit",
         wire_bytes(self) * 8e-6 / median(&self->rate), nominal_ms(self));
  printf("  %-22s %9.3f (quartiles %.3f to %.3f); nominal %.3f\n", "limit / step", ratio.median,
         ratio.q1, ratio.q3, nominal_ms(self) / median(&self->step));
  line("MPI, fp32", &self->sides[TEXTBOOK_FP32].total, "ms");
  line("  reduce_scatter", &self->sides[TEXTBOOK_FP32].reduce, "ms");
  line("  allgather", &self->sides[TEXTBOOK_FP32].gather, "ms");
  line("MPI, 16 bits", &self->sides[TEXTBOOK_16].total, "ms");
  printf("  %-22s %9.2f; 16 bits %.2f\n", "MPI / step",
         bench_series_ratio(&self->sides[TEXTBOOK_FP32].total, &self->step).median,
         bench_series_ratio(&self->sides[TEXTBOOK_16].total, &self->step).median);
}

/* ---- life ---- */

static void free_series(run *self) {
  bench_series *all[] = {&self->step,   &self->ready,  &self->exchange, &self->reduce, &self->agree,
                         &self->update, &self->gather, &self->sent,     &self->rate};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]->values);
  for (int which = 0; which < TEXTBOOKS; ++which) {
    side *at = &self->sides[which];
    bench_series *its[] = {&at->total, &at->reduce, &at->update, &at->gather, &at->sent};
    for (size_t i = 0; i < sizeof its / sizeof *its; ++i) free(its[i]->values);
  }
}

static void measure(const network_options *options) {
  run self = {.options = options};
  bench_stream_open(&self.stream);
  bench_require(self.stream.host_count > 1, "all ranks are on one host: there is no wire");
  bench_subject_open(&self.subject, &options->step);
  bench_check_open(&self.check, &self.subject);
  for (int which = 0; which < TEXTBOOKS && options->step.baseline; ++which) open_side(&self, which);
  repeat(&self);
  if (self.subject.rank == 0) {
    report_text(&self);
    if (options->step.json) report_json(&self, options->step.json);
  }
  for (int which = 0; which < TEXTBOOKS; ++which)
    if (self.sides[which].open) bench_baseline_close(&self.sides[which].baseline);
  bench_check_close(&self.check);
  bench_subject_close(&self.subject);
  bench_stream_close(&self.stream);
  free_series(&self);
}

int main(int argc, char **argv) {
  network_options options;
  char error[256];
  int rank, provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const bool good = parse(&options, argc, argv, error, sizeof error);
  if (rank == 0 && !good) fprintf(stderr, "bench_network: %s\n", error);
  if (rank == 0 && good && options.step.help) help();
  if (good && !options.step.help) measure(&options);
  MPI_Finalize();
  return good ? 0 : 2;
}
