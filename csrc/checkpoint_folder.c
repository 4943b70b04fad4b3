/* Folders of checkpoints as a filesystem sees them: flushed, and removed with all that is in them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint_root.h"

zero1_status zero1__fail_io(zero1__error *error, const char *path, const char *doing, int number) {
  return zero1__fail(error, ZERO1_ERR_IO, "%s: %s failed: %s", path, doing, strerror(number));
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
  return zero1__fail(error, ZERO1_ERR_IO, "%s: removing %s failed: %s", path, name,
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
