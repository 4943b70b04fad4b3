/* Each function here makes its system call by itself, unless it is the one that is to fail. What
 * glibc makes inside of its own functions (opendir's open, fopen's) does not come here; opendir,
 * readdir and closedir are asked of glibc. */
#include "faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DESCRIPTORS = 4096, NO_FAULT = 0, KILL_AFTER = -1, SHORT = -2 };
enum { PLAIN = 0, INTERRUPTIBLE = 1, WRITES = 2 };

static faults_plan plan;
static size_t root_bytes;
static _Atomic int armed;
static _Atomic int64_t calls;
static faults_seen *seen; /* the one thread that makes the call writes it */
static _Atomic signed char inside[DESCRIPTORS];

void faults_arm(const faults_plan *given, faults_seen *noted) {
  plan = *given;
  seen = noted;
  root_bytes = strlen(plan.root);
  atomic_store(&calls, 0);
  memset(seen, 0, sizeof *seen);
  atomic_store(&armed, 1);
}

void faults_disarm(void) {
  atomic_store(&armed, 0);
  seen->calls = atomic_load(&calls);
}

/* ---- what a call is about ---- */

static int knows(int descriptor) {
  return descriptor >= 0 && descriptor < DESCRIPTORS && atomic_load(&inside[descriptor]);
}

static void note(int descriptor, int is_inside) {
  if (descriptor >= 0 && descriptor < DESCRIPTORS)
    atomic_store(&inside[descriptor], (signed char)is_inside);
}

/* A name in the folder `parent`, or a path. */
static int is_inside(int parent, const char *path) {
  if (path[0] != '/' && parent != AT_FDCWD) return knows(parent);
  const size_t bytes = root_bytes;
  return atomic_load(&armed) && !strncmp(path, plan.root, bytes) &&
         (!path[bytes] || path[bytes] == '/');
}

/* ---- what becomes of it ---- */

