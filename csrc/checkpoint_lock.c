/* ROOT/.lock, under a POSIX record lock.
 *
 * The kernel drops such a lock when its process ends, however it ends: a file that nobody has locked
 * means nothing. But it belongs to a process and not to a descriptor. So threads of one process do
 * not exclude each other by it, which the list below is for; and closing any descriptor of the file
 * drops it, so that nothing else may open .lock while this process holds it: whoever asks looks at
 * the list first. Children of fork inherit the list and no locks: each entry has its process. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "checkpoint_lock.h"

#define LOCK_NAME ".lock"
#define TRIES 100          /* of a file that is replaced, or not yet written, meanwhile */
#define WAIT_NS 1000000    /* between two of them */
#define CONTENT_BYTES 1024 /* a line of JSON is shorter */

struct zero1__root_lock {
  zero1__root_lock *next;
  dev_t device; /* of the root: a root has many paths */
  ino_t inode;
  pid_t pid;
  int folder; /* descriptor of the root: the path may mean another one by then */
  int file;   /* of .lock, or -1 */
};

/* The roots that this process holds. */
static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;
static zero1__root_lock *held;

/* ---- what the file says ---- */

typedef struct holder {
  char host[256];
  char since[64]; /* "2026-01-02 03:04:05 UTC" */
  long long pid;
} holder;

/* When this process started, in clock ticks since the machine did: tells it from a later one of the
 * same number. 0: unknown. */
static long long start_of_this(void) {
  char text[1024];
  FILE *const file = fopen("/proc/self/stat", "re");
  if (!file) return 0;
  const size_t bytes = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[bytes] = 0;
  const char *at = strrchr(text, ')'); /* of the name, which may hold anything */
  for (int field = 2; at && field < 22; ++field) at = strchr(at + 1, ' ');
  return at ? strtoll(at, NULL, 10) : 0;
}

static zero1_status fail_file(zero1__error *error, const char *root, const char *doing) {
  return zero1__fail(error, ZERO1_ERR_IO, "%s/" LOCK_NAME ": %s failed: %s", root, doing,
                     strerror(errno));
}

static zero1_status write_holder(int file, const char *root, zero1__error *error) {
  holder own = {.pid = (long long)getpid()};
  struct tm date;
  const time_t now = time(NULL);
  if (gethostname(own.host, sizeof own.host - 1)) snprintf(own.host, sizeof own.host, "unknown");
  for (char *at = own.host; *at; ++at) /* JSON takes no other bytes */
    if (*at < ' ' || *at > '~') *at = '?';
  if (!gmtime_r(&now, &date) ||
      !strftime(own.since, sizeof own.since, "%Y-%m-%d %H:%M:%S UTC", &date))
    snprintf(own.since, sizeof own.since, "unknown");
  json_t *const object =
      json_pack("{s:s, s:I, s:I, s:s}", "host", own.host, "pid", (json_int_t)own.pid,
                "process_start", (json_int_t)start_of_this(), "since", own.since);
  char *const text = object ? json_dumps(object, JSON_COMPACT) : NULL;
  json_decref(object);
  if (!text) return zero1__fail(error, ZERO1_ERR_MEMORY, "%s/" LOCK_NAME ": its text", root);
  char line[CONTENT_BYTES];
  const int bytes = snprintf(line, sizeof line, "%s\n", text);
  free(text);
  errno = ENOSPC; /* unless told otherwise, by what wrote less */
  if (!TEMP_FAILURE_RETRY(ftruncate(file, 0)) &&
      TEMP_FAILURE_RETRY(pwrite(file, line, (size_t)bytes, 0)) == bytes)
    return ZERO1_OK;
  return fail_file(error, root, "writing");
}

/* Whether the file says who it is; it may hold anything. */
static int read_holder(int file, holder *who) {
  char line[CONTENT_BYTES];
  const ssize_t bytes = TEMP_FAILURE_RETRY(pread(file, line, sizeof line, 0));
  json_t *const object = bytes > 0 ? json_loadb(line, (size_t)bytes, 0, NULL) : NULL;
  const char *host, *since;
  json_int_t pid;
  const int known = object && !json_unpack(object, "{s:s, s:I, s:s}", "host", &host, "pid", &pid,
                                           "since", &since);
  if (known) {
    snprintf(who->host, sizeof who->host, "%s", host);
    snprintf(who->since, sizeof who->since, "%s", since);
    who->pid = pid;
  }
  json_decref(object);
  return known;
}

static zero1_status fail_locked(const char *root, const holder *who, int of_this,
                                zero1__error *error) {
  if (!who) /* it has the lock, and writes its name right now, or cannot */
    return zero1__fail(error, ZERO1_ERR_LOCKED,
                       "%s is in use by another process (%s/" LOCK_NAME ")", root, root);
  return zero1__fail(error, ZERO1_ERR_LOCKED,
                     "%s is in use by %sprocess %lld on host %s since %s (%s/" LOCK_NAME ")", root,
                     of_this ? "another optimizer of this " : "", who->pid, who->host, who->since,
                     root);
}

/* ---- taking it ---- */

static void wait_a_little(void) {
  const struct timespec wait = {.tv_nsec = WAIT_NS};
  nanosleep(&wait, NULL);
}

