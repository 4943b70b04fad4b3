#include "bench_arguments.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char *const dtypes[] = {"fp32", "bf16"}; /* in the order of ZERO1_DTYPE_ */

const char *bench_dtype_name(int64_t dtype) {
  return dtypes[dtype];
}

/* ---- values ---- */

static bool bad_value(const bench_argument *row, const char *value, char *error,
                      size_t error_bytes) {
  if (row->kind == BENCH_DTYPE)
    snprintf(error, error_bytes, "--%s: '%s' is not one of %s", row->name, value, row->value);
  else
    snprintf(error, error_bytes, "--%s: '%s' is not a %snumber from %.15g to %.15g%s", row->name,
             value, row->kind == BENCH_WHOLE ? "whole " : "", row->lowest, row->highest,
             row->kind == BENCH_WHOLE ? " (Ki, Mi and Gi may follow)" : "");
  return false;
}

/* 1 where there is no suffix, 0 where it is none of ours. */
static int64_t factor_of(const char *suffix) {
  static const char *const known[] = {"", "Ki", "Mi", "Gi"};
  for (int i = 0; i < 4; ++i)
    if (strcmp(suffix, known[i]) == 0) return (int64_t)1 << (10 * i);
  return 0;
}

static bool set_whole(const bench_argument *row, const char *value, int64_t *field) {
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

static bool set_real(const bench_argument *row, const char *value, double *field) {
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

static bool set_value(void *options, const bench_argument *row, const char *value, char *error,
                      size_t error_bytes) {
  void *const field = (char *)options + row->offset;
  bool good = true;
  switch (row->kind) {
    case BENCH_TEXT:
      *(const char **)field = value;
      break;
    case BENCH_WHOLE:
      good = set_whole(row, value, field);
      break;
    case BENCH_REAL:
      good = set_real(row, value, field);
      break;
    case BENCH_DTYPE:
      good = set_dtype(value, field);
      break;
    default:
      *(int64_t *)field = row->kind == BENCH_ON;
  }
  return good || bad_value(row, value, error, error_bytes);
}

/* ---- all of them ---- */

enum { MOST_ROWS = 64 };

static bool set_initial(const bench_argument *rows, int row_count, void *options, char *error,
                        size_t error_bytes) {
  for (int i = 0; i < row_count; ++i)
    if (rows[i].initial && !set_value(options, &rows[i], rows[i].initial, error, error_bytes))
      return false;
  return true;
}

bool bench_arguments_parse(const bench_argument *rows, int row_count, void *options, int argc,
                           char **argv, char *error, size_t error_bytes) {
  struct option known[MOST_ROWS + 1] = {0};
  assert(row_count <= MOST_ROWS);
  if (!set_initial(rows, row_count, options, error, error_bytes)) return false;
  for (int i = 0; i < row_count; ++i) {
    known[i].name = rows[i].name;
    known[i].has_arg = rows[i].value ? required_argument : no_argument;
  }
  opterr = 0; /* of several ranks, one speaks */
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
  if (optind == argc) return true;
  snprintf(error, error_bytes, "'%s' belongs to no option; --help lists them", argv[optind]);
  return false;
}

void bench_arguments_help(const bench_argument *rows, int row_count, FILE *out) {
  for (int i = 0; i < row_count; ++i) {
    const bench_argument *const row = &rows[i];
    fprintf(out, "  --%-14s %-9s  %s%s%s%s\n", row->name, row->value ? row->value : "", row->help,
            row->initial ? " [" : "", row->initial ? row->initial : "", row->initial ? "]" : "");
  }
}
