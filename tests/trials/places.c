/* Roots where a save cannot succeed, or a load: each says what is wrong in words of its own, on every
 * rank; what was there before stays as it was; and once the reason is gone the same processes save.
 *
 *   trial_places
 *
 * Some need root: a filesystem that is full or read-only is mounted where only this process sees it.
 * A permission is missing for a user who is not root, to whom a process changes. Where this is not
 * permitted the line says so. */
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "processes.h"

enum { RANKS = 2, STEPS = 4, MOST_SECONDS = 120, NOBODY = 65534 };

typedef struct place place;

/** What is tried there by each rank; trained has been saved once, to root, as step 1. */
typedef void (*place_fn)(const place *self, trainer *trained);

/** How the folder comes to be what it must. */
typedef enum { AS_IT_IS, MOUNTED, NOT_AS_ROOT } manner;

struct place {
  trial_states states, others;
  char below[256], root[300];
  place_fn fn;
  manner how;
};

/* ---- steps and saves, of all ranks ---- */

/* The status is the same on each rank, and so is what the text says. */
static void expect(const trainer *trained, zero1_status status, zero1_status expected,
                   const char *part, const char *other_part) {
  const char *const text = zero1_optimizer_last_error(trained->optimizer);
  if (status == expected && strstr(text, part) && strstr(text, other_part)) return;
  fprintf(stderr, "status %d, not %d; \"%s\" has \"%s\" and \"%s\"?\n", status, expected, text,
          part, other_part);
  CHECK(!"each has its own error");
}

static zero1_status save(trainer *trained, const char *root, int way) {
  const zero1_status status = save_by(trained->optimizer, root, way);
  return status ? status : zero1_checkpoint_wait(trained->optimizer);
}

/* The next step and a save of it, which must succeed; everything is there, bit for bit. */
static void save_again(const place *self, trainer *trained, int64_t step) {
  must(trained->optimizer, trial_step(trained, (int32_t)step - 1));
  must(trained->optimizer, save(trained, self->root, SAVE_SYNC));
  check_meet();
  CHECK_EQ(trial_latest(self->root), step);
  must(trained->optimizer, trial_load(trained, self->root));
  trial_check_state(trained, &self->states, step);
  check_meet();
}

/* ---- full ---- */

/* Rank 0 leaves so many bytes free. */
static void fill_up(const place *self, const trainer *trained, size_t free_bytes) {
  char path[400], page[4096] = {0};
  snprintf(path, sizeof path, "%.300s/balloon", self->below);
  check_meet();
  if (!trained->rank) {
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(file >= 0);
    while (write(file, page, sizeof page) > 0) continue;
    struct stat is;
    CHECK(!fstat(file, &is));
    const off_t kept = is.st_size > (off_t)free_bytes ? is.st_size - (off_t)free_bytes : 0;
    CHECK(!ftruncate(file, kept));
    close(file);
  }
  check_meet();
}

static void empty(const place *self, const trainer *trained) {
  char path[400];
  snprintf(path, sizeof path, "%.300s/balloon", self->below);
  check_meet();
  if (!trained->rank) CHECK(!unlink(path));
  check_meet();
}

/* More and more room, until a save succeeds: each place of a save meets the full disk. */
static void a_full_disk(const place *self, trainer *trained) {
  int way = 0, failed = 0;
  must(trained->optimizer, trial_step(trained, 1));
  for (size_t room = 0;; room += 8192, ++way) {
    fill_up(self, trained, room);
    const zero1_status status = save(trained, self->root, way % SAVE_WAYS);
    check_meet();
    if (!status) break;
    expect(trained, status, ZERO1_ERR_IO, self->root, "No space left on device");
    CHECK_EQ(trial_latest(self->root), 1);
    ++failed;
  }
  CHECK(failed > 2);
  CHECK_EQ(trial_latest(self->root), 2);
  empty(self, trained);
  save_again(self, trained, 3);
}