static int is_the_file(const zero1__root_lock *lock) {
  struct stat open_one, named;
  return !fstat(lock->file, &open_one) &&
         !fstatat(lock->folder, LOCK_NAME, &named, AT_SYMLINK_NOFOLLOW) &&
         open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

static zero1_status fail_to_lock(const char *root, zero1__error *error) {
  const int number = errno;
  if (number != ENOLCK && number != EOPNOTSUPP && number != ENOSYS && number != EINVAL)
    return fail_file(error, root, "locking");
  return zero1__fail(error, ZERO1_ERR_IO,
                     "%s/%s: this filesystem has no locks (%s): save_options.no_lock saves "
                     "without one",
                     root, LOCK_NAME, strerror(number));
}

/* One try. [out] again  1: the file was replaced, or its holder has just gone */
static zero1_status try_file(zero1__root_lock *lock, const char *root, int last, int *again,
                             zero1__error *error) {
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
  *again = 0;
  lock->file = TEMP_FAILURE_RETRY(openat(lock->folder, LOCK_NAME, flags, 0644));
  if (lock->file < 0) return fail_file(error, root, "opening");
  if (!TEMP_FAILURE_RETRY(fcntl(lock->file, F_SETLK, &whole))) {
    if (is_the_file(lock)) {
      const zero1_status status = write_holder(lock->file, root, error);
      if (status) unlinkat(lock->folder, LOCK_NAME, 0);
      return status;
    }
    *again = !last; /* its holder has removed it since it was opened */
    return last ? fail_locked(root, NULL, 0, error) : ZERO1_OK;
  }
  if (errno != EACCES && errno != EAGAIN) return fail_to_lock(root, error);
  holder who;
  const int known = read_holder(lock->file, &who);
  struct flock other = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  const int gone = !fcntl(lock->file, F_GETLK, &other) && other.l_type == F_UNLCK;
  /* A holder that has just begun has not written its name yet, or there is that of one that died. */
  *again = !last && (!known || gone);
  return *again ? ZERO1_OK : fail_locked(root, known ? &who : NULL, 0, error);
}

static zero1_status take_file(zero1__root_lock *lock, const char *root, zero1__error *error) {
  for (int tries = 1;; ++tries) {
    int again;
    const zero1_status status = try_file(lock, root, tries == TRIES, &again, error);
    if (!status && !again) return ZERO1_OK;
    if (lock->file >= 0) close(lock->file);
    lock->file = -1;
    if (status) return status;
    wait_a_little();
  }
}

static const zero1__root_lock *find_held(const zero1__root_lock *lock) {
  const zero1__root_lock *at = held;
  while (at && (at->pid != lock->pid || at->device != lock->device || at->inode != lock->inode))
    at = at->next;
  return at;
}

static zero1_status open_folder(zero1__root_lock *lock, const char *root, zero1__error *error) {
  struct stat info;
  lock->folder = TEMP_FAILURE_RETRY(open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock->folder < 0 && errno == ENOTDIR)
    return zero1__fail(error, ZERO1_ERR_IO, "%s: is a file, not a folder", root);
  if (lock->folder < 0) return zero1__fail_io(error, root, "opening", errno);
  if (fstat(lock->folder, &info)) return zero1__fail_io(error, root, "looking at it", errno);
  lock->device = info.st_dev;
  lock->inode = info.st_ino;
  return ZERO1_OK;
}

static void free_lock(zero1__root_lock *lock) {
  if (lock->file >= 0) close(lock->file);
  if (lock->folder >= 0) close(lock->folder);
  free(lock);
}

/* held_mutex is taken. */
static zero1_status take(zero1__root_lock *lock, const char *root, zero1__error *error) {
  const zero1__root_lock *const other = find_held(lock);
  holder who;
  if (other) /* through its own descriptor: closing another one would drop the lock */
    return fail_locked(root, read_holder(other->file, &who) ? &who : NULL, 1, error);
  const zero1_status status = take_file(lock, root, error);
  if (status) return status;
  lock->next = held;
  held = lock;
  return ZERO1_OK;
}

zero1_status zero1__root_lock_take(const char *root, zero1__root_lock **lock, zero1__error *error) {
  *lock = NULL;
  zero1__root_lock *const taken = malloc(sizeof *taken);
  if (!taken) return zero1__fail(error, ZERO1_ERR_MEMORY, "%s: its lock", root);
  *taken = (zero1__root_lock){.pid = getpid(), .folder = -1, .file = -1};
  zero1_status status = open_folder(taken, root, error);
  if (!status) {
    pthread_mutex_lock(&held_mutex);
    status = take(taken, root, error);
    pthread_mutex_unlock(&held_mutex);
  }
  if (status)
    free_lock(taken);
  else
    *lock = taken;
  return status;
}

int zero1__root_lock_holds(const zero1__root_lock *lock, const char *root) {
  struct stat info;
  return lock && lock->pid == getpid() && !stat(root, &info) && info.st_dev == lock->device &&
         info.st_ino == lock->inode && is_the_file(lock);
}

void zero1__root_unlock(zero1__root_lock *lock) {
  if (!lock) return;
  pthread_mutex_lock(&held_mutex);
  zero1__root_lock **at = &held;
  while (*at && *at != lock) at = &(*at)->next;
  if (*at) *at = lock->next;
  /* Removed while it is locked, so that nobody else's is; a child of fork only forgets it. */
  if (lock->pid == getpid() && is_the_file(lock)) unlinkat(lock->folder, LOCK_NAME, 0);
  free_lock(lock);
  pthread_mutex_unlock(&held_mutex);
}
