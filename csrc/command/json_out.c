#include "json_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static json_t *ascii_of(const char *text) {
  char *const copy = strdup(text);
  if (!copy) return NULL;
  for (char *at = copy; *at; ++at)
    if ((unsigned char)*at > 0x7f) *at = '?';
  json_t *const string = json_string(copy);
  free(copy);
  return string;
}

void json_out_string(json_t *object, const char *key, const char *text) {
  json_t *const string = json_string(text);
  json_object_set_new(object, key, string ? string : ascii_of(text));
}

void json_out_integer(json_t *object, const char *key, int64_t value) {
  json_object_set_new(object, key, json_integer((json_int_t)value));
}

void json_out_real(json_t *object, const char *key, double value) {
  json_t *const real = json_real(value); /* NULL: JSON has no number for it */
  json_object_set_new(object, key, real ? real : json_null());
}

int json_out_print(json_t *root) {
  if (!root) return command_fail(ZERO1_ERR_MEMORY, "");
  const int failed = json_dumpf(root, stdout, JSON_INDENT(2));
  json_decref(root);
  if (failed) return command_fail(ZERO1_ERR_IO, "standard output: JSON cannot be written");
  putchar('\n');
  return COMMAND_FINE;
}
