/* Folders that tests make, look into and remove. */
#ifndef ZERO1_TESTS_FOLDER_H
#define ZERO1_TESTS_FOLDER_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "checkpoint_folder.h"
#include "save_file.h"

/* A new folder below $TMPDIR; removed by folder_end. */
static inline void folder_begin(char *path, size_t bytes) {
  const char *const below = getenv("TMPDIR");
  snprintf(path, bytes, "%s/checkpoint-XXXXXX", below ? below : "/tmp");
  CHECK(mkdtemp(path) != NULL);
}

static inline void folder_end(const char *path) {
  zero1__error error;
  zero1__error_clear(&error);
  CHECK_STATUS(zero1__remove_tree(path, &error), ZERO1_OK);
}

static inline int folder_has(const char *path, const char *name) {
  char whole[4200];
  struct stat is;
  snprintf(whole, sizeof whole, "%s/%s", path, name);
  return !lstat(whole, &is);
}

/* Number of names in a folder, hidden ones too. */
static inline int folder_count(const char *path) {
  int count = 0;
  DIR *const folder = opendir(path);
  CHECK(folder != NULL);
  for (struct dirent *entry; (entry = readdir(folder));)
    count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
  closedir(folder);
  return count;
}

static inline void check_same_file(const char *left, const char *right, const char *name) {
  char path[4200];
  char *texts[2];
  size_t bytes[2];
  const char *const folders[2] = {left, right};
  for (int i = 0; i < 2; ++i) {
    zero1__error error;
    zero1__error_clear(&error);
    snprintf(path, sizeof path, "%s/%s", folders[i], name);
    const zero1_status status = zero1__load_file(path, &texts[i], &bytes[i], &error);
    if (status) fprintf(stderr, "%s\n", error.text);
    CHECK_STATUS(status, ZERO1_OK);
  }
  if (bytes[0] != bytes[1] || memcmp(texts[0], texts[1], bytes[0]))
    fprintf(stderr, "%s of %s and %s\n", name, left, right);
  CHECK(bytes[0] == bytes[1] && !memcmp(texts[0], texts[1], bytes[0]));
  free(texts[0]);
  free(texts[1]);
}

/* The same names, with the same bytes. */
static inline void check_same_folders(const char *left, const char *right) {
  DIR *const folder = opendir(left);
  CHECK(folder != NULL);
  CHECK_EQ(folder_count(left), folder_count(right));
  for (struct dirent *entry; (entry = readdir(folder));)
    if (entry->d_name[0] != '.') check_same_file(left, right, entry->d_name);
  closedir(folder);
}

#endif
