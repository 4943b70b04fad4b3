#include "bench_json.h"

#include <inttypes.h>
#include <math.h>

bench_json bench_json_begin(FILE *out) {
  return (bench_json){out, "{"};
}

void bench_json_end(bench_json *object) {
  fputs("\n}\n", object->out);
}

static void json_key(bench_json *object, const char *key) {
  fprintf(object->out, "%s\n  \"%s\": ", object->between, key);
  object->between = ",";
}

void bench_json_text(bench_json *object, const char *key, const char *text) {
  json_key(object, key);
  fputc('"', object->out);
  for (; *text; ++text) {
    if (*text == '"' || *text == '\\') fputc('\\', object->out);
    if ((unsigned char)*text >= ' ') fputc(*text, object->out);
  }
  fputc('"', object->out);
}

void bench_json_whole(bench_json *object, const char *key, int64_t value) {
  json_key(object, key);
  fprintf(object->out, "%" PRId64, value);
}

void bench_json_real(bench_json *object, const char *key, double value) {
  json_key(object, key);
  if (isfinite(value))
    fprintf(object->out, "%.6g", value);
  else
    fputs("null", object->out);
}

void bench_json_spread(bench_json *object, const char *key, bench_quartiles of) {
  char name[64];
  bench_json_real(object, key, of.median);
  snprintf(name, sizeof name, "%s_q1", key);
  bench_json_real(object, name, of.q1);
  snprintf(name, sizeof name, "%s_q3", key);
  bench_json_real(object, name, of.q3);
}

/* ---- lists ---- */

void bench_json_list(bench_json *object, const char *key) {
  json_key(object, key);
  fputc('[', object->out);
  object->between = "";
}

void bench_json_item(bench_json *object) {
  fputs(object->between, object->out);
  object->between = "{";
}

void bench_json_item_end(bench_json *object) {
  fputc('}', object->out);
  object->between = ",";
}

void bench_json_list_end(bench_json *object) {
  fputc(']', object->out);
  object->between = ",";
}
