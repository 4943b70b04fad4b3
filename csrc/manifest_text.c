#include "manifest_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint_folder.h"
#include "json_text.h"
#include "manifest.h"

zero1_status zero1__reading_memory(const zero1__reading *at, const char *what) {
  return zero1__fail_at(at->error, ZERO1_ERR_MEMORY, at->path, "no memory for its %s", what);
}

zero1_status zero1__reading_pass_on(const zero1__reading *at, zero1_status status,
                                    const zero1__error *inner) {
  if (status == ZERO1_OK) return ZERO1_OK;
  return zero1__fail_at(at->error,
                        status == ZERO1_ERR_MEMORY ? ZERO1_ERR_MEMORY : ZERO1_ERR_CORRUPT, at->path,
                        "%s", inner->text);
}

zero1_status zero1__reading_unpack(const zero1__reading *at, const char *what, int64_t index,
                                   const json_error_t *why) {
  char place[32] = "", shown[ZERO1__SHOWN_BYTES];
  if (json_error_code(why) == json_error_out_of_memory) return zero1__reading_memory(at, what);
  if (index >= 0) snprintf(place, sizeof place, "[%lld]", (long long)index);
  return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "%s%s: %s", what, place,
                        zero1__show_text(why->text, shown));
}

/* ---- the text as a whole ---- */

/* Where memory ends while jansson (2.14) collects a string, it loses bytes of it without a word,
 * and may run past its end. The longest string is as long as the text; it is collected in a buffer
 * that grows to twice that, moved on the way. So that much must be there before it begins. */
static int has_memory(size_t bytes) {
  void *volatile probe = bytes < SIZE_MAX / 8 ? malloc(4 * bytes + 4096) : NULL;
  const int is_there = probe != NULL;
  free(probe);
  return is_there;
}

zero1_status zero1__reading_parse(const zero1__reading *at, const char *what, const char *text,
                                  size_t bytes, json_t **root) {
  json_error_t why;
  char shown[ZERO1__SHOWN_BYTES];
  *root = NULL;
  if (!has_memory(bytes)) return zero1__reading_memory(at, what);
  *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
  if (*root) return ZERO1_OK; /* else jansson does not always say which */
  return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                        "line %d of its %s is not JSON, or there was no memory: %s", why.line, what,
                        zero1__show_text(why.text, shown));
}

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

zero1_status zero1__reading_load(const zero1__reading *at, const char *text, size_t bytes,
                                 const char *format, json_t **root) {
  const int fits = hash_fits(text, bytes);
  zero1__error inner = {0};
  const zero1__reading inside = {at->path, &inner};
  zero1_status status = zero1__reading_parse(&inside, "text", text, bytes, root);
  if (*root) status = check_version(&inside, *root, format);
  if (!fits && (status == ZERO1_OK || status == ZERO1_ERR_CORRUPT))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "the checksum at its end is not that of its %zu bytes", bytes);
  return status ? zero1__fail(at->error, status, "%s", inner.text) : status;
}
