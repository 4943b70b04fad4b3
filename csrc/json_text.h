/* JSON that is made piece by piece: texts of manifests and of safetensors headers, which may be as
 * long as 100 MB, so that no tree of them is made. */
#ifndef ZERO1__JSON_TEXT_H
#define ZERO1__JSON_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "zero1/status.h"

/** Starts as zeroes. The first failure stays, and ends what the functions below do: so one look at
 *  `status`, at the end, is enough. */
typedef struct zero1__json_text {
  char *text; /* [bytes] owned; no NUL behind it */
  size_t bytes, room;
  zero1_status status; /* ZERO1_OK, or ZERO1_ERR_MEMORY */
} zero1__json_text;

/** Bytes as they are. */
void zero1__json_add_bytes(zero1__json_text *json, const char *data, size_t bytes);
/** A text as it is, without its NUL. */
void zero1__json_add(zero1__json_text *json, const char *text);
/** A string in quotes, of a text that is UTF-8. */
void zero1__json_add_string(zero1__json_text *json, const char *text);
void zero1__json_add_integer(zero1__json_text *json, int64_t value);
/** A finite number, in 17 digits, which give the same bits again; whatever the locale. */
void zero1__json_add_real(zero1__json_text *json, double value);
/** 16 digits, without quotes. */
void zero1__json_add_hash(zero1__json_text *json, uint64_t hash);

/** Frees the text and clears all. */
void zero1__json_end(zero1__json_text *json);

/** Whether a text is UTF-8: no surrogates, nothing longer than it must be. */
int zero1__utf8_valid(const char *text);

/** Any text in one line of UTF-8, for messages: at most about 60 characters of it, and what cannot
 *  be shown as \n or \xff. */
#define ZERO1__SHOWN_BYTES 256
const char *zero1__show_text(const char *text, char shown[ZERO1__SHOWN_BYTES]);

#endif
