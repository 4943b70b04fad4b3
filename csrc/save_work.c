#include "save_work.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "checkpoint_root.h"
#include "clock.h"
#include "optimizer.h"
#include "save_file.h"
#include "save_word.h"

#define ROOT_BYTES 3200 /* so that what is in it has paths below 4096 */

/* ---- life ---- */

/* The writer's thread finds it there too when the process has gone to another folder meanwhile.
 * *path is the caller's to free. */
static zero1_status make_absolute(const char *root, char **path, zero1__error *error) {
  char *const folder = *root == '/' ? strdup("") : getcwd(NULL, 0);
  if (!folder) return zero1__fail_io(error, root, "asking which folder it is in", errno);
  const size_t room = strlen(folder) + strlen(root) + 2;
  *path = malloc(room);
  if (*path) snprintf(*path, room, "%s%s%s", folder, *root == '/' ? "" : "/", root);
  free(folder);
  if (!*path) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a path");
  if (room > ROOT_BYTES)
    return zero1__fail(error, ZERO1_ERR_INVALID, "root is too long a path: %zu bytes", room - 1);
  return ZERO1_OK;
}

zero1_status zero1__save_work_begin(zero1__save_work *work, const char *root, uint64_t token,
                                    zero1_optimizer *optimizer, zero1__error *error) {
  char name[ZERO1__SAVE_NAME_BYTES];
  memset(work, 0, sizeof *work);
  work->rank = optimizer->comm->rank;
  work->world_size = optimizer->comm->world_size;
  work->lane = optimizer->lane;
  work->channel = optimizer->channel;
  work->timeout_seconds = optimizer->settings.config.timeout_seconds;
  zero1_status status = make_absolute(root, &work->root, error);
  if (status) return status;
  const size_t room = strlen(work->root) + 64;
  work->path = malloc(room);
  work->folder = malloc(room);
  if (!work->path || !work->folder)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a path");
  zero1__save_name(token, name);
  snprintf(work->path, room, "%s/%s", work->root, name);
  snprintf(work->folder, room, "%s/data", work->path);
  if (work->rank) return ZERO1_OK;
  status = zero1__make_folder(work->path, 0, error);
  return status ? status : zero1__make_folder(work->folder, 0, error);
}

void zero1__save_work_end(zero1__save_work *work) {
  free(work->root);
  free(work->path);
  free(work->folder);
  memset(work, 0, sizeof *work);
}

/* ---- looking ---- */

static void nap(int *times) {
  const long most = 20000000, slept = 200000L << (*times < 7 ? *times : 7);
  const struct timespec time = {0, slept < most ? slept : most};
  nanosleep(&time, NULL);
  *times += 1;
}

zero1_status zero1__save_work_see(const zero1__save_work *work, zero1__error *error) {
  const int64_t end_ns = zero1__now_ns() + 1000000000;
  int times = 0;
  while (access(work->folder, F_OK)) {
    if (zero1__now_ns() > end_ns)
      return zero1__fail(error, ZERO1_ERR_MISMATCH,
                         "rank %d does not see %.200s, which rank 0 has made: the root must be one "
                         "folder for all ranks",
                         work->rank, work->folder);
    nap(&times);
  }
  return ZERO1_OK;
}

/* A number that changes while anybody writes. */
static uint64_t look_at(const char *path) {
  uint64_t sum = 0;
  DIR *folder = opendir(path);
  if (!folder) return 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    struct stat is;
    if (entry->d_name[0] != '.' && !fstatat(dirfd(folder), entry->d_name, &is, AT_SYMLINK_NOFOLLOW))
      sum += 1 + (uint64_t)is.st_size + (uint64_t)is.st_mtim.tv_sec * 1000000000u +
             (uint64_t)is.st_mtim.tv_nsec;
  }
  closedir(folder);
  return sum;
}

/** A wait for something in the folder. */
typedef struct folder_watch {
  uint64_t seen;
  int64_t seen_ns, looked_ns;
  int times;
} folder_watch;

/* Sleeps; whether it is of no use to go on: a peer is dead, the optimizer is given up, the folder is
 * gone, or nothing has happened for too long. */
