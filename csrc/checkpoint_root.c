#include "checkpoint_root.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "manifest.h"

#define LATEST "latest"
#define NEW_LATEST ".save-latest" /* what `latest` is made as */
#define STEP "step-"
#define SAVE ".save-"
#define SAVE_DIGITS 16
#define GONE ".gone-"
#define ROOT_MAX 3000 /* bytes of a path that a caller gives */

/* ---- names ---- */

void zero1__step_name(int64_t count, char name[ZERO1__STEP_NAME_BYTES]) {
  snprintf(name, ZERO1__STEP_NAME_BYTES, STEP "%012lld", (long long)count);
}

int zero1__step_parse(const char *name, int64_t *count) {
  const size_t prefix = sizeof STEP - 1;
  if (strncmp(name, STEP, prefix) || name[prefix] < '0' || name[prefix] > '9') return 0;
  errno = 0;
  const long long value = strtoll(name + prefix, NULL, 10);
  char same[ZERO1__STEP_NAME_BYTES];
  if (errno) return 0;
  zero1__step_name(value, same);
  if (strcmp(name, same)) return 0; /* another number of digits, or something behind them */
  *count = value;
  return 1;
}

void zero1__save_name(uint64_t token, char name[ZERO1__SAVE_NAME_BYTES]) {
  snprintf(name, ZERO1__SAVE_NAME_BYTES, SAVE "%0*llx", SAVE_DIGITS, (unsigned long long)token);
}

zero1_status zero1__root_check(const char *path, const char *what, zero1__error *error) {
  if (!path || !*path)
    return zero1__fail(error, ZERO1_ERR_INVALID, "%s is %s", what, path ? "empty" : "NULL");
  if (strlen(path) <= ROOT_MAX) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_INVALID, "%s is too long a path", what);
}

/* Whether a crashed save or removal has left what has this name. */
static int is_leftover(const char *name) {
  if (!strncmp(name, GONE, sizeof GONE - 1)) return name[sizeof GONE - 1] != 0;
  if (!strcmp(name, NEW_LATEST)) return 1;
  if (strncmp(name, SAVE, sizeof SAVE - 1)) return 0;
  const char *const digits = name + sizeof SAVE - 1;
  return strlen(digits) == SAVE_DIGITS && strspn(digits, "0123456789abcdef") == SAVE_DIGITS;
}

/* root + "/" + name, or root itself where name is "". */
static zero1_status join(const char *root, const char *name, char *path, size_t path_bytes,
                         zero1_status too_long, zero1__error *error) {
  size_t length = strlen(root);
  while (length > 1 && root[length - 1] == '/') --length;
  const char *const slash = !*name || (length == 1 && root[0] == '/') ? "" : "/";
  const int bytes = snprintf(path, path_bytes, "%.*s%s%s", (int)length, root, slash, name);
  if (bytes >= 0 && (size_t)bytes < path_bytes) return ZERO1_OK;
  if (path_bytes) path[0] = 0;
  return zero1__fail(error, too_long, "%.200s/%s: the path has %d bytes, and there is room for %zu",
                     root, name, bytes, path_bytes ? path_bytes - 1 : 0);
}

/* ---- what is there ---- */

static zero1_status fail_to_open(zero1__error *error, const char *root, int number) {
  if (number == ENOENT) return zero1__fail(error, ZERO1_ERR_NOT_FOUND, "%s: no such folder", root);
  if (number == ENOTDIR)
    return zero1__fail(error, ZERO1_ERR_IO, "%s: is a file, not a folder", root);
  return zero1__fail_io(error, root, "opening", number);
}

/* [out] has  whether `folder` is one that holds a manifest. */
static zero1_status has_manifest(const char *folder, int *has, zero1__error *error) {
  char path[PATH_MAX];
  struct stat info;
  *has = 0;
  const zero1_status status =
      join(folder, ZERO1__MANIFEST_NAME, path, sizeof path, ZERO1_ERR_IO, error);
  if (status) return status;
  if (!stat(path, &info)) {
    *has = S_ISREG(info.st_mode);
    return ZERO1_OK;
  }
  if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG)
    return ZERO1_OK;
  return zero1__fail_io(error, path, "looking for it", errno);
}

