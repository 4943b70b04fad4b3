/* One root at a time, and the text of the last failure: what tests of names and of the lock share. */
#ifndef ZERO1_TESTS_ROOT_CASE_H
#define ZERO1_TESTS_ROOT_CASE_H

#include <fcntl.h>
#include <limits.h>

#include "folder.h"

static char root[256];
static zero1__error failure;

/* "<root>/<name>", valid until the fourth call from here. */
static inline const char *in_root(const char *name) {
  static char paths[4][PATH_MAX];
  static int turn;
  char *const path = paths[turn++ % 4];
  snprintf(path, PATH_MAX, "%s/%s", root, name);
  return path;
}

static inline void make_root(void) {
  folder_begin(root, sizeof root);
  zero1__error_clear(&failure);
}

static inline void drop_root(void) {
  folder_end(root);
}

static inline void make_file(const char *name) {
  const int fd = open(in_root(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  CHECK(fd >= 0 && write(fd, "x", 1) == 1 && !close(fd));
}

static inline void make_folder(const char *name) {
  CHECK(!mkdir(in_root(name), 0755));
}

static inline int is_there(const char *name) {
  return folder_has(root, name);
}

static inline int fails_with(const char *text) {
  const int found = strstr(failure.text, text) != NULL;
  if (!found) fprintf(stderr, "the text is: %s\n", failure.text);
  zero1__error_clear(&failure);
  return found;
}

#endif
