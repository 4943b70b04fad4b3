#include "json_text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 60

/* Room for `bytes` more; NULL: there is none. */
static char *reserve(zero1__json_text *json, size_t bytes) {
  if (json->status) return NULL;
  if (json->room - json->bytes < bytes) {
    size_t room = json->room ? json->room : 4096;
    while (room - json->bytes < bytes && room <= SIZE_MAX / 2) room *= 2;
    char *const text = room - json->bytes < bytes ? NULL : realloc(json->text, room);
    if (!text) {
      json->status = ZERO1_ERR_MEMORY;
      return NULL;
    }
    json->text = text;
    json->room = room;
  }
  return json->text + json->bytes;
}

void zero1__json_add_bytes(zero1__json_text *json, const char *data, size_t bytes) {
  char *const end = reserve(json, bytes);
  if (!end) return;
  memcpy(end, data, bytes);
  json->bytes += bytes;
}

void zero1__json_add(zero1__json_text *json, const char *text) {
  zero1__json_add_bytes(json, text, strlen(text));
}

static int is_plain(unsigned char byte) {
  return byte >= 0x20 && byte != '"' && byte != '\\';
}

static void add_escaped(zero1__json_text *json, char byte) {
  static const char bytes[] = "\"\\\n\t\r", letters[] = "\"\\ntr";
  const char *const known = strchr(bytes, byte);
  char escaped[8];
  if (known)
    snprintf(escaped, sizeof escaped, "\\%c", letters[known - bytes]);
  else
    snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)(unsigned char)byte);
  zero1__json_add(json, escaped);
}

void zero1__json_add_string(zero1__json_text *json, const char *text) {
  zero1__json_add(json, "\"");
  while (*text) {
    size_t plain = 0;
    while (is_plain((unsigned char)text[plain])) ++plain; /* a NUL is not */
    zero1__json_add_bytes(json, text, plain);
    text += plain;
    if (*text) add_escaped(json, *text++);
  }
  zero1__json_add(json, "\"");
}

void zero1__json_add_integer(zero1__json_text *json, int64_t value) {
  char digits[24];
  char *at = digits + sizeof digits;
  uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  do *--at = (char)('0' + rest % 10);
  while (rest /= 10);
  if (value < 0) *--at = '-';
  zero1__json_add_bytes(json, at, (size_t)(digits + sizeof digits - at));
}

void zero1__json_add_real(zero1__json_text *json, double value) {
  char digits[40];
  json_t *const number = json_real(value);
  const size_t bytes =
      number ? json_dumpb(number, digits, sizeof digits, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17))
             : 0;
  json_decref(number);
  if (!json->status && (!bytes || bytes > sizeof digits)) json->status = ZERO1_ERR_MEMORY;
  if (!json->status) zero1__json_add_bytes(json, digits, bytes);
}

void zero1__json_add_hash(zero1__json_text *json, uint64_t hash) {
  char *const end = reserve(json, 16);
  if (!end) return;
  for (int i = 0; i < 16; ++i) end[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
  json->bytes += 16;
}

void zero1__json_end(zero1__json_text *json) {
  free(json->text);
  memset(json, 0, sizeof *json);
}

/* Bytes of the character that begins here; 0: it is none of UTF-8. */
static size_t utf8_length(const unsigned char *at) {
  if (at[0] < 0x80) return 1;
  if (at[0] < 0xc2 || at[0] > 0xf4) return 0;
  const size_t length = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
  for (size_t i = 1; i < length; ++i)
    if ((at[i] & 0xc0) != 0x80) return 0;       /* a NUL, too */
  if (at[0] == 0xe0 && at[1] < 0xa0) return 0;  /* fits two */
  if (at[0] == 0xed && at[1] >= 0xa0) return 0; /* a surrogate */
  if (at[0] == 0xf0 && at[1] < 0x90) return 0;  /* fits three */
  if (at[0] == 0xf4 && at[1] >= 0x90) return 0; /* beyond U+10FFFF */
  return length;
}

int zero1__utf8_valid(const char *text) {
  const unsigned char *at = (const unsigned char *)text;
  while (*at) {
    const size_t length = utf8_length(at);
    if (!length) return 0;
    at += length;
  }
  return 1;
}

const char *zero1__show_text(const char *text, char shown[ZERO1__SHOWN_BYTES]) {
  size_t used = 0;
  int count = 0;
  for (; *text && count < SHOWN_MAX; ++count) {
    const unsigned char *const at = (const unsigned char *)text;
    const size_t length = utf8_length(at);
    if (*at == '\n') {
      used += (size_t)snprintf(shown + used, ZERO1__SHOWN_BYTES - used, "\\n");
    } else if (!length || *at < 0x20 || *at == 0x7f) {
      used += (size_t)snprintf(shown + used, ZERO1__SHOWN_BYTES - used, "\\x%02x", *at);
    } else {
      memcpy(shown + used, text, length);
      used += length;
    }
    text += length ? length : 1;
  }
  snprintf(shown + used, ZERO1__SHOWN_BYTES - used, "%s", *text ? "..." : "");
  return shown;
}
