#include "error.h"

#include <stdarg.h>
#include <stdio.h>

const char *zero1_status_string(zero1_status status) {
  switch (status) {
#define ZERO1__STATUS_TEXT(name, value, text) \
  case value:                                 \
    return text;
    ZERO1_STATUS_LIST(ZERO1__STATUS_TEXT)
#undef ZERO1__STATUS_TEXT
    default:
      return "unknown status";
  }
}

zero1_status zero1__fail(zero1__error *error, zero1_status status, const char *format, ...) {
  if (error && error->status == ZERO1_OK) {
    error->status = status;
    va_list list;
    va_start(list, format);
    vsnprintf(error->text, sizeof error->text, format, list);
    va_end(list);
  }
  return status;
}
