/* The options of bench_checkpoint. */
#ifndef BENCH_CHECKPOINT_OPTIONS_H
#define BENCH_CHECKPOINT_OPTIONS_H

#include "bench_options.h"

typedef struct bench_checkpoint_options {
  bench_options subject; /* what bench_step takes, too; steps: rounds */
  const char *dir;       /* or NULL: $TMPDIR, or /tmp */
  double length;         /* of forward and backward, in synchronous writes */
} bench_checkpoint_options;

/** Defaults, then what the arguments say. Strings are borrowed from argv.
 *  [out] error  text that names the option, where it returns false */
bool bench_checkpoint_options_parse(bench_checkpoint_options *options, int argc, char **argv,
                                    char *error, size_t error_bytes);

void bench_checkpoint_options_help(FILE *out);

#endif
