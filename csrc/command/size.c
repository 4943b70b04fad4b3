#include "size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

const char *size_text(double bytes, char text[SIZE_TEXT_BYTES]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  while (bytes >= 1023.95 && unit < 6) { /* "1024.0 KiB" is never shown */
    bytes /= 1024;
    ++unit;
  }
  snprintf(text, SIZE_TEXT_BYTES, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
  return text;
}

const char *age_text(int64_t seconds, char text[SIZE_TEXT_BYTES]) {
  static const struct {
    int64_t seconds;
    const char *one, *many;
  } units[] = {{86400, "day", "days"}, {3600, "h", "h"}, {60, "min", "min"}, {1, "s", "s"}};
  for (int i = 0; i < 4; ++i) {
    const long long count = seconds / units[i].seconds;
    if (count < 1) continue;
    snprintf(text, SIZE_TEXT_BYTES, "%lld %s", count, count == 1 ? units[i].one : units[i].many);
    return text;
  }
  snprintf(text, SIZE_TEXT_BYTES, "now");
  return text;
}

const char *real_text(double value, char text[SIZE_TEXT_BYTES]) {
  for (int digits = 1; digits <= 17; ++digits) {
    snprintf(text, SIZE_TEXT_BYTES, "%.*g", digits, value);
    if (strtod(text, NULL) == value) break;
  }
  return text;
}

int size_parse(const char *text, int64_t *bytes) {
  static const struct {
    const char *name;
    int64_t bytes;
  } units[] = {{"", 1},
               {"B", 1},
               {"KB", 1000},
               {"MB", 1000000},
               {"GB", 1000000000},
               {"TB", 1000000000000},
               {"KiB", (int64_t)1 << 10},
               {"MiB", (int64_t)1 << 20},
               {"GiB", (int64_t)1 << 30},
               {"TiB", (int64_t)1 << 40}};
  char *end;
  if (*text < '0' || *text > '9') return 0;
  errno = 0;
  const long long number = strtoll(text, &end, 10);
  if (errno || number < 1) return 0;
  while (*end == ' ') ++end;
  for (size_t i = 0; i < sizeof units / sizeof *units; ++i) {
    if (strcasecmp(end, units[i].name)) continue;
    if (number > INT64_MAX / units[i].bytes) return 0;
    *bytes = number * units[i].bytes;
    return 1;
  }
  return 0;
}
