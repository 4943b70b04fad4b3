/* A file that is written once, from its begin to its end, straight from where the bytes are, with a
 * checksum for each chunk of it (ZERO1__CHUNK_BYTES). */
#ifndef ZERO1__CHUNK_FILE_H
#define ZERO1__CHUNK_FILE_H

#include <stdint.h>
#include <sys/uio.h>

#include "error.h"
#include "manifest.h"

/** Pieces that go into one write. */
#define ZERO1__CHUNK_PIECES 64

typedef struct zero1__chunk_file {
  int descriptor;                           /* -1: closed */
  char *path;                               /* owned */
  struct iovec pieces[ZERO1__CHUNK_PIECES]; /* of the chunk, not written yet */
  int piece_count;
  int64_t bytes;   /* given so far */
  int64_t written; /* of them */
  int64_t pushed;  /* of them, whose way to the disk has begun */
  int64_t hash_ns; /* time that checksums took */
  void *hash;      /* of the chunk so far; owned */
  uint64_t *xxh3;  /* [room] of the chunks that are done; borrowed */
  int64_t room;
} zero1__chunk_file;

/** Makes the file `path`, which must not be there. xxh3: [zero1__chunk_count(all bytes)].
 *  ZERO1_ERR_IO, ZERO1_ERR_MEMORY. Ended with zero1__chunk_file_end, after a failure too. */
zero1_status zero1__chunk_file_begin(zero1__chunk_file *file, const char *path, uint64_t *xxh3,
                                     int64_t room, zero1__error *error);

/** Adds bytes after those that are there; they are read by the next flush at the latest, and stay as
 *  they are until then. ZERO1_ERR_IO: names the file, and says why. */
zero1_status zero1__chunk_file_add(zero1__chunk_file *file, const void *bytes, int64_t count,
                                   zero1__error *error);

/** What was added has been read. */
zero1_status zero1__chunk_file_flush(zero1__chunk_file *file, zero1__error *error);

/** Writes the rest, the last checksum too, and waits until all is on disk. */
zero1_status zero1__chunk_file_finish(zero1__chunk_file *file, zero1__error *error);

/** Closes. Does not remove. */
void zero1__chunk_file_end(zero1__chunk_file *file);

#endif
