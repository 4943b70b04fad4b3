/* A file of a checkpoint, read chunk by chunk (ZERO1__CHUNK_BYTES) and compared with its checksums.
 * It is opened with care: what lies there may be anything, of any length. */
#ifndef ZERO1__CHUNK_READER_H
#define ZERO1__CHUNK_READER_H

#include <stdint.h>

#include "error.h"
#include "manifest.h"

/** Starts as zeroes. */
typedef struct zero1__chunk_reader {
  char *path; /* owned; NULL: closed */
  int descriptor;
  int64_t bytes; /* of the file */
} zero1__chunk_reader;

/** Opens file `name` of a folder. expected: its length, or -1: any.
 *  ZERO1_ERR_CORRUPT: it is missing, no regular file (a link is none), or of another length.
 *  ZERO1_ERR_IO, ZERO1_ERR_MEMORY. Ended with zero1__chunk_reader_end, after a failure too. */
zero1_status zero1__chunk_reader_begin(zero1__chunk_reader *reader, const char *folder,
                                       const char *name, int64_t expected, zero1__error *error);
/** Closes; of one that is closed nothing. */
void zero1__chunk_reader_end(zero1__chunk_reader *reader);

/** Bytes of chunk `chunk`. */
int64_t zero1__chunk_bytes(int64_t file_bytes, int64_t chunk);

/** Reads bytes [offset, offset + bytes). ZERO1_ERR_CORRUPT: the file has become shorter.
 *  ZERO1_ERR_IO. */
zero1_status zero1__chunk_reader_read(const zero1__chunk_reader *reader, int64_t offset,
                                      int64_t bytes, void *data, zero1__error *error);

/** Tells the kernel that these bytes are read soon, or (drop) not again: what it keeps of them goes,
 *  unless it is not on disk yet. */
void zero1__chunk_reader_expect(const zero1__chunk_reader *reader, int64_t offset, int64_t bytes);
void zero1__chunk_reader_drop(const zero1__chunk_reader *reader, int64_t offset, int64_t bytes);

/** Compares chunk `chunk` of a file of a folder, read into `data`. ZERO1_ERR_CORRUPT: names both. */
zero1_status zero1__chunk_verify(const char *folder, const zero1__saved_file *file, int64_t chunk,
                                 const void *data, zero1__error *error);

#endif
