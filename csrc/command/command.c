#include "command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

int command_help(const command_verb *verb) {
  fputs(verb->help, stdout);
  return COMMAND_FINE;
}

int command_usage(const command_verb *verb, const char *format, ...) {
  if (format) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "zero1 ckpt %s: ", verb->name);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
  }
  fprintf(stderr, "zero1 ckpt %s --help tells more.\n", verb->name);
  return COMMAND_USAGE;
}

int command_fail(zero1_status status, const char *text) {
  fflush(stdout); /* in the order in which it happened */
  fprintf(stderr, "zero1: %s\n", *text ? text : zero1_status_string(status));
  return status == ZERO1_ERR_CORRUPT ? COMMAND_DIFFERS : COMMAND_FAILED;
}

int command_int64(const char *text, int64_t least, int64_t *value) {
  char *end;
  errno = 0;
  const long long number = strtoll(text, &end, 10);
  if (end == text || *end || errno || number < least) return 0;
  *value = number;
  return 1;
}

int command_open(const char *dir, zero1_checkpoint **checkpoint, zero1_checkpoint_info *info) {
  char text[ZERO1__ERROR_TEXT] = "";
  zero1_status status = zero1_checkpoint_open(dir, checkpoint, text, sizeof text);
  if (status) return command_fail(status, text);
  status = zero1_checkpoint_get_info(*checkpoint, info, sizeof *info);
  if (!status) return COMMAND_FINE;
  const int code = command_fail(status, zero1_checkpoint_last_error(*checkpoint));
  zero1_checkpoint_close(checkpoint);
  return code;
}

int64_t command_numel(const zero1_param_spec *spec) {
  int64_t numel = 1;
  for (int32_t i = 0; i < spec->ndim; ++i)
    if (!spec->shape[i]) return 0; /* before the others: their product alone may be too much */
  for (int32_t i = 0; i < spec->ndim; ++i) numel *= spec->shape[i];
  return numel;
}

const char *command_shape(const zero1_param_spec *spec, char text[COMMAND_SHAPE_BYTES]) {
  size_t used = (size_t)snprintf(text, COMMAND_SHAPE_BYTES, "[");
  for (int32_t i = 0; i < spec->ndim && used < COMMAND_SHAPE_BYTES - 24; ++i)
    used += (size_t)snprintf(text + used, COMMAND_SHAPE_BYTES - used, "%s%lld", i ? ", " : "",
                             (long long)spec->shape[i]);
  snprintf(text + used, COMMAND_SHAPE_BYTES - used, "]");
  return text;
}

int command_same_shape(const zero1_param_spec *a, const zero1_param_spec *b) {
  return a->ndim == b->ndim &&
         (!a->ndim || !memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape));
}

int command_worse(int left, int right) {
  if (left == COMMAND_DIFFERS || right == COMMAND_DIFFERS) return COMMAND_DIFFERS;
  return left > right ? left : right;
}