static void die(void) {
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

/* Above 0: it fails with this errno. */
static int enter(const char *name, const char *about, int about_root, int what, int traits) {
  static const int numbers[] = {EIO, ENOSPC, EACCES, EINTR};
  if (!about_root || !atomic_load(&armed) || what != plan.what) return NO_FAULT;
  if (atomic_fetch_add(&calls, 1) + 1 != plan.at) return NO_FAULT;
  if (plan.kind == FAULT_EINTR && !(traits & INTERRUPTIBLE)) return NO_FAULT;
  if (plan.kind == FAULT_SHORT && !(traits & WRITES)) return NO_FAULT;
  snprintf(seen->what, sizeof seen->what, "%s(%s)", name, about);
  seen->happened = 1;
  if (plan.kind == FAULT_KILL_BEFORE) die();
  if (plan.kind == FAULT_KILL_AFTER) return KILL_AFTER;
  return plan.kind == FAULT_SHORT ? SHORT : numbers[plan.kind];
}

static long fail(int number) {
  errno = number;
  return -1;
}

static long leave(int fault, long result) {
  if (fault == KILL_AFTER) die();
  return result;
}

#define MAKE(about, about_root, what, traits, ...)                              \
  do {                                                                          \
    const int fault = enter(__func__, (about), (about_root), (what), (traits)); \
    return (int)(fault > 0 ? fail(fault) : leave(fault, syscall(__VA_ARGS__))); \
  } while (0)

/* ---- descriptors ---- */

static int open_at(const char *name, int parent, const char *path, int flags, mode_t mode) {
  const int about_root = is_inside(parent, path);
  const int fault = enter(name, path, about_root, FAULT_CHANGES, INTERRUPTIBLE);
  if (fault > 0) return (int)fail(fault);
  const int descriptor = (int)leave(fault, syscall(SYS_openat, parent, path, flags, mode));
  note(descriptor, about_root);
  return descriptor;
}

static mode_t mode_of(int flags, va_list list) {
  return flags & O_CREAT ? va_arg(list, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = mode_of(flags, list);
  va_end(list);
  return open_at(__func__, AT_FDCWD, path, flags, mode);
}

int openat(int parent, const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = mode_of(flags, list);
  va_end(list);
  return open_at(__func__, parent, path, flags, mode);
}

/* One that fails has closed it, as Linux does. */
int close(int descriptor) {
  const int fault = enter(__func__, "descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE);
  note(descriptor, 0);
  const long result = leave(fault, syscall(SYS_close, descriptor));
  return (int)(fault > 0 ? fail(fault) : result);
}

int fcntl(int descriptor, int command, ...) {
  va_list list;
  va_start(list, command);
  const unsigned long argument = va_arg(list, unsigned long);
  va_end(list);
  MAKE("descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE, SYS_fcntl, descriptor,
       command, argument);
}

/* ---- writing ---- */

ssize_t write(int descriptor, const void *data, size_t bytes) {
  const int fault = enter(__func__, "descriptor", knows(descriptor), FAULT_CHANGES,
                          bytes ? INTERRUPTIBLE | WRITES : PLAIN);
  if (fault > 0) return fail(fault);
  const size_t taken = fault == SHORT ? (bytes + 1) / 2 : bytes;
  return leave(fault, syscall(SYS_write, descriptor, data, taken));
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
  const int fault =
      enter(__func__, "descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE | WRITES);
  if (fault > 0) return fail(fault);
  if (fault == SHORT)
    return syscall(SYS_write, descriptor, pieces[0].iov_base, (pieces[0].iov_len + 1) / 2);
  return leave(fault, syscall(SYS_writev, descriptor, pieces, count));
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset) {
  const int fault =
      enter(__func__, "descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE | WRITES);
  if (fault > 0) return fail(fault);
  const size_t taken = fault == SHORT ? (bytes + 1) / 2 : bytes;
  return leave(fault, syscall(SYS_pwrite64, descriptor, data, taken, offset));
}

int ftruncate(int descriptor, off_t bytes) {
  MAKE("descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE, SYS_ftruncate, descriptor,
       bytes);
}

int fsync(int descriptor) {
  MAKE("descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE, SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
  MAKE("descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE, SYS_fdatasync, descriptor);
}

int futimens(int descriptor, const struct timespec times[2]) {
  MAKE("descriptor", knows(descriptor), FAULT_CHANGES, PLAIN, SYS_utimensat, descriptor, NULL,
       times, 0);
}

int sync_file_range(int descriptor, off64_t begin, off64_t bytes, unsigned flags) {
  MAKE("descriptor", knows(descriptor), FAULT_CHANGES, INTERRUPTIBLE, SYS_sync_file_range,
       descriptor, begin, bytes, flags);
}

/* ---- names ---- */

int mkdir(const char *path, mode_t mode) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_CHANGES, PLAIN, SYS_mkdir, path, mode);
}

int rename(const char *from, const char *to) {
  MAKE(to, is_inside(AT_FDCWD, to), FAULT_CHANGES, PLAIN, SYS_rename, from, to);
}

int renameat2(int from_parent, const char *from, int to_parent, const char *to, unsigned flags) {
  MAKE(to, is_inside(to_parent, to), FAULT_CHANGES, PLAIN, SYS_renameat2, from_parent, from,
       to_parent, to, flags);
}

int symlink(const char *to, const char *path) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_CHANGES, PLAIN, SYS_symlink, to, path);
}

int unlink(const char *path) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_CHANGES, PLAIN, SYS_unlink, path);
}

int unlinkat(int parent, const char *path, int flags) {
  MAKE(path, is_inside(parent, path), FAULT_CHANGES, PLAIN, SYS_unlinkat, parent, path, flags);
}

int rmdir(const char *path) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_CHANGES, PLAIN, SYS_rmdir, path);
}

/* ---- looking ---- */

int access(const char *path, int mode) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_LOOKS, PLAIN, SYS_access, path, mode);
}