/* A limit of the process, where nothing may be mounted. */
static void a_file_that_may_not_grow(const place *self, trainer *trained) {
  const struct rlimit few = {20000, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
  check_meet();
  if (!trained->rank) CHECK(!setrlimit(RLIMIT_FSIZE, &few));
  check_meet();
  must(trained->optimizer, trial_step(trained, 1));
  for (int way = 0; way < SAVE_WAYS; ++way) {
    const zero1_status status = save(trained, self->root, way);
    expect(trained, status, ZERO1_ERR_IO, self->root, "File too large");
    CHECK_EQ(trial_latest(self->root), 1);
    check_meet();
  }
  if (!trained->rank) CHECK(!setrlimit(RLIMIT_FSIZE, &all));
  check_meet();
  save_again(self, trained, 3);
}

/* ---- not to be written ---- */

/* A second view of the filesystem lies upon the first, through which the lock is open. */
static void mount_read_only(const char *path) {
  CHECK(!mount(path, path, NULL, MS_BIND, NULL));
  CHECK(!mount("none", path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
}

static void a_read_only_filesystem(const place *self, trainer *trained) {
  must(trained->optimizer, trial_step(trained, 1));
  check_meet();
  if (!trained->rank) mount_read_only(self->below);
  check_meet();
  for (int way = 0; way < SAVE_WAYS; ++way)
    expect(trained, save(trained, self->root, way), ZERO1_ERR_IO, self->root,
           "Read-only file system");
  must(trained->optimizer, trial_load(trained, self->root)); /* needs no rights to write */
  trial_check_state(trained, &self->states, 1);
  must(trained->optimizer, trial_step(trained, 1));
  check_meet();
  if (!trained->rank) CHECK(!umount2(self->below, MNT_DETACH));
  check_meet();
  save_again(self, trained, 3);
}

static void a_missing_permission(const place *self, trainer *trained) {
  char made[400];
  must(trained->optimizer, trial_step(trained, 1));
  check_meet();
  if (!trained->rank) CHECK(!chmod(self->root, 0555));
  check_meet();
  expect(trained, save(trained, self->root, SAVE_PINNED), ZERO1_ERR_IO, self->root,
         "Permission denied");
  snprintf(made, sizeof made, "%.300s/new", self->root);
  expect(trained, save(trained, made, SAVE_SYNC), ZERO1_ERR_IO, made, "Permission denied");
  check_meet();
  if (!trained->rank) CHECK(!chmod(self->root, 0777));
  check_meet();
  save_again(self, trained, 3);
}

/* ---- not what is wanted ---- */

static void a_path_that_is_no_folder(const place *self, trainer *trained) {
  char path[400];
  snprintf(path, sizeof path, "%.300s/latest/manifest.json", self->root);
  expect(trained, save(trained, path, SAVE_SYNC), ZERO1_ERR_IO, path, "is a file, not a folder");
  expect(trained, trial_load(trained, path), ZERO1_ERR_IO, path, "is a file, not a folder");
  snprintf(path, sizeof path, "%.300s/nowhere/root", self->root);
  expect(trained, save(trained, path, SAVE_SYNC), ZERO1_ERR_IO, path, "No such file or directory");
  expect(trained, trial_load(trained, path), ZERO1_ERR_NOT_FOUND, path, "no such folder");
  must(trained->optimizer, trial_step(trained, 1));
  save_again(self, trained, 3);
}

/* The manifest of `latest` says another version. */
static void set_version(const char *root, const char *version) {
  char path[400], *text;
  size_t bytes;
  zero1__error error = {0};
  snprintf(path, sizeof path, "%.300s/latest/manifest.json", root);
  CHECK_STATUS(zero1__load_file(path, &text, &bytes, &error), ZERO1_OK);
  char *const at = strstr(text, "\"version\": 1");
  CHECK(at != NULL);
  at[11] = version[0];
  CHECK_STATUS(zero1__save_file(path, text, bytes, NULL, 0, &error), ZERO1_OK);
  free(text);
}

static void a_newer_version(const place *self, trainer *trained) {
  check_meet();
  if (!trained->rank) set_version(self->root, "2");
  check_meet();
  expect(trained, trial_load(trained, self->root), ZERO1_ERR_VERSION, "manifest.json",
         "a newer library wrote it: its version is 2");
  must(trained->optimizer, trial_step(trained, 1)); /* nothing was changed */
  save_again(self, trained, 3);
}

/* Its p0 has another number of elements. */
static void another_model(const place *self, trainer *trained) {
  must(trained->optimizer, trial_step(trained, 1));
  must(trained->optimizer, save(trained, self->root, SAVE_SYNC));
  check_meet();
  if (trained->rank) return;
  zero1_comm *comm;
  trainer other;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  CHECK_STATUS(trial_create(&other, &self->others.train, comm, 60), ZERO1_OK);
  must(other.optimizer, trial_first(&other));
  expect(&other, trial_load(&other, self->root), ZERO1_ERR_MISMATCH, "p0", "[250000]");
  expect(&other, trial_load(&other, self->root), ZERO1_ERR_MISMATCH, "p0", "[1000]");
  trial_check_state(&other, &self->others, 0);
  trainer_end(&other);
  zero1_comm_destroy(&comm);
}

/* ---- a process for each ---- */

static void try_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const place *const self = (const place *)arg;
  trainer_case train = self->states.train;
  trainer trained;
  (void)rank;
  train.bucket_numel = 2000;
  CHECK_STATUS(trial_create(&trained, &train, comm, 60), ZERO1_OK);
  must(trained.optimizer, trial_first(&trained));
  must(trained.optimizer, trial_step(&trained, 0));
  must(trained.optimizer, save(&trained, self->root, SAVE_SYNC));
  check_meet();
  self->fn(self, &trained);
  trainer_end(&trained);
}

/* NULL: done; else what is not permitted. */
static const char *prepare(const place *self) {
  if (self->how == MOUNTED) {
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("none", self->below, "tmpfs", 0, "size=4m"))
      return "this process may not mount a filesystem";
  } else if (self->how == NOT_AS_ROOT && !geteuid()) {
    CHECK(!chown(self->below, NOBODY, NOBODY));
    if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
        setresuid(NOBODY, NOBODY, NOBODY) || access(self->below, R_OK | W_OK | X_OK))
      return "this process may not become another user's, or that one does not see the folder";
  }
  return NULL;
}

