/* JSON on standard output. */
#ifndef ZERO1_COMMAND_JSON_OUT_H
#define ZERO1_COMMAND_JSON_OUT_H

#include <jansson.h>
#include <stdint.h>

/** Text that is not UTF-8 (a path) has '?' for the bytes that are not ASCII. */
void json_out_string(json_t *object, const char *key, const char *text);
void json_out_integer(json_t *object, const char *key, int64_t value);
void json_out_real(json_t *object, const char *key, double value);

/** Prints a tree, which it frees. Returns what the program exits with. */
int json_out_print(json_t *root);

#endif
