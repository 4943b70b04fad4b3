#include "checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

zero1_status zero1__fail_at(zero1__error *error, zero1_status status, const char *path,
                            const char *format, ...) {
  char text[ZERO1__ERROR_TEXT];
  const size_t bytes = strlen(path), most = 160;
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  return zero1__fail(error, status, "%s%s: %s", bytes > most ? "..." : "",
                     bytes > most ? path + bytes - most : path, text);
}

zero1_status zero1__fail_io(zero1__error *error, const char *path, const char *doing, int number) {
  return zero1__fail_at(error, ZERO1_ERR_IO, path, "%s failed: %s", doing, strerror(number));
}

zero1_status zero1__make_folder(const char *path, int may_exist, zero1__error *error) {
  struct stat is;
  if (!mkdir(path, 0777)) return ZERO1_OK;
  const int number = errno;
  if (number != EEXIST || !may_exist || stat(path, &is))
    return zero1__fail_io(error, path, "making the folder", number);
  if (S_ISDIR(is.st_mode)) return ZERO1_OK;
  return zero1__fail_at(error, ZERO1_ERR_IO, path, "is a file, not a folder");
}

zero1_status zero1__flush_folder(const char *path, zero1__error *error) {
  const int fd = TEMP_FAILURE_RETRY(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd < 0) return zero1__fail_io(error, path, "opening", errno);
  const int number = TEMP_FAILURE_RETRY(fsync(fd)) ? errno : 0;
  close(fd);
  /* Some filesystems keep no folders that could be flushed: theirs are as safe as they get. */
  if (!number || number == EINVAL || number == ENOTSUP) return ZERO1_OK;
  return zero1__fail_io(error, path, "flushing", number);
}

/* ---- removal ---- */

/* `path` is what was asked for and `name` what this is about within it. */
static zero1_status fail_removal(zero1__error *error, const char *path, const char *name,
                                 int number) {
  return zero1__fail_at(error, ZERO1_ERR_IO, path, "removing %s failed: %s", name,
                        strerror(number));
}

static zero1_status remove_entry(int parent, const char *name, const char *path,
                                 zero1__error *error);

/* Owns fd. What is there is removed one by one; links are removed, not followed. */
static zero1_status empty_folder(int fd, const char *name, const char *path, zero1__error *error) {
  DIR *const folder = fdopendir(fd);
  if (!folder) {
    const int number = errno;
    close(fd);
    return fail_removal(error, path, name, number);
  }
  zero1_status status = ZERO1_OK;
  while (!status) {
    errno = 0;
    const struct dirent *const entry = readdir(folder);
    if (!entry) {
      if (errno) status = fail_removal(error, path, name, errno);
      break;
    }
    if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
      status = remove_entry(fd, entry->d_name, path, error);
  }
  closedir(folder);
  return status;
}

static zero1_status remove_entry(int parent, const char *name, const char *path,
                                 zero1__error *error) {
  if (!unlinkat(parent, name, 0) || errno == ENOENT) return ZERO1_OK;
  const int refused = errno; /* a folder gives EISDIR here, elsewhere EPERM */
  const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  const int fd = TEMP_FAILURE_RETRY(openat(parent, name, flags));
  if (fd < 0) {
    if (errno == ENOENT) return ZERO1_OK;
    const int is_folder = errno != ENOTDIR && errno != ELOOP;
    return fail_removal(error, path, name, is_folder ? errno : refused);
  }
  const zero1_status status = empty_folder(fd, name, path, error);
  if (status) return status;
  if (unlinkat(parent, name, AT_REMOVEDIR) && errno != ENOENT)
    return fail_removal(error, path, name, errno);
  return ZERO1_OK;
}

zero1_status zero1__remove_tree(const char *path, zero1__error *error) {
  return remove_entry(AT_FDCWD, path, path, error);
}
