/* Options of a program, from one table: parsed, and listed in its help. */
#ifndef BENCH_ARGUMENTS_H
#define BENCH_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum bench_argument_kind {
  BENCH_TEXT,  /* const char * */
  BENCH_WHOLE, /* int64_t, as all below but REAL */
  BENCH_REAL,  /* double */
  BENCH_DTYPE, /* ZERO1_DTYPE_ */
  BENCH_ON,    /* 1 where it is given */
  BENCH_OFF    /* 0 where it is given */
} bench_argument_kind;

typedef struct bench_argument {
  const char *name;
  const char *value; /* what it is called in the help; NULL: a switch */
  bench_argument_kind kind;
  size_t offset;       /* of its field in the program's options */
  const char *initial; /* as it would be given; NULL: none */
  double lowest, highest;
  const char *help;
} bench_argument;

/** Initial values, then what the arguments say, into the fields of `options`. Strings are borrowed
 *  from argv.
 *  [in]  rows   [row_count]
 *  [out] error  text that names the option, where it returns false */
bool bench_arguments_parse(const bench_argument *rows, int row_count, void *options, int argc,
                           char **argv, char *error, size_t error_bytes);

void bench_arguments_help(const bench_argument *rows, int row_count, FILE *out);

const char *bench_dtype_name(int64_t dtype);

#endif
