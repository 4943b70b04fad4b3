/* Small files that are there whole or not at all. */
#ifndef ZERO1__SAVE_FILE_H
#define ZERO1__SAVE_FILE_H

#include <stddef.h>

#include "error.h"

/** Writes [bytes] and [more_bytes] under another name, flushes, and renames to `path`. After a
 *  failure nothing is left. ZERO1_ERR_IO: names the file, and says why. */
zero1_status zero1__save_file(const char *path, const void *data, size_t bytes, const void *more,
                              size_t more_bytes, zero1__error *error);

/** Reads a file whole, with a NUL after it, to be freed. ZERO1_ERR_IO, ZERO1_ERR_MEMORY. */
zero1_status zero1__load_file(const char *path, char **text, size_t *bytes, zero1__error *error);

#endif
