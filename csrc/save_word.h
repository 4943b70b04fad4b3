/* What one rank of a save tells another through their folder: a status, its text, and maybe more.
 *
 * A file, made under another name and renamed. Where a failure finds no room for one any more, a
 * symbolic link that leads to its status and the end of its text: that takes no more than a name. */
#ifndef ZERO1__SAVE_WORD_H
#define ZERO1__SAVE_WORD_H

#include <stddef.h>

#include "error.h"

/** Puts a word to `path`. said: its status and text; more: [more_bytes] bytes, or NULL.
 *  ZERO1_ERR_IO, ZERO1_ERR_INVALID: as zero1__save_file. */
zero1_status zero1__word_write(const char *path, const zero1__error *said, const char *more,
                               size_t more_bytes, zero1__error *error);

/** Whether there is one. */
int zero1__word_is_there(const char *path);

/** Reads one.
 *  [out] said   its status and text
 *  [out] text   all of it and a NUL, to be freed; NULL on failure
 *  [out] more   in text: what comes after the status, up to text + *bytes
 *  ZERO1_ERR_IO, ZERO1_ERR_MEMORY. ZERO1_ERR_CORRUPT: it does not begin with a status. */
zero1_status zero1__word_read(const char *path, zero1__error *said, char **text, const char **more,
                              size_t *bytes, zero1__error *error);

#endif
