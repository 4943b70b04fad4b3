/* ROOT/.lock: one job at a time writes into a root. */
// sanitizers: address undefined thread
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "checkpoint_lock.h"
#include "root_case.h"

/* A process that holds the lock of root until it is let go, or killed. */
typedef struct other_job {
  pid_t pid;
  int told; /* readable once it has the lock, or has not */
  int let_go;
} other_job;

static void other_job_main(int tell, int wait, int die) {
  zero1__root_lock *lock = NULL;
  char byte = 'l';
  if (zero1__root_lock_take(root, &lock, NULL)) byte = 'f';
  if (write(tell, &byte, 1) != 1) _exit(2);
  if (read(wait, &byte, 1) < 0) _exit(3);
  if (die) kill(getpid(), SIGKILL);
  zero1__root_unlock(lock);
  _exit(0);
}

/* Returns whether it got the lock. */
static int start_job(other_job *job, int die) {
  int tell[2], wait[2];
  char byte;
  fflush(NULL);
  CHECK(!pipe(tell) && !pipe(wait));
  job->pid = fork();
  CHECK(job->pid >= 0);
  if (!job->pid) {
    close(wait[1]);
    close(tell[0]);
    other_job_main(tell[1], wait[0], die);
  }
  close(tell[1]);
  close(wait[0]);
  job->told = tell[0];
  job->let_go = wait[1];
  CHECK(read(job->told, &byte, 1) == 1);
  return byte == 'l';
}

static void end_job(other_job *job, int die) {
  int status;
  close(job->let_go);
  CHECK(waitpid(job->pid, &status, 0) == job->pid);
  CHECK(die ? WIFSIGNALED(status) : WIFEXITED(status) && !WEXITSTATUS(status));
  close(job->told);
}

static void a_root_is_taken_and_let_go_and_taken(void) {
  zero1__root_lock *lock;
  make_root();
  for (int i = 0; i < 3; ++i) {
    CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
    CHECK(lock && is_there(".lock"));
    zero1__root_unlock(lock);
    CHECK(!is_there(".lock"));
  }
  zero1__root_unlock(NULL);
  drop_root();
}

static void another_process_is_named(void) {
  zero1__root_lock *lock;
  other_job job;
  char text[600], host[256] = "";
  make_root();
  CHECK(start_job(&job, 0));
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_ERR_LOCKED);
  CHECK(!lock && !gethostname(host, sizeof host - 1));
  snprintf(text, sizeof text, "%s is in use by process %d on host %s since 2", root, (int)job.pid,
           host);
  CHECK(fails_with(text));
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_ERR_LOCKED);
  snprintf(text, sizeof text, " UTC (%s/.lock)", root);
  CHECK(fails_with(text));
  CHECK(is_there(".lock"));
  end_job(&job, 0);
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
  CHECK(!start_job(&job, 0)); /* and the other way round: looking did not drop it */
  end_job(&job, 0);
  CHECK(is_there(".lock"));
  zero1__root_unlock(lock);
  drop_root();
}

static void a_lock_ends_with_its_holder_however_that_ended(void) {
  zero1__root_lock *lock;
  other_job job;
  make_root();
  CHECK(start_job(&job, 1));
  end_job(&job, 1);
  CHECK(is_there(".lock")); /* it had no time to remove it */
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
  zero1__root_unlock(lock);
  CHECK(!is_there(".lock"));
  drop_root();
}

static void two_of_one_process_exclude_each_other_by_any_path(void) {
  zero1__root_lock *lock, *second;
  other_job job;
  char text[64];
  make_root();
  make_folder("inner");
  CHECK(!symlink(root, in_root("inner/again")));
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
  CHECK_STATUS(zero1__root_lock_take(in_root("inner/again"), &second, &failure), ZERO1_ERR_LOCKED);
  snprintf(text, sizeof text, "in use by another optimizer of this process %d on", (int)getpid());
  CHECK(!second && fails_with(text));
  CHECK(!start_job(&job, 0)); /* the refusal did not drop the lock */
  end_job(&job, 0);
  CHECK_STATUS(zero1__root_lock_take(in_root("inner"), &second, &failure), ZERO1_OK); /* another */
  zero1__root_unlock(lock);
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
  zero1__root_unlock(second);
  zero1__root_unlock(lock);
  drop_root();
}

static void a_child_of_fork_has_no_lock_of_its_own(void) {
  zero1__root_lock *lock;
  other_job job;
  int status;
  make_root();
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
  fflush(NULL);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    zero1__root_unlock(lock); /* only forgets it */
    zero1__root_lock *own = NULL;
    _exit(zero1__root_lock_take(root, &own, NULL) == ZERO1_ERR_LOCKED && !own ? 0 : 1);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
  CHECK(is_there(".lock") && !start_job(&job, 0));
  end_job(&job, 0);
  zero1__root_unlock(lock);
  drop_root();
}

