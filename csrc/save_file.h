/* Small files that are there whole or not at all, and what writing any file takes. */
#ifndef ZERO1__SAVE_FILE_H
#define ZERO1__SAVE_FILE_H

#include <stddef.h>

#include "error.h"

/** Writes all of `data`, past interruptions. `path`: for texts. ZERO1_ERR_IO. */
zero1_status zero1__write_all(int descriptor, const char *path, const void *data, size_t bytes,
                              zero1__error *error);

/** Waits until what was written is on disk. ZERO1_ERR_IO. */
zero1_status zero1__flush_file(int descriptor, const char *path, zero1__error *error);

/** Closes, whatever it returns. ZERO1_ERR_IO: what was written may not be there. */
zero1_status zero1__close_file(int descriptor, const char *path, zero1__error *error);

/** Writes [bytes] and [more_bytes] under another name, flushes, and renames to `path`. After a
 *  failure nothing is left. ZERO1_ERR_IO: names the file, and says why. */
zero1_status zero1__save_file(const char *path, const void *data, size_t bytes, const void *more,
                              size_t more_bytes, zero1__error *error);

/** Reads a file whole, with a NUL after it, to be freed. ZERO1_ERR_IO, ZERO1_ERR_MEMORY. */
zero1_status zero1__load_file(const char *path, char **text, size_t *bytes, zero1__error *error);

#endif
