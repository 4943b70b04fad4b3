/* A folder kept in memory, put back as it was, and damaged at random. */
#ifndef ZERO1_TESTS_DAMAGE_H
#define ZERO1_TESTS_DAMAGE_H

#include <fcntl.h>
#include <xxhash.h>

#include "manifest.h"
#include "manifest_text.h"
#include "trials.h"

enum { DAMAGE_ENTRIES = 32 };

typedef struct damage_entry {
  char name[100]; /* within the root */
  mode_t kind;    /* S_IFDIR, S_IFREG, S_IFLNK */
  char *data;     /* of a file, or where a link leads; owned */
  size_t bytes;
} damage_entry;

typedef struct damage_folder {
  char root[256];
  damage_entry entries[DAMAGE_ENTRIES]; /* a folder before what is in it */
  int32_t count;
} damage_folder;

/* One that was done: for what a failure prints, and what the error's text must name. */
typedef struct damage {
  char text[500];
  const damage_entry *entry; /* that was damaged */
  const damage_entry *other; /* that, too; or NULL */
  int32_t forged;            /* 1: checksums were made to fit again */
} damage;

static inline void damage_path(const damage_folder *self, const char *name, char path[600]) {
  snprintf(path, 600, "%s/%s", self->root, name);
}

/* ---- keeping, and putting back ---- */

static inline void damage_keep(damage_folder *self, const char *below) {
  char path[600];
  damage_path(self, below, path);
  DIR *const folder = opendir(path);
  CHECK(folder != NULL);
  for (struct dirent *found; (found = readdir(folder));) {
    damage_entry *const entry = &self->entries[self->count];
    struct stat is;
    zero1__error error = {0};
    if (!strcmp(found->d_name, ".") || !strcmp(found->d_name, "..")) continue;
    CHECK(self->count < DAMAGE_ENTRIES);
    snprintf(path, sizeof path, "%s%s%s", below, *below ? "/" : "", found->d_name);
    CHECK(strlen(path) < sizeof entry->name);
    memcpy(entry->name, path, strlen(path) + 1);
    damage_path(self, entry->name, path);
    CHECK(!lstat(path, &is));
    entry->kind = is.st_mode & S_IFMT;
    self->count += 1;
    if (entry->kind == S_IFDIR) damage_keep(self, entry->name);
    if (entry->kind == S_IFREG)
      CHECK_STATUS(zero1__load_file(path, &entry->data, &entry->bytes, &error), ZERO1_OK);
    if (entry->kind != S_IFLNK) continue;
    entry->data = (char *)calloc(1, 300);
    CHECK(entry->data && readlink(path, entry->data, 299) > 0);
  }
  closedir(folder);
}

static inline int damage_compare(const void *left, const void *right) {
  return strcmp(((const damage_entry *)left)->name, ((const damage_entry *)right)->name);
}

/* In an order that is the same everywhere. */
static inline void damage_begin(damage_folder *self) {
  damage_keep(self, "");
  qsort(self->entries, (size_t)self->count, sizeof *self->entries, damage_compare);
}

static inline void damage_write(const char *path, const void *data, size_t bytes) {
  const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0666);
  CHECK(file >= 0 && write(file, data, bytes) == (ssize_t)bytes);
  close(file);
}

static inline void damage_restore(const damage_folder *self) {
  zero1__error error = {0};
  char path[600];
  CHECK_STATUS(zero1__remove_tree(self->root, &error), ZERO1_OK);
  CHECK(!mkdir(self->root, 0777));
  for (int32_t i = 0; i < self->count; ++i) {
    const damage_entry *const entry = &self->entries[i];
    damage_path(self, entry->name, path);
    if (entry->kind == S_IFDIR) CHECK(!mkdir(path, 0777));
    if (entry->kind == S_IFREG) damage_write(path, entry->data, entry->bytes);
    if (entry->kind == S_IFLNK) CHECK(!symlink(entry->data, path));
  }
}

static inline void damage_end(damage_folder *self) {
  for (int32_t i = 0; i < self->count; ++i) free(self->entries[i].data);
}

/* ---- bytes ---- */

static inline int64_t damage_pick(random_state *random, int64_t count) {
  return (int64_t)((random_bits(random) >> 16) % (uint64_t)count);
}

