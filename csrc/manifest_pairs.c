#include <stdlib.h>
#include <string.h>

#include "json_text.h"
#include "manifest.h"

static int by_key(const void *left, const void *right) {
  return strcmp(((const zero1_pair *)left)->key, ((const zero1_pair *)right)->key);
}

static zero1_status check_pair(const zero1_pair *pair, int64_t index, const char *what,
                               zero1__error *error) {
  char shown[ZERO1__SHOWN_BYTES];
  const long long i = index;
  if (!pair->key)
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s: the key of pair %lld is NULL", what, i);
  if (!pair->key[0])
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s: the key of pair %lld is empty", what, i);
  zero1__show_text(pair->key, shown);
  if (!pair->value)
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s: the value of '%s' is NULL", what, shown);
  if (!zero1__utf8_valid(pair->key))
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s: the key '%s' is not UTF-8", what, shown);
  if (!zero1__utf8_valid(pair->value))
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s: the value of '%s' is not UTF-8", what, shown);
  return ZERO1_OK;
}

/* [pairs, then all texts]: one piece of memory. */
static zero1_status copy(zero1__pairs *pairs, const zero1_pair *given, int64_t count,
                         const char *what, zero1__error *error) {
  size_t bytes = (size_t)count * sizeof *given;
  for (int64_t i = 0; i < count; ++i) bytes += strlen(given[i].key) + strlen(given[i].value) + 2;
  pairs->pairs = malloc(bytes);
  if (!pairs->pairs)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "%s: no memory for %lld pairs", what,
                       (long long)count);
  char *text = (char *)(pairs->pairs + count);
  for (int64_t i = 0; i < count; ++i) {
    pairs->pairs[i].key = strcpy(text, given[i].key);
    text += strlen(text) + 1;
    pairs->pairs[i].value = strcpy(text, given[i].value);
    text += strlen(text) + 1;
  }
  pairs->count = count;
  return ZERO1_OK;
}

static zero1_status check_unique(const zero1__pairs *pairs, const char *what, zero1__error *error) {
  const size_t bytes = (size_t)pairs->count * sizeof(zero1_pair);
  zero1_pair *const sorted = malloc(bytes);
  zero1_status status = ZERO1_OK;
  if (!sorted)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "%s: no memory for %lld pairs", what,
                       (long long)pairs->count);
  memcpy(sorted, pairs->pairs, bytes);
  qsort(sorted, (size_t)pairs->count, sizeof *sorted, by_key);
  for (int64_t i = 1; i < pairs->count && !status; ++i)
    if (!by_key(&sorted[i - 1], &sorted[i])) {
      char shown[ZERO1__SHOWN_BYTES];
      status = zero1__fail(error, ZERO1_ERR_INVALID, "%s: the key '%s' is there twice", what,
                           zero1__show_text(sorted[i].key, shown));
    }
  free(sorted);
  return status;
}

zero1_status zero1__pairs_begin(zero1__pairs *pairs, const zero1_pair *given, int64_t count,
                                const char *what, zero1__error *error) {
  memset(pairs, 0, sizeof *pairs);
  if (count < 0 || (count > 0 && !given) || count > INT64_MAX / 1024)
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s: %lld pairs, and they are %s", what,
                       (long long)count, given ? "given" : "NULL");
  zero1_status status = ZERO1_OK;
  for (int64_t i = 0; i < count && !status; ++i) status = check_pair(&given[i], i, what, error);
  if (!status && count) status = copy(pairs, given, count, what, error);
  if (!status && count) status = check_unique(pairs, what, error);
  return status;
}

void zero1__pairs_end(zero1__pairs *pairs) {
  free(pairs->pairs);
  memset(pairs, 0, sizeof *pairs);
}
