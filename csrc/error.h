/* The detail of a failure: a status and one line of text, first failure wins. */
#ifndef ZERO1__ERROR_H
#define ZERO1__ERROR_H

#include "zero1/status.h"

#define ZERO1__ERROR_TEXT 400

typedef struct zero1__error {
  zero1_status status;
  char text[ZERO1__ERROR_TEXT];
} zero1__error;

static inline void zero1__error_clear(zero1__error *error) {
  error->status = ZERO1_OK;
  error->text[0] = 0;
}

/** Notes a failure, unless one is noted already, and returns `status`. error may be NULL. */
zero1_status zero1__fail(zero1__error *error, zero1_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