/* Changes `bytes` of a text of one file; says what. Room for 4096 more. Returns how many it has. */
static inline size_t damage_bytes(random_state *random, char *data, size_t bytes, char text[200]) {
  const size_t at = (size_t)damage_pick(random, (int64_t)bytes + 1);
  size_t some = (size_t)damage_pick(random, damage_pick(random, 2) ? 16 : 4096) + 1;
  switch (damage_pick(random, 6)) {
    case 0:
      snprintf(text, 200, "cut to %zu of %zu bytes", at, bytes);
      return at;
    case 1:
      snprintf(text, 200, "%zu bytes more than %zu", some, bytes);
      for (size_t i = 0; i < some; ++i) data[bytes + i] = (char)random_bits(random);
      return bytes + some;
    case 2:
      if (at + some > bytes) some = bytes - at;
      snprintf(text, 200, "zeros in [%zu, %zu)", at, at + some);
      memset(data + at, 0, some);
      return bytes;
    case 3:
      if (at + some > bytes) some = bytes - at;
      snprintf(text, 200, "other bytes in [%zu, %zu)", at, at + some);
      for (size_t i = 0; i < some; ++i) data[at + i] = (char)random_bits(random);
      return bytes;
    case 4:
      if (at + some > bytes) some = bytes - at;
      snprintf(text, 200, "without bytes [%zu, %zu)", at, at + some);
      memmove(data + at, data + at + some, bytes - at - some);
      return bytes - some;
    default:
      snprintf(text, 200, "bit %d of byte %zu of %zu", (int)(at % 8), at, bytes);
      if (at < bytes) data[at] = (char)(data[at] ^ 1 << at % 8);
      return bytes;
  }
}

static inline void damage_file(damage_folder *self, random_state *random, const damage_entry *entry,
                               damage *done) {
  char path[600], how[200];
  char *const data = (char *)malloc(entry->bytes + 4096);
  CHECK(data != NULL);
  memcpy(data, entry->data, entry->bytes);
  const size_t bytes = damage_bytes(random, data, entry->bytes, how);
  damage_path(self, entry->name, path);
  CHECK(!unlink(path));
  damage_write(path, data, bytes);
  free(data);
  snprintf(done->text, sizeof done->text, "%s: %s", entry->name, how);
}

/* ---- what lies there ---- */

static inline void damage_remove(const damage_folder *self, const damage_entry *entry) {
  zero1__error error = {0};
  char path[600];
  damage_path(self, entry->name, path);
  CHECK_STATUS(zero1__remove_tree(path, &error), ZERO1_OK);
}

/* Something else takes an entry's place. */
static inline void damage_replace(damage_folder *self, random_state *random,
                                  const damage_entry *entry, damage *done) {
  static const char *const targets[] = {"/dev/zero", "/dev/null", "/", ".", "nowhere", "step-9"};
  char path[600];
  const int64_t how = damage_pick(random, 6);
  const char *target = targets[damage_pick(random, 6)];
  damage_path(self, entry->name, path);
  damage_remove(self, entry);
  if (how == 0) CHECK(!mkdir(path, 0777));
  if (how == 1) CHECK(!mkfifo(path, 0666));
  if (how == 2) CHECK(!symlink(target, path));
  if (how == 3) CHECK(!symlink(strrchr(path, '/') + 1, path)); /* to itself */
  if (how == 4) damage_write(path, "", 0);
  if (how == 5) damage_write(path, "nonsense\n", 9);
  snprintf(done->text, sizeof done->text, "%s: in its place %s %s", entry->name,
           how == 0   ? "a folder"
           : how == 1 ? "a pipe"
           : how <= 3 ? "a link to"
           : how == 4 ? "an empty file"
                      : "nonsense",
           how == 2   ? target
           : how == 3 ? "itself"
                      : "");
}

/* Two change places, or one is the other, too. */
static inline void damage_pair(damage_folder *self, random_state *random, damage_entry *entry,
                               damage_entry *other, damage *done) {
  char path[600], other_path[600];
  const int swap = (int)damage_pick(random, 2);
  damage_path(self, entry->name, path);
  damage_path(self, other->name, other_path);
  snprintf(done->text, sizeof done->text, "%s %s %s", entry->name,
           swap ? "changes places with" : "is the same as", other->name);
  done->other = other;
  if (swap) /* fails where one is within the other: nothing is damaged then */
    (void)renameat2(AT_FDCWD, path, AT_FDCWD, other_path, RENAME_EXCHANGE);
  if (swap || entry->kind != S_IFREG || other->kind != S_IFREG) return;
  CHECK(!unlink(path));
  damage_write(path, other->data, other->bytes);
}

/* ---- checksums that fit ---- */

static inline void damage_sign(char *text, size_t bytes) {
  const size_t end = ZERO1__HASH_DIGITS + sizeof ZERO1__HASH_END - 1;
  char digits[ZERO1__HASH_DIGITS + 1];
  if (bytes < end) return;
  snprintf(digits, sizeof digits, "%016llx", (unsigned long long)XXH3_64bits(text, bytes - end));
  memcpy(text + bytes - end, digits, ZERO1__HASH_DIGITS);
}

