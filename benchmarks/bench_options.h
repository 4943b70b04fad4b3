/* The options of bench_step. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct bench_options {
  int64_t numel, tensors;
  int64_t param_dtype, grad_dtype; /* ZERO1_DTYPE_ */
  int64_t param_wire, grad_wire;   /* the same: never wider than those */
  double clip;
  int64_t steps, warmup;
  int64_t threads, bucket_numel, ranks_per_node;
  int64_t creates;
  int64_t share_params, overlap; /* 0 or 1 */
  int64_t limit, baseline;       /* 1: measured besides */
  const char *json;              /* or NULL */
  int64_t help;
} bench_options;

/** Defaults, then what the arguments say. Strings are borrowed from argv.
 *  [out] error  text that names the option, where it returns false */
bool bench_options_parse(bench_options *options, int argc, char **argv, char *error,
                         size_t error_bytes);

void bench_options_help(FILE *out);

#endif
