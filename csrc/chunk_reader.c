#include "chunk_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_folder.h"

/* Of what lies at a path. Errors of the folder's own, or of the machine, are no damage. */
static zero1_status fail_open(const zero1__chunk_reader *reader, int number, zero1__error *error) {
  const char *what = NULL;
  if (number == ENOENT || number == ENOTDIR) what = "it is missing";
  if (number == ELOOP) what = "it is a symbolic link, not a file";
  if (number == ENXIO || number == ENODEV) what = "it is no regular file";
  if (what) return zero1__fail_at(error, ZERO1_ERR_CORRUPT, reader->path, "%s", what);
  return zero1__fail_io(error, reader->path, "opening", number);
}

static zero1_status check_kind(zero1__chunk_reader *reader, int64_t expected, zero1__error *error) {
  struct stat info;
  if (fstat(reader->descriptor, &info))
    return zero1__fail_io(error, reader->path, "looking at it", errno);
  if (!S_ISREG(info.st_mode))
    return zero1__fail_at(error, ZERO1_ERR_CORRUPT, reader->path, "it is %s, not a file",
                          S_ISDIR(info.st_mode) ? "a folder" : "something else");
  reader->bytes = info.st_size;
  if (expected >= 0 && reader->bytes != expected)
    return zero1__fail_at(error, ZERO1_ERR_CORRUPT, reader->path,
                          "it has %lld bytes, and the manifest says %lld", (long long)reader->bytes,
                          (long long)expected);
  return ZERO1_OK;
}

zero1_status zero1__chunk_reader_begin(zero1__chunk_reader *reader, const char *folder,
                                       const char *name, int64_t expected, zero1__error *error) {
  const size_t path_bytes = strlen(folder) + strlen(name) + 2;
  reader->descriptor = -1;
  reader->bytes = 0;
  reader->path = malloc(path_bytes);
  if (!reader->path)
    return zero1__fail_at(error, ZERO1_ERR_MEMORY, folder, "no memory for the path of %s", name);
  snprintf(reader->path, path_bytes, "%s/%s", folder, name);
  do { /* without O_NONBLOCK a pipe would wait for its writer */
    reader->descriptor =
        open(reader->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  } while (reader->descriptor < 0 && errno == EINTR);
  if (reader->descriptor < 0) return fail_open(reader, errno, error);
  const zero1_status status = check_kind(reader, expected, error);
  if (!status) (void)posix_fadvise(reader->descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
  return status;
}

void zero1__chunk_reader_end(zero1__chunk_reader *reader) {
  if (reader->path && reader->descriptor >= 0) close(reader->descriptor);
  free(reader->path);
  reader->path = NULL;
}

int64_t zero1__chunk_bytes(int64_t file_bytes, int64_t chunk) {
  const int64_t left = file_bytes - chunk * ZERO1__CHUNK_BYTES;
  return left < ZERO1__CHUNK_BYTES ? left : ZERO1__CHUNK_BYTES;
}

zero1_status zero1__chunk_reader_read(const zero1__chunk_reader *reader, int64_t offset,
                                      int64_t bytes, void *data, zero1__error *error) {
  char *to = data;
  while (bytes > 0) {
    const size_t most = bytes < SSIZE_MAX ? (size_t)bytes : SSIZE_MAX;
    const ssize_t taken = pread(reader->descriptor, to, most, offset);
    if (taken < 0 && errno == EINTR) continue;
    if (taken < 0) return zero1__fail_io(error, reader->path, "reading", errno);
    if (taken == 0)
      return zero1__fail_at(error, ZERO1_ERR_CORRUPT, reader->path,
                            "it ends at byte %lld, while it is read", (long long)offset);
    to += taken;
    offset += taken;
    bytes -= taken;
  }
  return ZERO1_OK;
}

/* Advice may fail: what was asked for is only speed, and room. */
void zero1__chunk_reader_expect(const zero1__chunk_reader *reader, int64_t offset, int64_t bytes) {
  (void)posix_fadvise(reader->descriptor, offset, bytes, POSIX_FADV_WILLNEED);
}

void zero1__chunk_reader_drop(const zero1__chunk_reader *reader, int64_t offset, int64_t bytes) {
  (void)posix_fadvise(reader->descriptor, offset, bytes, POSIX_FADV_DONTNEED);
}

zero1_status zero1__chunk_verify(const char *folder, const zero1__saved_file *file, int64_t chunk,
                                 const void *data, zero1__error *error) {
  const int64_t bytes = zero1__chunk_bytes(file->bytes, chunk);
  const int64_t begin = chunk * ZERO1__CHUNK_BYTES;
  char path[PATH_MAX + NAME_MAX];
  if (XXH3_64bits(data, (size_t)bytes) == file->xxh3[chunk]) return ZERO1_OK;
  snprintf(path, sizeof path, "%s/%s", folder, file->name);
  return zero1__fail_at(error, ZERO1_ERR_CORRUPT, path,
                        "bytes [%lld, %lld) have another checksum than the manifest says",
                        (long long)begin, (long long)(begin + bytes));
}
