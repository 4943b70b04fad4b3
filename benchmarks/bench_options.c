#include "bench_options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { TEXT, WHOLE, REAL, DTYPE, ON, OFF } kind;

typedef struct option_row {
  const char *name;
  const char *value; /* what it is called in the help; NULL: a switch */
  kind kind;
  size_t offset;       /* of the field in bench_options */
  const char *initial; /* as it would be given; NULL: none */
  double lowest, highest;
  const char *help;
} option_row;

#define FIELD(name) offsetof(bench_options, name)

static const option_row rows[] = {
    {"numel", "N", WHOLE, FIELD(numel), "32Mi", 1, 1e12, "elements of all tensors together"},
    {"tensors", "N", WHOLE, FIELD(tensors), "1", 1, 1e8, "tensors, as equal as can be"},
    {"param-dtype", "fp32|bf16", DTYPE, FIELD(param_dtype), "fp32", 0, 0,
     "parameters; masters are fp32"},
    {"grad-dtype", "fp32|bf16", DTYPE, FIELD(grad_dtype), "fp32", 0, 0, "gradients"},
    {"clip", "X", REAL, FIELD(clip), "1", 0, 1e30,
     "highest gradient norm; 0: neither clipping nor guard, so that reduce and update are one "
     "pass"},
    {"steps", "N", WHOLE, FIELD(steps), "20", 1, 1e6, "repetitions that count"},
    {"warmup", "N", WHOLE, FIELD(warmup), "3", 1, 1e6, "repetitions before them"},
    {"threads", "N", WHOLE, FIELD(threads), "0", 0, 1024,
     "threads per rank; 0: the cores that it is bound to, or its part of the node's"},
    {"bucket-numel", "N", WHOLE, FIELD(bucket_numel), "0", 0, 1e12,
     "most elements in a bucket; 0: the library's default"},
    {"ranks-per-node", "N", WHOLE, FIELD(ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: all apart"},
    {"private-params", NULL, OFF, FIELD(share_params), NULL, 0, 0,
     "a copy of the parameters for each rank of a node"},
    {"no-overlap", NULL, OFF, FIELD(overlap), NULL, 0, 0, "reduce in step, not from grad_ready on"},
    {"no-limit", NULL, OFF, FIELD(limit), NULL, 0, 0, "do not measure the memory's limit"},
    {"no-baseline", NULL, OFF, FIELD(baseline), NULL, 0, 0,
     "do not measure MPI_Reduce_scatter_block, AdamW, MPI_Allgather"},
    {"json", "FILE", TEXT, FIELD(json), NULL, 0, 0, "writes the results there, as one object"},
    {"help", NULL, ON, FIELD(help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

static const char *const dtypes[] = {"fp32", "bf16"}; /* in the order of ZERO1_DTYPE_ */

const char *bench_dtype_name(int64_t dtype) {
  return dtypes[dtype];
}

/* ---- values ---- */

static bool bad_value(const option_row *row, const char *value, char *error, size_t error_bytes) {
  if (row->kind == DTYPE)
    snprintf(error, error_bytes, "--%s: '%s' is not one of %s", row->name, value, row->value);
  else
    snprintf(error, error_bytes, "--%s: '%s' is not a %snumber from %.15g to %.15g%s", row->name,
             value, row->kind == WHOLE ? "whole " : "", row->lowest, row->highest,
             row->kind == WHOLE ? " (Ki, Mi and Gi may follow)" : "");
  return false;
}

/* 1 where there is no suffix, 0 where it is none of ours. */
static int64_t factor_of(const char *suffix) {
  static const char *const known[] = {"", "Ki", "Mi", "Gi"};
  for (int i = 0; i < 4; ++i)
    if (strcmp(suffix, known[i]) == 0) return (int64_t)1 << (10 * i);
  return 0;
}

static bool set_whole(const option_row *row, const char *value, int64_t *field) {
  char *end;
  errno = 0;
  const long long number = strtoll(value, &end, 10);
  if (end == value || errno) return false;
  const int64_t factor = factor_of(end);
  const double product = (double)number * (double)factor;
  if (!factor || product < row->lowest || product > row->highest) return false;
  *field = number * factor;
  return true;
}

static bool set_real(const option_row *row, const char *value, double *field) {
  char *end;
  *field = strtod(value, &end);
  return end != value && !*end && *field >= row->lowest && *field <= row->highest;
}

static bool set_dtype(const char *value, int64_t *field) {
  for (int64_t i = 0; i < 2; ++i) {
    if (strcmp(value, dtypes[i]) != 0) continue;
    *field = i;
    return true;
  }
  return false;
}

static bool set_value(bench_options *options, const option_row *row, const char *value, char *error,
                      size_t error_bytes) {
  void *const field = (char *)options + row->offset;
  bool good = true;
  switch (row->kind) {
    case TEXT:
      *(const char **)field = value;
      break;
    case WHOLE:
      good = set_whole(row, value, field);
      break;
    case REAL:
      good = set_real(row, value, field);
      break;
    case DTYPE:
      good = set_dtype(value, field);
      break;
    default:
      *(int64_t *)field = row->kind == ON;
  }
  return good || bad_value(row, value, error, error_bytes);
}

/* ---- all of them ---- */

static bool check_together(const bench_options *options, char *error, size_t error_bytes) {
  if (options->help || options->tensors <= options->numel) return true;
  snprintf(error, error_bytes,
           "--tensors: %" PRId64 " tensors are more than the elements of --numel %" PRId64,
           options->tensors, options->numel);
  return false;
}

bool bench_options_parse(bench_options *options, int argc, char **argv, char *error,
                         size_t error_bytes) {
  struct option known[ROW_COUNT + 1] = {0};
  *options = (bench_options){.share_params = 1, .overlap = 1, .limit = 1, .baseline = 1};
  for (int i = 0; i < ROW_COUNT; ++i) {
    known[i].name = rows[i].name;
    known[i].has_arg = rows[i].value ? required_argument : no_argument;
    if (rows[i].initial && !set_value(options, &rows[i], rows[i].initial, error, error_bytes))
      return false;
  }
  opterr = 0; /* every rank parses; one of them speaks */
  optind = 1;
  for (;;) {
    int index = -1;
    const int found = getopt_long(argc, argv, ":", known, &index);
    if (found == -1) break;
    if (found != 0) {
      snprintf(error, error_bytes, "%s: %s", argv[optind - 1],
               found == ':' ? "a value is missing" : "no such option; --help lists them");
      return false;
    }
    if (!set_value(options, &rows[index], optarg, error, error_bytes)) return false;
  }
  if (optind < argc) {
    snprintf(error, error_bytes, "'%s' belongs to no option; --help lists them", argv[optind]);
    return false;
  }
  return check_together(options, error, error_bytes);
}

void bench_options_help(FILE *out) {
  fputs(
      "usage: mpirun -n RANKS bench_step [options]\n\n"
      "Times the full step of an optimizer that is sharded over the ranks: exchange, reduce, "
      "norm,\n"
      "update, gather. Beside it, repetition by repetition, the machine's own limit (a plain loop\n"
      "over the same memory) and the textbook way (MPI_Reduce_scatter_block, AdamW, "
      "MPI_Allgather).\n"
      "Every step's result is checked against AdamW in double; exits with 1 where one is "
      "wrong.\n\n",
      out);
  for (int i = 0; i < ROW_COUNT; ++i) {
    const option_row *const row = &rows[i];
    fprintf(out, "  --%-14s %-9s  %s%s%s%s\n", row->name, row->value ? row->value : "", row->help,
            row->initial ? " [" : "", row->initial ? row->initial : "", row->initial ? "]" : "");
  }
}
