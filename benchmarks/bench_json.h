/* A JSON object, written key by key. */
#ifndef BENCH_JSON_H
#define BENCH_JSON_H

#include <stdint.h>
#include <stdio.h>

#include "bench_series.h"

typedef struct bench_json {
  FILE *out;
  const char *between; /* goes before what comes next */
} bench_json;

bench_json bench_json_begin(FILE *out);
void bench_json_end(bench_json *object);

void bench_json_text(bench_json *object, const char *key, const char *text);
void bench_json_whole(bench_json *object, const char *key, int64_t value);
/** null where it is not finite: JSON has no NaN. */
void bench_json_real(bench_json *object, const char *key, double value);
/** KEY is the median; KEY_q1 and KEY_q3 stand beside it. */
void bench_json_spread(bench_json *object, const char *key, bench_quartiles of);

/** A list of objects: between begin and end, each object's keys between item and item_end. */
void bench_json_list(bench_json *object, const char *key);
void bench_json_item(bench_json *object);
void bench_json_item_end(bench_json *object);
void bench_json_list_end(bench_json *object);

#endif