static int compare(const void *left, const void *right) {
  const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return (a > b) - (a < b);
}

/* Adds `value` to an array whose room doubles. */
static zero1_status append(int64_t **values, int64_t *count, int64_t value, zero1__error *error) {
  if (!(*count & (*count - 1))) { /* 0, 1, 2, 4: full */
    const size_t room = *count ? 2 * (size_t)*count : 1;
    int64_t *const grown = realloc(*values, room * sizeof **values);
    if (!grown) return zero1__fail(error, ZERO1_ERR_MEMORY, "a list of %zu checkpoints", room);
    *values = grown;
  }
  (*values)[(*count)++] = value;
  return ZERO1_OK;
}

static zero1_status list_entry(const char *root, const char *name, int64_t **counts, int64_t *count,
                               zero1__error *error) {
  int64_t step;
  int has = 0;
  char path[PATH_MAX];
  if (!zero1__step_parse(name, &step)) return ZERO1_OK;
  zero1_status status = join(root, name, path, sizeof path, ZERO1_ERR_IO, error);
  if (!status) status = has_manifest(path, &has, error);
  if (!status && has) status = append(counts, count, step, error);
  return status;
}

zero1_status zero1__root_list(const char *root, int64_t **counts, int64_t *count,
                              zero1__error *error) {
  *counts = NULL;
  *count = 0;
  DIR *const folder = opendir(root);
  if (!folder) return fail_to_open(error, root, errno);
  zero1_status status = ZERO1_OK;
  while (!status) {
    errno = 0;
    const struct dirent *const entry = readdir(folder);
    if (!entry) {
      if (errno) status = zero1__fail_io(error, root, "reading", errno);
      break;
    }
    status = list_entry(root, entry->d_name, counts, count, error);
  }
  closedir(folder);
  if (status) {
    free(*counts);
    *counts = NULL;
    *count = 0;
  } else if (*count) {
    qsort(*counts, (size_t)*count, sizeof **counts, compare);
  }
  return status;
}

/* [out] target  what the link `latest` says; "" where it is none, or is too long */
static zero1_status read_latest(const char *root, char *target, size_t target_bytes,
                                zero1__error *error) {
  char path[PATH_MAX];
  target[0] = 0;
  const zero1_status status = join(root, LATEST, path, sizeof path, ZERO1_ERR_IO, error);
  if (status) return status;
  const ssize_t bytes = readlink(path, target, target_bytes);
  if (bytes < 0) {
    if (errno == ENOENT || errno == EINVAL) return ZERO1_OK; /* EINVAL: a file, or a folder */
    return zero1__fail_io(error, path, "reading", errno);
  }
  target[(size_t)bytes < target_bytes ? bytes : 0] = 0;
  return ZERO1_OK;
}

zero1_status zero1__root_latest(const char *root, char *path, size_t path_bytes,
                                zero1__error *error) {
  char target[PATH_MAX], linked[PATH_MAX];
  int64_t *counts = NULL, count = 0;
  int has = 0;
  if (path_bytes) path[0] = 0;
  struct stat info;
  if (stat(root, &info)) return fail_to_open(error, root, errno);
  if (!S_ISDIR(info.st_mode)) return fail_to_open(error, root, ENOTDIR);
  zero1_status status = read_latest(root, target, sizeof target, error);
  if (!status && target[0]) {
    const int absolute = target[0] == '/';
    if (!join(absolute ? target : root, absolute ? "" : target, linked, sizeof linked, ZERO1_ERR_IO,
              NULL)) /* too long: nowhere */
      status = has_manifest(linked, &has, error);
    if (!status && has) return join(linked, "", path, path_bytes, ZERO1_ERR_INVALID, error);
  }
  if (!status) status = zero1__root_list(root, &counts, &count, error);
  if (!status && !count)
    status = zero1__fail(error, ZERO1_ERR_NOT_FOUND, "%s: no %s, and no checkpoint in it", root,
                         ZERO1__MANIFEST_NAME);
  if (!status) {
    char name[ZERO1__STEP_NAME_BYTES];
    zero1__step_name(counts[count - 1], name);
    status = join(root, name, path, path_bytes, ZERO1_ERR_INVALID, error);
  }
  free(counts);
  return status;
}

