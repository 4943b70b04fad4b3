#include "chunk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_folder.h"
#include "clock.h"
#include "save_file.h"

/* The kernel begins to write what is there, so that the flush at the end has little left. */
#define PUSH_BYTES ((int64_t)8 << 20)

/* What is waited for at once in the end. */
#define WAIT_BYTES ((int64_t)64 << 20)
#define WAIT_FLAGS \
  (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)

zero1_status zero1__chunk_file_begin(zero1__chunk_file *file, const char *path, uint64_t *xxh3,
                                     int64_t room, zero1__error *error) {
  memset(file, 0, sizeof *file);
  file->descriptor = -1;
  file->xxh3 = xxh3;
  file->room = room;
  file->path = strdup(path);
  file->hash = XXH3_createState();
  if (!file->path || !file->hash)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %.300s", path);
  XXH3_64bits_reset(file->hash);
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  file->descriptor = TEMP_FAILURE_RETRY(open(path, flags, 0666));
  if (file->descriptor < 0) return zero1__fail_io(error, path, "making it", errno);
  return ZERO1_OK;
}

void zero1__chunk_file_end(zero1__chunk_file *file) {
  if (file->descriptor >= 0) close(file->descriptor);
  XXH3_freeState(file->hash);
  free(file->path);
  memset(file, 0, sizeof *file);
  file->descriptor = -1;
}

static void hash_pieces(zero1__chunk_file *file) {
  const int64_t begin_ns = zero1__now_ns();
  for (int i = 0; i < file->piece_count; ++i)
    XXH3_64bits_update(file->hash, file->pieces[i].iov_base, file->pieces[i].iov_len);
  file->hash_ns += zero1__now_ns() - begin_ns;
}

static void close_chunk(zero1__chunk_file *file) {
  const int64_t chunk = (file->bytes - 1) / ZERO1__CHUNK_BYTES;
  if (chunk < file->room) file->xxh3[chunk] = XXH3_64bits_digest(file->hash);
  XXH3_64bits_reset(file->hash);
}

static zero1_status write_pieces(zero1__chunk_file *file, zero1__error *error) {
  struct iovec *next = file->pieces;
  int left = file->piece_count;
  while (left) {
    const ssize_t wrote = TEMP_FAILURE_RETRY(writev(file->descriptor, next, left));
    if (wrote <= 0) return zero1__fail_io(error, file->path, "writing", wrote ? errno : EIO);
    file->written += wrote;
    size_t done = (size_t)wrote;
    while (left && done >= next->iov_len) {
      done -= next->iov_len;
      ++next;
      --left;
    }
    if (left) {
      next->iov_base = (char *)next->iov_base + done;
      next->iov_len -= done;
    }
  }
  file->piece_count = 0;
  return ZERO1_OK;
}

zero1_status zero1__chunk_file_flush(zero1__chunk_file *file, zero1__error *error) {
  if (!file->piece_count) return ZERO1_OK;
  hash_pieces(file); /* first: what is written is then in the cache */
  if (file->bytes % ZERO1__CHUNK_BYTES == 0) close_chunk(file);
  const zero1_status status = write_pieces(file, error);
  if (status || file->written - file->pushed < PUSH_BYTES) return status;
  /* A filesystem that cannot do it does all in the end. */
  (void)sync_file_range(file->descriptor, file->pushed, file->written - file->pushed,
                        SYNC_FILE_RANGE_WRITE);
  file->pushed = file->written;
  return ZERO1_OK;
}

zero1_status zero1__chunk_file_add(zero1__chunk_file *file, const void *bytes, int64_t count,
                                   zero1__error *error) {
  const char *from = bytes;
  while (count) {
    const int64_t left = ZERO1__CHUNK_BYTES - file->bytes % ZERO1__CHUNK_BYTES;
    const int64_t taken = count < left ? count : left;
    file->pieces[file->piece_count++] = (struct iovec){(void *)(uintptr_t)from, (size_t)taken};
    file->bytes += taken;
    from += taken;
    count -= taken;
    if (taken < left && file->piece_count < ZERO1__CHUNK_PIECES) continue;
    const zero1_status status = zero1__chunk_file_flush(file, error);
    if (status) return status;
  }
  return ZERO1_OK;
}

/* Piece by piece, each of which is seen by its time: the other ranks wait for as long as something
 * happens. What cannot be done so, the flush of the whole does. */
static zero1_status wait_for_disk(zero1__chunk_file *file, zero1__error *error) {
  for (int64_t at = 0; at < file->written; at += WAIT_BYTES) {
    const int failed =
        TEMP_FAILURE_RETRY(sync_file_range(file->descriptor, at, WAIT_BYTES, WAIT_FLAGS));
    /* It has told of the error then, and the flush of the whole would not. */
    if (failed && (errno == EIO || errno == ENOSPC || errno == EDQUOT))
      return zero1__fail_io(error, file->path, "flushing it", errno);
    if (failed) break;
    (void)futimens(file->descriptor, NULL);
  }
  return ZERO1_OK;
}

zero1_status zero1__chunk_file_finish(zero1__chunk_file *file, zero1__error *error) {
  zero1_status status = zero1__chunk_file_flush(file, error);
  if (!status) status = wait_for_disk(file, error);
  if (!status && file->bytes % ZERO1__CHUNK_BYTES) close_chunk(file);
  if (!status) status = zero1__flush_file(file->descriptor, file->path, error);
  if (status) return status;
  const int descriptor = file->descriptor;
  file->descriptor = -1;
  return zero1__close_file(descriptor, file->path, error);
}
