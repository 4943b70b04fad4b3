#include "manifest_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "json_text.h"
#include "manifest.h"

zero1_status zero1__fail_at(zero1__error *error, zero1_status status, const char *path,
                            const char *format, ...) {
  char text[ZERO1__ERROR_TEXT];
  const size_t bytes = strlen(path), most = 160;
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  return zero1__fail(error, status, "%s%s: %s", bytes > most ? "..." : "",
                     bytes > most ? path + bytes - most : path, text);
}

zero1_status zero1__reading_memory(const zero1__reading *at, const char *what) {
  return zero1__fail_at(at->error, ZERO1_ERR_MEMORY, at->path, "no memory for its %s", what);
}

/* A failure with text of one's own becomes one of this file. */
zero1_status zero1__reading_pass_on(const zero1__reading *at, zero1_status status,
                                    const zero1__error *inner) {
  if (status == ZERO1_OK) return ZERO1_OK;
  return zero1__fail_at(at->error,
                        status == ZERO1_ERR_MEMORY ? ZERO1_ERR_MEMORY : ZERO1_ERR_CORRUPT, at->path,
                        "%s", inner->text);
}

/* json_unpack_ex failed on element `index` of a list `what`, or on what is no list (-1). */
zero1_status zero1__reading_unpack(const zero1__reading *at, const char *what, int64_t index,
                                   const json_error_t *why) {
  char place[32] = "", shown[ZERO1__SHOWN_BYTES];
  if (json_error_code(why) == json_error_out_of_memory) return zero1__reading_memory(at, what);
  if (index >= 0) snprintf(place, sizeof place, "[%lld]", (long long)index);
  return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "%s%s: %s", what, place,
                        zero1__show_text(why->text, shown));
}

/* ---- the text as a whole ---- */

/* Whether a text ends with the checksum of all that is before it. */
static int hash_fits(const char *text, size_t bytes) {
  const size_t end = sizeof ZERO1__HASH_END - 1;
  if (bytes < ZERO1__HASH_DIGITS + end) return 0;
  const size_t hashed = bytes - ZERO1__HASH_DIGITS - end;
  char expected[ZERO1__HASH_DIGITS + 1];
  snprintf(expected, sizeof expected, "%016llx", (unsigned long long)XXH3_64bits(text, hashed));
  return !memcmp(text + hashed, expected, ZERO1__HASH_DIGITS) &&
         !memcmp(text + hashed + ZERO1__HASH_DIGITS, ZERO1__HASH_END, end);
}

static zero1_status check_version(const zero1__reading *at, const json_t *root,
                                  const char *format) {
  const json_t *const found = json_object_get(root, "format");
  const json_t *const version = json_object_get(root, "version");
  if (!json_is_string(found) || strcmp(json_string_value(found), format))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "it is no %s", format);
  if (!json_is_integer(version) || json_integer_value(version) < 1)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "it has no version");
  if (json_integer_value(version) > ZERO1__MANIFEST_VERSION)
    return zero1__fail_at(at->error, ZERO1_ERR_VERSION, at->path,
                          "a newer library wrote it: its version is %lld, and this one knows %d",
                          (long long)json_integer_value(version), ZERO1__MANIFEST_VERSION);
  return ZERO1_OK;
}

/* Sets *root, to be json_decref'ed, after a failure too. */
zero1_status zero1__reading_load(const zero1__reading *at, const char *text, size_t bytes,
                                 const char *format, json_t **root) {
  json_error_t why;
  char shown[ZERO1__SHOWN_BYTES];
  const int fits = hash_fits(text, bytes);
  *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
  const zero1_status status = *root ? check_version(at, *root, format) : ZERO1_ERR_CORRUPT;
  if (status == ZERO1_ERR_VERSION) return status;
  if (!fits)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "the checksum at its end is not that of its %zu bytes", bytes);
  if (!*root) /* jansson does not always say which */
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "line %d is not JSON, or there was no memory: %s", why.line,
                          zero1__show_text(why.text, shown));
  return status;
}