zero1_status zero1__root_resolve(const char *dir, char *path, size_t path_bytes,
                                 zero1__error *error) {
  int has;
  const zero1_status status = has_manifest(dir, &has, error);
  if (status) return status;
  if (has) return join(dir, "", path, path_bytes, ZERO1_ERR_INVALID, error);
  return zero1__root_latest(dir, path, path_bytes, error);
}

/* ---- what changes ---- */

zero1_status zero1__root_set_latest(const char *root, int64_t count, zero1__error *error) {
  char name[ZERO1__STEP_NAME_BYTES], made[PATH_MAX], path[PATH_MAX];
  zero1__step_name(count, name);
  zero1_status status = join(root, NEW_LATEST, made, sizeof made, ZERO1_ERR_IO, error);
  if (!status) status = join(root, LATEST, path, sizeof path, ZERO1_ERR_IO, error);
  if (!status) status = zero1__remove_tree(made, error); /* of a save that crashed here */
  if (status) return status;
  if (symlink(name, made)) return zero1__fail_io(error, made, "making the link", errno);
  if (rename(made, path)) {
    const int number = errno;
    unlink(made);
    return zero1__fail_io(error, path, "replacing it", number);
  }
  return zero1__flush_folder(root, error);
}

/* Example: steps 10 20 30 40 50, keep_last 2, keep_every 20: 10 and 30 go. */
int64_t zero1__root_choose(const int64_t *steps, int64_t count, int64_t keep_last,
                           int64_t keep_every, uint8_t *goes) {
  int64_t going = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int old = keep_last > 0 && count - i > keep_last;
    const int marked = keep_every > 0 && steps[i] % keep_every == 0;
    goes[i] = old && !marked;
    going += goes[i];
  }
  return going;
}

zero1_status zero1__root_remove(const char *root, int64_t count, zero1__error *error) {
  char name[ZERO1__STEP_NAME_BYTES], gone_name[sizeof GONE + ZERO1__STEP_NAME_BYTES];
  char path[PATH_MAX], gone[PATH_MAX];
  zero1__step_name(count, name);
  snprintf(gone_name, sizeof gone_name, GONE "%s", name);
  zero1_status status = join(root, name, path, sizeof path, ZERO1_ERR_IO, error);
  if (!status) status = join(root, gone_name, gone, sizeof gone, ZERO1_ERR_IO, error);
  if (!status) status = zero1__remove_tree(gone, error); /* of a removal that crashed */
  if (status) return status;
  if (rename(path, gone))
    return errno == ENOENT ? ZERO1_OK : zero1__fail_io(error, path, "removing", errno);
  status = zero1__flush_folder(root, error); /* it is gone before anything in it is */
  return status ? status : zero1__remove_tree(gone, error);
}

zero1_status zero1__root_sweep(const char *root, const char *keep, zero1__error *error) {
  DIR *const folder = opendir(root);
  if (!folder) return fail_to_open(error, root, errno);
  zero1_status status = ZERO1_OK;
  for (;;) { /* to the end: what cannot be removed keeps nothing else */
    char path[PATH_MAX];
    errno = 0;
    const struct dirent *const entry = readdir(folder);
    if (!entry) {
      if (errno && !status) status = zero1__fail_io(error, root, "reading", errno);
      break;
    }
    if (!is_leftover(entry->d_name) || (keep && !strcmp(entry->d_name, keep))) continue;
    zero1_status removed = join(root, entry->d_name, path, sizeof path, ZERO1_ERR_IO, error);
    if (!removed) removed = zero1__remove_tree(path, error);
    if (!status) status = removed;
  }
  closedir(folder);
  return status;
}