/* A number or a piece of a manifest becomes another; its last line says that it is right. */
static inline void damage_manifest(damage_folder *self, random_state *random,
                                   const damage_entry *entry, damage *done) {
  static const char *const values[] = {
      "0",    "-1", "1",  "2147483648", "9223372036854775807",     "1e40", "-0.5", "null", "true",
      "\"\"", "[]", "{}", "\"",         "99999999999999999999999", "7",    ""};
  const size_t end = ZERO1__HASH_DIGITS + sizeof ZERO1__HASH_END - 1;
  const char *const value = values[damage_pick(random, 16)];
  const size_t most = entry->bytes - end;
  size_t at = (size_t)damage_pick(random, (int64_t)(damage_pick(random, 2) ? most : most / 4));
  char *const data = (char *)malloc(entry->bytes + 64);
  char path[600];
  CHECK(data != NULL);
  while (at < most && !(entry->data[at] >= '0' && entry->data[at] <= '9')) ++at;
  size_t past = at;
  while (past < most && entry->data[past] >= '0' && entry->data[past] <= '9') ++past;
  if (damage_pick(random, 8) == 0)
    past = at + (size_t)damage_pick(random, (int64_t)(most - at + 1));
  const size_t bytes = entry->bytes - (past - at) + strlen(value);
  memcpy(data, entry->data, at);
  memcpy(data + at, value, strlen(value));
  memcpy(data + at + strlen(value), entry->data + past, entry->bytes - past);
  damage_sign(data, bytes);
  damage_path(self, entry->name, path);
  damage_write(path, data, bytes);
  free(data);
  done->forged = 1;
  snprintf(done->text, sizeof done->text, "%s: bytes [%zu, %zu) became %s, its checksum fits",
           entry->name, at, past, value);
}

/* A tensor's file is damaged in its length's bounds, and the manifest of its folder is made to say
 * that it is right. Of one chunk. */
static inline void damage_tensors(damage_folder *self, random_state *random,
                                  const damage_entry *entry, const damage_entry *manifest,
                                  damage *done) {
  char old[17], new[17], path[600];
  char *const data = (char *)malloc(entry->bytes), *const text = (char *)malloc(manifest->bytes);
  CHECK(data && text && entry->bytes <= (size_t)ZERO1__CHUNK_BYTES);
  memcpy(data, entry->data, entry->bytes);
  memcpy(text, manifest->data, manifest->bytes);
  const size_t at = (size_t)damage_pick(random, damage_pick(random, 4) ? 2000 : 8);
  data[at] = (char)random_bits(random);
  snprintf(old, sizeof old, "%016llx", (unsigned long long)XXH3_64bits(entry->data, entry->bytes));
  snprintf(new, sizeof new, "%016llx", (unsigned long long)XXH3_64bits(data, entry->bytes));
  char *const found = (char *)memmem(text, manifest->bytes, old, 16);
  CHECK(found != NULL);
  memcpy(found, new, 16);
  damage_sign(text, manifest->bytes);
  damage_path(self, entry->name, path);
  damage_write(path, data, entry->bytes);
  damage_path(self, manifest->name, path);
  damage_write(path, text, manifest->bytes);
  free(data);
  free(text);
  done->forged = 1;
  snprintf(done->text, sizeof done->text, "%s: byte %zu, all checksums fit", entry->name, at);
}

/* ---- any of them ---- */

static inline damage_entry *damage_find(damage_folder *self, const char *name) {
  for (int32_t i = 0; i < self->count; ++i)
    if (!strcmp(self->entries[i].name, name)) return &self->entries[i];
  CHECK(!"it is there");
  return NULL;
}

/* Mostly of the newest checkpoint, whose entries are the last. */
static inline damage_entry *damage_choose(damage_folder *self, random_state *random) {
  const int64_t older = damage_pick(random, 4) ? self->count / 2 : 0;
  return &self->entries[older + damage_pick(random, self->count - older)];
}

static inline damage damage_do(damage_folder *self, random_state *random) {
  damage_entry *const entry = damage_choose(self, random);
  damage_entry *const other = &self->entries[damage_pick(random, self->count)];
  const int64_t way = damage_pick(random, 12);
  const char *const slash = strrchr(entry->name, '/');
  damage done = {.entry = entry};
  if (entry->kind == S_IFREG && slash && !strcmp(slash, "/manifest.json") && way < 5) {
    damage_manifest(self, random, entry, &done);
  } else if (entry->kind == S_IFREG && slash && strstr(slash, ".safetensors") && way < 3) {
    char name[220];
    snprintf(name, sizeof name, "%.*s/manifest.json", (int)(slash - entry->name), entry->name);
    damage_tensors(self, random, entry, damage_find(self, name), &done);
  } else if (entry->kind == S_IFREG && way < 8) {
    damage_file(self, random, entry, &done);
  } else if (way < 9) {
    damage_remove(self, entry);
    snprintf(done.text, sizeof done.text, "%s: is removed", entry->name);
  } else if (way < 10) {
    damage_replace(self, random, entry, &done);
  } else {
    damage_pair(self, random, entry, other, &done);
  }
  return done;
}

#endif
