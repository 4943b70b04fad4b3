/* What is asked of a disk without zero1: a file written from memory and flushed, and read back. */
#ifndef BENCH_PLAIN_FILE_H
#define BENCH_PLAIN_FILE_H

#include <stddef.h>

/** Bytes of one write or read. */
#define BENCH_PLAIN_PIECE ((size_t)8 << 20)

/** Makes the file of [bytes], in pieces, and flushes it. Ends the program where that fails. */
void bench_plain_write(const char *path, const void *data, size_t bytes);

/** Reads [bytes] of the file into `data`, in pieces. Ends the program where that fails. */
void bench_plain_read(const char *path, void *data, size_t bytes);

/** Flushes a folder, so that names in it are on disk. */
void bench_flush_folder(const char *path);

size_t bench_file_bytes(const char *path);

/** Flushes a file and asks the kernel to drop what it has of it in memory. */
void bench_drop_cached(const char *path);

/** Part of the file, from 0 to 1, that is in memory of the kernel; 1 where it cannot be told. */
double bench_cached_part(const char *path);

/** What kind of filesystem `path` is on: "ext4", "tmpfs", ...; its number where we have no name. */
void bench_filesystem_name(const char *path, char *text, size_t text_bytes);

#endif
