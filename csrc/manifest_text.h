/* What writing and reading a manifest share: the words, and how a text ends. */
#ifndef ZERO1__MANIFEST_TEXT_H
#define ZERO1__MANIFEST_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define ZERO1__MANIFEST_FORMAT "zero1 checkpoint"
#define ZERO1__PART_FORMAT "zero1 checkpoint part"

/* A text ends so: what comes before the digits is what they are the hash of. */
#define ZERO1__HASH_BEGIN "\"xxh3\": \""
#define ZERO1__HASH_DIGITS 16
#define ZERO1__HASH_END "\"}\n"

/** Fails with "<path>: " and what is wrong; of a long path its end. */
zero1_status zero1__fail_at(zero1__error *error, zero1_status status, const char *path,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