int stat(const char *path, struct stat *is) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_LOOKS, PLAIN, SYS_newfstatat, AT_FDCWD, path, is, 0);
}

int lstat(const char *path, struct stat *is) {
  MAKE(path, is_inside(AT_FDCWD, path), FAULT_LOOKS, PLAIN, SYS_newfstatat, AT_FDCWD, path, is,
       AT_SYMLINK_NOFOLLOW);
}

int fstat(int descriptor, struct stat *is) {
  MAKE("descriptor", knows(descriptor), FAULT_LOOKS, PLAIN, SYS_fstat, descriptor, is);
}

int fstatat(int parent, const char *path, struct stat *is, int flags) {
  MAKE(path, is_inside(parent, path), FAULT_LOOKS, PLAIN, SYS_newfstatat, parent, path, is, flags);
}

ssize_t readlink(const char *path, char *target, size_t bytes) {
  const int fault = enter(__func__, path, is_inside(AT_FDCWD, path), FAULT_LOOKS, PLAIN);
  return fault > 0 ? fail(fault) : leave(fault, syscall(SYS_readlink, path, target, bytes));
}

ssize_t read(int descriptor, void *data, size_t bytes) {
  const int fault = enter(__func__, "descriptor", knows(descriptor), FAULT_LOOKS, INTERRUPTIBLE);
  return fault > 0 ? fail(fault) : leave(fault, syscall(SYS_read, descriptor, data, bytes));
}

ssize_t pread(int descriptor, void *data, size_t bytes, off_t offset) {
  const int fault = enter(__func__, "descriptor", knows(descriptor), FAULT_LOOKS, INTERRUPTIBLE);
  return fault > 0 ? fail(fault)
                   : leave(fault, syscall(SYS_pread64, descriptor, data, bytes, offset));
}

static void *of_glibc(const char *name) {
  void *const function = dlsym(RTLD_NEXT, name);
  if (!function) die();
  return function;
}

DIR *opendir(const char *path) {
  static DIR *(*_Atomic real)(const char *);
  if (!atomic_load(&real)) atomic_store(&real, (DIR * (*)(const char *)) of_glibc(__func__));
  const int about_root = is_inside(AT_FDCWD, path);
  const int fault = enter(__func__, path, about_root, FAULT_LOOKS, PLAIN);
  if (fault > 0) {
    errno = fault;
    return NULL;
  }
  DIR *const folder = atomic_load(&real)(path);
  if (fault == KILL_AFTER) die();
  if (folder) note(dirfd(folder), about_root);
  return folder;
}

/* Of a descriptor that openat has noted. */
DIR *fdopendir(int descriptor) {
  static DIR *(*_Atomic real)(int);
  if (!atomic_load(&real)) atomic_store(&real, (DIR * (*)(int)) of_glibc(__func__));
  const int fault = enter(__func__, "descriptor", knows(descriptor), FAULT_LOOKS, PLAIN);
  if (fault > 0) {
    errno = fault;
    return NULL;
  }
  DIR *const folder = atomic_load(&real)(descriptor);
  if (fault == KILL_AFTER) die();
  return folder;
}

struct dirent *readdir(DIR *folder) {
  static struct dirent *(*_Atomic real)(DIR *);
  if (!atomic_load(&real)) atomic_store(&real, (struct dirent * (*)(DIR *)) of_glibc(__func__));
  const int fault = enter(__func__, "folder", knows(dirfd(folder)), FAULT_LOOKS, PLAIN);
  if (fault > 0) {
    errno = fault;
    return NULL;
  }
  struct dirent *const entry = atomic_load(&real)(folder);
  if (fault == KILL_AFTER) die();
  return entry;
}

int closedir(DIR *folder) {
  static int (*_Atomic real)(DIR *);
  if (!atomic_load(&real)) atomic_store(&real, (int (*)(DIR *))of_glibc(__func__));
  note(dirfd(folder), 0);
  return atomic_load(&real)(folder);
}
