/* Folders as a filesystem has them, and how a failure names a path. */
#ifndef ZERO1__CHECKPOINT_FOLDER_H
#define ZERO1__CHECKPOINT_FOLDER_H

#include "error.h"

/** Fails with "<path>: " and what is wrong; of a long path its end. */
zero1_status zero1__fail_at(zero1__error *error, zero1_status status, const char *path,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/** ZERO1_ERR_IO: "<path>: <doing> failed: <strerror>" */
zero1_status zero1__fail_io(zero1__error *error, const char *path, const char *doing, int number);

/** Makes a folder whose parent is there. may_exist: one that is there is fine. ZERO1_ERR_IO. */
zero1_status zero1__make_folder(const char *path, int may_exist, zero1__error *error);

/** Flushes a folder, so that names in it are on disk. ZERO1_ERR_IO. */
zero1_status zero1__flush_folder(const char *path, zero1__error *error);

/** Removes a file or a folder with all that is in it; one that is not there is fine. ZERO1_ERR_IO. */
zero1_status zero1__remove_tree(const char *path, zero1__error *error);

#endif
