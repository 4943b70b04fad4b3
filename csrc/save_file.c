#include "save_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_folder.h"

zero1_status zero1__write_all(int descriptor, const char *path, const void *data, size_t bytes,
                              zero1__error *error) {
  const char *from = data;
  while (bytes) {
    const ssize_t wrote = TEMP_FAILURE_RETRY(write(descriptor, from, bytes));
    if (wrote <= 0) return zero1__fail_io(error, path, "writing", wrote ? errno : EIO);
    from += wrote;
    bytes -= (size_t)wrote;
  }
  return ZERO1_OK;
}

zero1_status zero1__flush_file(int descriptor, const char *path, zero1__error *error) {
  if (!TEMP_FAILURE_RETRY(fsync(descriptor))) return ZERO1_OK;
  return zero1__fail_io(error, path, "flushing it", errno);
}

zero1_status zero1__close_file(int descriptor, const char *path, zero1__error *error) {
  if (!close(descriptor) || errno == EINTR) return ZERO1_OK; /* after EINTR it is closed */
  return zero1__fail_io(error, path, "closing it", errno);
}

zero1_status zero1__save_file(const char *path, const void *data, size_t bytes, const void *more,
                              size_t more_bytes, zero1__error *error) {
  char other[4096];
  if (snprintf(other, sizeof other, "%s.new", path) >= (int)sizeof other)
    return zero1__fail(error, ZERO1_ERR_INVALID, "this path is too long: %.200s", path);
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  const int descriptor = TEMP_FAILURE_RETRY(open(other, flags, 0666));
  if (descriptor < 0) return zero1__fail_io(error, path, "making it", errno);
  zero1_status status = zero1__write_all(descriptor, path, data, bytes, error);
  if (!status) status = zero1__write_all(descriptor, path, more, more_bytes, error);
  if (!status) status = zero1__flush_file(descriptor, path, error);
  const zero1_status closed = zero1__close_file(descriptor, path, error);
  if (!status) status = closed;
  if (!status && rename(other, path)) status = zero1__fail_io(error, path, "renaming to it", errno);
  if (status) (void)unlink(other);
  return status;
}

static zero1_status read_all(int descriptor, const char *path, char *text, size_t bytes,
                             zero1__error *error) {
  while (bytes) {
    const ssize_t got = TEMP_FAILURE_RETRY(read(descriptor, text, bytes));
    if (got <= 0) return zero1__fail_io(error, path, "reading", got ? errno : EIO);
    text += got;
    bytes -= (size_t)got;
  }
  return ZERO1_OK;
}

zero1_status zero1__load_file(const char *path, char **text, size_t *bytes, zero1__error *error) {
  struct stat is;
  *text = NULL;
  *bytes = 0;
  const int descriptor = TEMP_FAILURE_RETRY(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (descriptor < 0) return zero1__fail_io(error, path, "opening it", errno);
  zero1_status status = ZERO1_OK;
  if (fstat(descriptor, &is) || !S_ISREG(is.st_mode))
    status = zero1__fail_at(error, ZERO1_ERR_IO, path, "is no file");
  if (!status) *text = malloc((size_t)is.st_size + 1);
  if (!status && !*text)
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %.300s", path);
  if (!status) status = read_all(descriptor, path, *text, (size_t)is.st_size, error);
  close(descriptor);
  if (status) {
    free(*text);
    *text = NULL;
    return status;
  }
  *bytes = (size_t)is.st_size;
  (*text)[*bytes] = 0;
  return ZERO1_OK;
}
