/* What writing and reading a manifest share: the words, how a text ends, and how a text that was
 * read is refused. */
#ifndef ZERO1__MANIFEST_TEXT_H
#define ZERO1__MANIFEST_TEXT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define ZERO1__MANIFEST_FORMAT "zero1 checkpoint"
#define ZERO1__PART_FORMAT "zero1 checkpoint part"

/* A text ends so: what comes before the digits is what they are the hash of. */
#define ZERO1__HASH_BEGIN "\"xxh3\": \""
#define ZERO1__HASH_DIGITS 16
#define ZERO1__HASH_END "\"}\n"

/** A text that is read: where it is from, and where failures go. */
typedef struct zero1__reading {
  const char *path;
  zero1__error *error;
} zero1__reading;

/** Sets *root to the JSON of a text, or NULL; to be json_decref'ed. `what`: the text is called so.
 *  ZERO1_ERR_CORRUPT, ZERO1_ERR_MEMORY. */
zero1_status zero1__reading_parse(const zero1__reading *at, const char *what, const char *text,
                                  size_t bytes, json_t **root);

/** As parse, of a text of this format, whose version is known and whose checksum is right.
 *  ZERO1_ERR_VERSION, ZERO1_ERR_CORRUPT, ZERO1_ERR_MEMORY. */
zero1_status zero1__reading_load(const zero1__reading *at, const char *text, size_t bytes,
                                 const char *format, json_t **root);

/** ZERO1_ERR_MEMORY, for a part of the text. */
zero1_status zero1__reading_memory(const zero1__reading *at, const char *what);

/** json_unpack_ex failed on element `index` of a list `what`, or on what is in no list (-1). */
zero1_status zero1__reading_unpack(const zero1__reading *at, const char *what, int64_t index,
                                   const json_error_t *why);

/** The failure of a function that does not know of texts becomes one of this text. */
zero1_status zero1__reading_pass_on(const zero1__reading *at, zero1_status status,
                                    const zero1__error *inner);

#endif