static zero1_status watch_on(const zero1__save_work *work, folder_watch *watch, const char *what,
                             zero1__error *error) {
  const zero1__comm_ops *ops = work->lane->comm->ops;
  const int64_t now = zero1__now_ns();
  nap(&watch->times);
  if (watch->seen_ns && now - watch->looked_ns < 100000000) return ZERO1_OK;
  watch->looked_ns = now;
  zero1_status status = zero1__channel_failure(work->channel, error);
  if (!status && ops->lane_look) status = ops->lane_look(work->lane, error);
  if (status) return status;
  if (access(work->path, F_OK) && errno == ENOENT)
    return zero1__fail(error, ZERO1_ERR_IO, "%.200s is gone before rank %d had its word from it",
                       work->path, work->rank);
  const uint64_t seen = look_at(work->path) + look_at(work->folder);
  if (seen != watch->seen || !watch->seen_ns) {
    watch->seen = seen;
    watch->seen_ns = now;
  }
  if ((double)(now - watch->seen_ns) * 1e-9 <= work->timeout_seconds) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_TIMEOUT, "%.200s: no rank has written for %.1f s, and %s",
                     work->path, work->timeout_seconds, what);
}

/* ---- words ---- */

static void name_of(const zero1__save_work *work, const char *what, int32_t rank, char *path,
                    size_t room) {
  if (rank < 0)
    snprintf(path, room, "%s/%s", work->path, what);
  else
    snprintf(path, room, "%s/%s-%05d", work->path, what, rank);
}

zero1_status zero1__save_work_done(const zero1__save_work *work, const zero1__error *mine,
                                   const char *part, size_t part_bytes, zero1__error *error) {
  char path[4096];
  name_of(work, "done", work->rank, path, sizeof path);
  return zero1__word_write(path, mine, part, part_bytes, error);
}

/* ---- rank 0 ---- */

static zero1_status await_word(const zero1__save_work *work, const char *what, int32_t rank,
                               const char *missing, zero1__error *error) {
  char path[4096];
  folder_watch watch = {0};
  name_of(work, what, rank, path, sizeof path);
  while (!zero1__word_is_there(path)) {
    zero1__error why;
    zero1__error_clear(&why);
    if (!watch_on(work, &watch, missing, &why)) continue;
    if (zero1__word_is_there(path)) break; /* who has said it may be gone by now */
    return zero1__fail(error, why.status, "%s", why.text);
  }
  return ZERO1_OK;
}

/* Of all ranks, before anything is done with them: none writes any more, whatever has failed. */
static zero1_status await_parts(const zero1__save_work *work, zero1__error *error) {
  zero1_status status = ZERO1_OK;
  for (int32_t rank = 0; rank < work->world_size && !status; ++rank) {
    char missing[80];
    snprintf(missing, sizeof missing, "rank %d is not done with its files", rank);
    status = await_word(work, "done", rank, missing, error);
  }
  return status;
}

static zero1_status take_part(const zero1__save_work *work, int32_t rank, zero1__manifest *manifest,
                              zero1__error *error) {
  char path[4096];
  char *text;
  const char *part;
  size_t bytes;
  zero1__error said;
  name_of(work, "done", rank, path, sizeof path);
  zero1_status status = zero1__word_read(path, &said, &text, &part, &bytes, error);
  if (status) return status;
  if (said.status)
    status = zero1__fail(error, said.status, "rank %d: %.380s", rank, said.text);
  else
    status = zero1__part_read(path, part, bytes - (size_t)(part - text), rank, manifest, error);
  free(text);
  return status;
}

static zero1_status write_manifest(const zero1__save_work *work, const zero1__manifest *manifest,
                                   zero1__error *error) {
  char path[4096];
  char *text = NULL;
  size_t bytes = 0;
  snprintf(path, sizeof path, "%s/%s", work->folder, ZERO1__MANIFEST_NAME);
  /* None is written that could not be read. */
  zero1_status status = zero1__manifest_check(path, manifest, error);
  if (!status) status = zero1__manifest_write(manifest, &text, &bytes, error);
  if (!status) status = zero1__save_file(path, text, bytes, NULL, 0, error);
  free(text);
  return status ? status : zero1__flush_folder(work->folder, error);
}

/* In one move, whether or not there is one of the same step already: then the two change places, and
 * the older one goes with the work folder. */
