/* The options of bench_overlap. */
#ifndef BENCH_OVERLAP_OPTIONS_H
#define BENCH_OVERLAP_OPTIONS_H

#include "bench_options.h"

typedef struct bench_overlap_options {
  bench_options subject; /* what bench_step takes, too; the rest of it is not used */
  const char *label;     /* or NULL */
  double length;         /* of the computation, in communications */
  int64_t timers, busy;  /* 0 or 1 */
} bench_overlap_options;

/** Defaults, then what the arguments say. Strings are borrowed from argv.
 *  [out] error  text that names the option, where it returns false */
bool bench_overlap_options_parse(bench_overlap_options *options, int argc, char **argv, char *error,
                                 size_t error_bytes);

void bench_overlap_options_help(FILE *out);

#endif