static void any_bytes_in_the_file_are_no_obstacle(void) {
  const char *const texts[] = {"", "x", "{\"host\": 3}",
                               "{\"host\":\"a\",\"pid\":1,\"since\":\"b\"}", "\xff\xfe{"};
  zero1__root_lock *lock;
  make_root();
  for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
    FILE *const file = fopen(in_root(".lock"), "w");
    CHECK(file && fputs(texts[i], file) >= 0 && !fclose(file));
    CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
    zero1__root_unlock(lock);
  }
  drop_root();
}

/* One that locks the file and says nothing: as one does that has just begun, for longer. */
static void a_holder_without_a_name_is_refused_without_one(void) {
  zero1__root_lock *lock;
  int tell[2], status;
  char byte;
  make_root();
  fflush(NULL);
  CHECK(!pipe(tell));
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    const int fd = open(in_root(".lock"), O_RDWR | O_CREAT, 0644);
    if (fd < 0 || fcntl(fd, F_SETLK, &whole) || write(tell[1], "l", 1) != 1) _exit(1);
    for (;;) pause();
  }
  CHECK(read(tell[0], &byte, 1) == 1);
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_ERR_LOCKED);
  CHECK(!lock && fails_with(" is in use by another process ("));
  CHECK(!kill(child, SIGKILL) && waitpid(child, &status, 0) == child);
  close(tell[0]);
  close(tell[1]);
  drop_root();
}

/* Ends a lock whose name a person has taken away: the file of who came after stays. */
static void only_the_own_file_is_removed(void) {
  zero1__root_lock *lock;
  make_root();
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_OK);
  CHECK(!unlink(in_root(".lock")));
  make_file(".lock");
  zero1__root_unlock(lock);
  CHECK(is_there(".lock"));
  drop_root();
}

#define TURNS 300

/* Counts up in a file, as only one of them may at a time. */
static void count_up(int turns) {
  for (int done = 0; done < turns;) {
    zero1__root_lock *lock;
    if (zero1__root_lock_take(root, &lock, NULL)) continue;
    int64_t value = 0;
    const int fd = open(in_root("counter"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    const int read_one = fd >= 0 && pread(fd, &value, sizeof value, 0) >= 0;
    ++value;
    if (!read_one || pwrite(fd, &value, sizeof value, 0) != sizeof value) _exit(1);
    close(fd);
    zero1__root_unlock(lock);
    ++done;
  }
}

static void processes_that_take_turns_never_overlap(void) {
  pid_t children[3];
  int64_t value = 0;
  make_root();
  fflush(NULL);
  for (int i = 0; i < 3; ++i) {
    children[i] = fork();
    CHECK(children[i] >= 0);
    if (!children[i]) {
      count_up(TURNS);
      _exit(0);
    }
  }
  for (int i = 0; i < 3; ++i) {
    int status;
    CHECK(waitpid(children[i], &status, 0) == children[i]);
    CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
  }
  const int fd = open(in_root("counter"), O_RDONLY);
  CHECK(fd >= 0 && read(fd, &value, sizeof value) == sizeof value && !close(fd));
  CHECK_EQ(value, 3 * TURNS);
  drop_root();
}

static void *count_up_thread(void *context) {
  (void)context;
  count_up(TURNS);
  return NULL;
}

static void threads_that_take_turns_never_overlap(void) {
  pthread_t threads[3];
  int64_t value = 0;
  make_root();
  for (int i = 0; i < 3; ++i) CHECK(!pthread_create(&threads[i], NULL, count_up_thread, NULL));
  for (int i = 0; i < 3; ++i) CHECK(!pthread_join(threads[i], NULL));
  const int fd = open(in_root("counter"), O_RDONLY);
  CHECK(fd >= 0 && read(fd, &value, sizeof value) == sizeof value && !close(fd));
  CHECK_EQ(value, 3 * TURNS);
  drop_root();
}

static void what_cannot_be_locked_is_named(void) {
  zero1__root_lock *lock;
  make_root();
  make_file("file");
  CHECK_STATUS(zero1__root_lock_take(in_root("file"), &lock, &failure), ZERO1_ERR_IO);
  CHECK(!lock && fails_with("file: is a file, not a folder"));
  CHECK_STATUS(zero1__root_lock_take(in_root("none"), &lock, &failure), ZERO1_ERR_IO);
  CHECK(!lock && fails_with("none: opening failed: No such file or directory"));
  make_folder(".lock");
  CHECK_STATUS(zero1__root_lock_take(root, &lock, &failure), ZERO1_ERR_IO);
  CHECK(!lock && fails_with("/.lock: opening failed: Is a directory"));
  drop_root();
}

int main(void) {
  RUN(a_root_is_taken_and_let_go_and_taken);
  RUN(another_process_is_named);
  RUN(a_lock_ends_with_its_holder_however_that_ended);
  RUN(two_of_one_process_exclude_each_other_by_any_path);
  RUN(a_child_of_fork_has_no_lock_of_its_own);
  RUN(any_bytes_in_the_file_are_no_obstacle);
  RUN(a_holder_without_a_name_is_refused_without_one);
  RUN(only_the_own_file_is_removed);
  RUN(processes_that_take_turns_never_overlap);
  RUN(threads_that_take_turns_never_overlap);
  RUN(what_cannot_be_locked_is_named);
  return check_summary();
}
