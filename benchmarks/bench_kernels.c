/* Times reduce and update beside the device's own copy bandwidth, and checks every result. */
#include <inttypes.h>
#include <string.h>

#include "bench_arguments.h"
#include "bench_kernels_report.h"
#include "bench_require.h"
#include "bench_sample.h"

#define FIELD(name) offsetof(bench_kernels_options, name)

static const bench_argument rows[] = {
    {"device", "NAME", BENCH_TEXT, FIELD(device), "cuda", 0, 0, "cuda, or host"},
    {"numel", "N", BENCH_WHOLE, FIELD(numel), "0", 0, 4e9, "parameters; 0: 256Mi, on the host 4Mi"},
    {"threads", "N", BENCH_WHOLE, FIELD(threads), "1", 1, 1024, "of the host; the copy has one"},
    {"case", "NAME", BENCH_TEXT, FIELD(only), "all", 0, 0, "that case alone"},
    {"bucket-numel", "N", BENCH_WHOLE, FIELD(bucket_numel), "0", 0, 1e12,
     "parameters per launch; 0: all in one"},
    {"tensors", "N", BENCH_WHOLE, FIELD(tensors), "-1", -1, 1e6,
     "how many of 2,560 parameters to compare with one of as many; 0: do not; -1: 100,000, on the "
     "host 1,000"},
    {"steps", "N", BENCH_WHOLE, FIELD(steps), "20", 1, 1e6, "repetitions that count"},
    {"warmup", "N", BENCH_WHOLE, FIELD(warmup), "3", 1, 1e6, "repetitions before them"},
    {"json", "FILE", BENCH_TEXT, FIELD(json), NULL, 0, 0,
     "writes the results there, as one object"},
    {"help", NULL, BENCH_ON, FIELD(help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

#define FP32 ZERO1_DTYPE_FP32
#define BF16 ZERO1_DTYPE_BF16

static const bench_case cases[] = {
    {"reduce_fp32_1", BENCH_REDUCE, FP32, FP32, 1},
    {"reduce_fp32_2", BENCH_REDUCE, FP32, FP32, 2},
    {"reduce_fp32_4", BENCH_REDUCE, FP32, FP32, 4},
    {"reduce_bf16_1", BENCH_REDUCE, BF16, BF16, 1},
    {"reduce_bf16_2", BENCH_REDUCE, BF16, BF16, 2},
    {"reduce_bf16_4", BENCH_REDUCE, BF16, BF16, 4},
    {"update_fp32_fp32", BENCH_UPDATE, FP32, FP32, 1},
    {"update_bf16_fp32", BENCH_UPDATE, BF16, FP32, 1},
    {"update_bf16_bf16", BENCH_UPDATE, BF16, BF16, 1},
    {"one_pass_fp32_fp32", BENCH_ONE_PASS, FP32, FP32, 1},
    {"one_pass_bf16_fp32", BENCH_ONE_PASS, BF16, FP32, 1},
    {"one_pass_bf16_bf16", BENCH_ONE_PASS, BF16, BF16, 1},
    {"two_passes_fp32_fp32", BENCH_TWO_PASSES, FP32, FP32, 1},
    {"two_passes_bf16_fp32", BENCH_TWO_PASSES, BF16, FP32, 1},
    {"two_passes_bf16_bf16", BENCH_TWO_PASSES, BF16, BF16, 1},
};

enum { CASE_COUNT = sizeof cases / sizeof *cases };

static const bench_case tensors_case = {"tensors", BENCH_TWO_PASSES, BF16, BF16, 1};

/* ---- measuring ---- */

static void note(bench_series *series, int64_t steps, double value) {
  if (!series->values) series->values = bench_alloc((size_t)steps, sizeof *series->values);
  series->values[series->count++] = value;
}

static double checked_run(bench_sample *sample, const bench_case *which) {
  bench_sample_before(sample, which);
  const double ms = bench_shard_run(sample->shard, which);
  bench_sample_after(sample, which);
  return ms;
}

/* Opens a shard, or ends the program: with 77 where there is no such device. */
static void open_shard(bench_shard *shard, bench_sample *sample,
                       const bench_shard_options *options) {
  zero1__error error = {0};
  if (!bench_shard_open(shard, options, &error)) {
    fprintf(stderr, "bench_kernels: skipped: %s\n", error.text);
    exit(77);
  }
  bench_sample_open(sample, shard);
}

static void close_shard(bench_shard *shard, bench_sample *sample) {
  bench_sample_close(sample);
  bench_shard_close(shard);
}

static bool is_wanted(const bench_kernels_options *options, int k) {
  return strcmp(options->only, "all") == 0 || strcmp(options->only, cases[k].name) == 0;
}

/* Every case in turn, and the copy before each of them. */
static void measure_cases(const bench_kernels_options *options, int32_t device,
                          bench_kernels_report *report) {
  bench_shard shard;
  bench_sample sample;
  bench_series copies = {0}, times[CASE_COUNT] = {{0}}, copies_before[CASE_COUNT] = {{0}};
  const bench_shard_options shape = {.device = device,
                                     .threads = (int32_t)options->threads,
                                     .numel = options->numel,
                                     .tensors = 1,
                                     .bucket_numel = options->bucket_numel,
                                     .contributions = {BENCH_SOURCES, BENCH_SOURCES}};
  open_shard(&shard, &sample, &shape);
  for (int64_t i = 0; i < options->warmup + options->steps; ++i)
    for (int k = 0; k < CASE_COUNT; ++k) {
      if (!is_wanted(options, k)) continue;
      const double copy_ms = bench_shard_copy(&shard);
      const double ms = checked_run(&sample, &cases[k]);
      if (i < options->warmup) continue;
      note(&copies, options->steps * CASE_COUNT, copy_ms);
      note(&copies_before[k], options->steps, copy_ms);
      note(&times[k], options->steps, ms);
    }
  report->copy_ms = bench_series_quartiles(&copies);
  report->copy_bytes = bench_shard_copy_bytes(&shard);
  for (int k = 0; k < CASE_COUNT; ++k) {
    if (!is_wanted(options, k)) continue;
    bench_kernels_result *result = &report->results[report->result_count++];
    *result = (bench_kernels_result){.which = &cases[k],
                                     .launches = bench_shard_launches(&shard, &cases[k]),
                                     .ms = bench_series_quartiles(&times[k]),
                                     .copies = bench_series_ratio(&copies_before[k], &times[k])};
    free(times[k].values);
    free(copies_before[k].values);
  }
  free(copies.values);
  close_shard(&shard, &sample);
}

/* One tensor in one launch per kernel; one tensor, and many, in buckets of the default size. */
static void measure_tensors(const bench_kernels_options *options, int32_t device,
                            bench_kernels_report *report) {
  zero1_config config;
  zero1_config_init(&config, sizeof config);
  const int64_t numel = options->tensors * BENCH_TENSOR_NUMEL;
  bench_shard shards[BENCH_SHAPES] = {{0}};
  bench_sample samples[BENCH_SHAPES];
  bench_series times[BENCH_SHAPES] = {{0}};
  for (int k = 0; k < BENCH_SHAPES; ++k) {
    const bench_shard_options shape = {.device = device,
                                       .threads = (int32_t)options->threads,
                                       .numel = numel,
                                       .tensors = k == BENCH_SHAPES - 1 ? options->tensors : 1,
                                       .bucket_numel = k == 0 ? 0 : config.bucket_numel,
                                       .contributions = {0, 1}};
    open_shard(&shards[k], &samples[k], &shape);
    report->shapes[k] =
        (bench_kernels_shape){.tensors = shape.tensors,
                              .bucket_numel = shape.bucket_numel,
                              .launches = bench_shard_launches(&shards[k], &tensors_case)};
  }
  for (int64_t i = 0; i < options->warmup + options->steps; ++i)
    for (int k = 0; k < BENCH_SHAPES; ++k) {
      const double ms = checked_run(&samples[k], &tensors_case);
      if (i >= options->warmup) note(&times[k], options->steps, ms);
    }
  report->tensors_ratio = bench_series_ratio(&times[BENCH_SHAPES - 1], &times[BENCH_SHAPES - 2]);
  for (int k = 0; k < BENCH_SHAPES; ++k) {
    report->shapes[k].ms = bench_series_quartiles(&times[k]);
    free(times[k].values);
    close_shard(&shards[k], &samples[k]);
  }
}

/* ---- the program ---- */

void bench_end(void) {
  exit(1);
}

static void help(void) {
  fputs(
      "usage: bench_kernels [options]\n\n"
      "Times reduce and update, alone and as they follow each other in a step, for every\n"
      "configuration of data types, beside the bandwidth of a copy within the device's memory:\n"
      "bytes read and written, of both. Sampled blocks and all sums of squares are checked, bit "
      "for\n"
      "bit, against the host's kernels; exits with 1 where one is wrong, with 77 where there is "
      "no\n"
      "such device.\n\n",
      stdout);
  bench_arguments_help(rows, ROW_COUNT, stdout);
}

static bool check_together(const bench_kernels_options *options, char *error, size_t error_bytes) {
  const int host = strcmp(options->device, "host") == 0;
  int known = 0;
  if (!host && strcmp(options->device, "cuda") != 0) {
    snprintf(error, error_bytes, "--device: '%.100s' is not one of cuda, host", options->device);
    return false;
  }
  for (int k = 0; k < CASE_COUNT; ++k) known += is_wanted(options, k);
  if (!known) snprintf(error, error_bytes, "--case: '%.100s' is none of them", options->only);
  return known > 0;
}

static bool parse(bench_kernels_options *options, int argc, char **argv, int32_t *device) {
  char error[256] = "";
  *options = (bench_kernels_options){0};
  const bool good =
      bench_arguments_parse(rows, ROW_COUNT, options, argc, argv, error, sizeof error) &&
      check_together(options, error, sizeof error);
  const int host = good && strcmp(options->device, "host") == 0;
  *device = host ? ZERO1_DEVICE_HOST : ZERO1_DEVICE_CUDA;
  if (!good) fprintf(stderr, "bench_kernels: %s\n", error);
  if (!options->numel) options->numel = (int64_t)(host ? 4 : 256) << 20;
  if (options->tensors < 0) options->tensors = host ? 1000 : 100000;
  return good;
}

int main(int argc, char **argv) {
  bench_kernels_options options;
  bench_kernels_result results[CASE_COUNT];
  int32_t device;
  if (!parse(&options, argc, argv, &device)) return 2;
  if (options.help) {
    help();
    return 0;
  }
  bench_kernels_report report = {.options = &options, .results = results};
  measure_cases(&options, device, &report);
  if (options.tensors) measure_tensors(&options, device, &report);
  bench_kernels_report_table(&report, stdout);
  if (options.json)
    bench_require(bench_kernels_report_json(&report, options.json), "--json: %s cannot be written",
                  options.json);
  return 0;
}