static zero1_status put_in_place(const zero1__save_work *work, int64_t count, zero1__error *error) {
  char name[ZERO1__STEP_NAME_BYTES], path[4096];
  zero1__step_name(count, name);
  snprintf(path, sizeof path, "%s/%s", work->root, name);
  if (!rename(work->folder, path)) return zero1__flush_folder(work->root, error);
  if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR)
    return zero1__fail_io(error, path, "renaming to it", errno);
  if (renameat2(AT_FDCWD, work->folder, AT_FDCWD, path, RENAME_EXCHANGE))
    return zero1__fail_io(error, path, "taking the place of the one that is there", errno);
  return zero1__flush_folder(work->root, error);
}

/* What cannot be removed now is tried again by the next save: this one has succeeded. */
static void remove_old(const zero1__save_work *work, const zero1__save_commit *commit) {
  int64_t *steps = NULL, count = 0;
  zero1__error unheard;
  zero1__error_clear(&unheard);
  if (zero1__root_list(work->root, &steps, &count, &unheard)) return;
  /* Later steps are those of a run that went back to an earlier checkpoint: they are not older. */
  while (count && steps[count - 1] > commit->manifest->count) --count;
  uint8_t *goes = calloc((size_t)count + 1, 1);
  if (goes) zero1__root_choose(steps, count, commit->keep_last, commit->keep_every, goes);
  for (int64_t i = 0; i < count && goes; ++i)
    if (goes[i] && steps[i] != commit->manifest->count)
      (void)zero1__root_remove(work->root, steps[i], &unheard);
  free(goes);
  free(steps);
}

static zero1_status make_checkpoint(const zero1__save_work *work, const zero1__save_commit *commit,
                                    zero1__error *error) {
  zero1_status status = await_parts(work, error);
  for (int32_t rank = 0; rank < work->world_size && !status; ++rank)
    status = take_part(work, rank, commit->manifest, error);
  if (!status) status = write_manifest(work, commit->manifest, error);
  if (!status) status = put_in_place(work, commit->manifest->count, error);
  if (!status) status = zero1__root_set_latest(work->root, commit->manifest->count, error);
  return status;
}

/* Where that fails, the others see that the folder is gone, and wait no longer. */
static void tell_outcome(const zero1__save_work *work, const zero1__error *outcome) {
  char path[4096];
  name_of(work, "outcome", -1, path, sizeof path);
  for (int tries = 0; tries < 2; ++tries)
    if (!zero1__word_write(path, outcome, NULL, 0, NULL)) return;
  (void)zero1__remove_tree(work->path, NULL);
}

zero1_status zero1__save_work_commit(const zero1__save_work *work, const zero1__save_commit *commit,
                                     zero1__error *error) {
  zero1__error unheard;
  zero1__error_clear(&unheard);
  const zero1_status status = make_checkpoint(work, commit, error);
  if (!status) remove_old(work, commit);
  (void)zero1__remove_tree(work->folder, &unheard); /* first: a full disk has room for words then */
  (void)zero1__root_sweep(work->root, strrchr(work->path, '/') + 1, &unheard);
  tell_outcome(work, error);
  return status;
}

/* ---- the others ---- */

zero1_status zero1__save_work_outcome(const zero1__save_work *work, zero1__error *error) {
  char path[4096];
  char *text = NULL;
  const char *more;
  size_t bytes;
  zero1__error said;
  name_of(work, "outcome", -1, path, sizeof path);
  zero1_status status =
      await_word(work, "outcome", -1, "rank 0 has not made a checkpoint of it", error);
  if (!status) status = zero1__word_read(path, &said, &text, &more, &bytes, error);
  if (!status && said.status) status = zero1__fail(error, said.status, "%.390s", said.text);
  free(text);
  return status;
}

void zero1__save_work_leave(const zero1__save_work *work) {
  char path[4096];
  int others = 0;
  name_of(work, "done", work->rank, path, sizeof path);
  (void)unlink(path);
  DIR *folder = opendir(work->path);
  if (!folder) return;
  errno = 0;
  for (struct dirent *entry; (entry = readdir(folder));)
    others += entry->d_name[0] != '.' && strcmp(entry->d_name, "outcome") != 0;
  const int seen = !errno; /* all of it: else somebody may still wait for the outcome */
  closedir(folder);
  if (others || !seen) return;
  name_of(work, "outcome", -1, path, sizeof path);
  (void)unlink(path);
  (void)rmdir(work->path);
}