static void try_place(process_rank *process, void *arg) {
  const place *const self = (const place *)arg;
  const char *const refused = prepare(self);
  if (refused) {
    process_tell(process, ZERO1_ERR_UNSUPPORTED, refused);
    return;
  }
  check_threads(RANKS, NULL, try_rank, arg);
  trial_check_tidy(self->root, 0);
}

static const struct {
  const char *name;
  place_fn fn;
  manner how;
} places[] = {
    {"a full disk", a_full_disk, MOUNTED},
    {"a file that may not grow", a_file_that_may_not_grow, AS_IT_IS},
    {"a read-only filesystem", a_read_only_filesystem, MOUNTED},
    {"a missing permission", a_missing_permission, NOT_AS_ROOT},
    {"a path that is no folder", a_path_that_is_no_folder, AS_IT_IS},
    {"a newer version", a_newer_version, AS_IT_IS},
    {"another model", another_model, AS_IT_IS},
};

typedef struct places_driver {
  process_world *world;
  place where;
} places_driver;

static void drive(void *arg) {
  places_driver *const self = (places_driver *)arg;
  place *const at = &self->where;
  signal(SIGXFSZ, SIG_IGN); /* a write fails, too */
  trial_states_begin(&at->states, 1, STEPS);
  trial_states_begin(&at->others, 2, 0);
  for (size_t i = 0; i < sizeof places / sizeof *places; ++i) {
    const process_report *const report = &self->world->reports[0];
    at->fn = places[i].fn;
    at->how = places[i].how;
    folder_begin(at->below, sizeof at->below);
    snprintf(at->root, sizeof at->root, "%s/root", at->below);
    snprintf(self->world->what, sizeof self->world->what, "%s, in %s", places[i].name, at->below);
    process_check(self->world, try_place, at, MOST_SECONDS);
    printf("places: %s%s%s\n", places[i].name, report->status ? ": not tried, " : "", report->text);
    folder_end(at->below);
  }
  trial_states_end(&at->states);
  trial_states_end(&at->others);
}

int main(void) {
  static places_driver self;
  self.world = process_world_create();
  return process_drive(self.world, drive, &self);
}
