/* Ranks as processes that a driver starts, kills and waits for. They find each other by memory that
 * they share with the driver. */
#ifndef ZERO1_TESTS_PROCESSES_H
#define ZERO1_TESTS_PROCESSES_H

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "clock.h"
#include "faults.h"
#include "trials.h"

enum { PROCESS_RANKS = 4, PROCESS_GATHER_BYTES = 1 << 16 };

/** What a rank tells. */
typedef struct process_report {
  _Atomic int64_t begun;     /* step whose save has begun; -1: none */
  _Atomic int64_t safe;      /* step whose save has succeeded; -1: none */
  _Atomic int32_t saves;     /* that have begun */
  _Atomic int64_t save_ns;   /* that those took that have succeeded */
  _Atomic int32_t succeeded; /* how many these are */
  int64_t latest;            /* what `latest` was then; -1: none */
  zero1_status status;       /* by which it ended, or of what the trial is about */
  char text[ZERO1__ERROR_TEXT];
  faults_seen faults;
} process_report;

typedef struct process_world {
  int32_t world_size;
  pid_t pids[PROCESS_RANKS];     /* 0: has ended */
  int ends[PROCESS_RANKS];       /* as waitpid tells */
  int32_t killed[PROCESS_RANKS]; /* by the driver, or as was planned */
  _Atomic int32_t lost;          /* a rank is gone: who waits for it here gives up */
  _Atomic int64_t came[PROCESS_RANKS];
  process_report reports[PROCESS_RANKS];
  /* In turns: nobody writes into the one while another still reads it. */
  char gathered[2][PROCESS_RANKS][PROCESS_GATHER_BYTES];
  char what[600]; /* that is tried, for a failure of anybody */
} process_world;

static inline void process_nap(long us) {
  const struct timespec time = {us / 1000000, us % 1000000 * 1000};
  nanosleep(&time, NULL);
}

static inline process_world *process_world_create(void) {
  void *const made =
      mmap(NULL, sizeof(process_world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(made != MAP_FAILED);
  return (process_world *)made;
}

/* ---- in a rank ---- */

typedef struct process_rank {
  process_world *world;
  int32_t rank;
} process_rank;

static inline int32_t process_allgather(void *context, const void *in, void *out, size_t bytes) {
  const process_rank *const self = (const process_rank *)context;
  process_world *const world = self->world;
  const int64_t round = atomic_load(&world->came[self->rank]);
  char(*const slots)[PROCESS_GATHER_BYTES] = world->gathered[round % 2];
  CHECK(bytes <= PROCESS_GATHER_BYTES);
  memcpy(slots[self->rank], in, bytes);
  atomic_store(&world->came[self->rank], round + 1);
  for (int32_t rank = 0; rank < world->world_size; ++rank) {
    while (atomic_load(&world->came[rank]) <= round) {
      if (atomic_load(&world->lost)) return 1;
      process_nap(50);
    }
    memcpy((char *)out + (size_t)rank * bytes, slots[rank], bytes);
  }
  return 0;
}

static inline zero1_status process_comm(process_rank *self, zero1_comm **comm) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.timeout_seconds = 60;
  return zero1_comm_create_node(self->rank, self->world->world_size, process_allgather, self,
                                &options, comm);
}

static inline void process_tell(process_rank *self, zero1_status status, const char *text) {
  process_report *const report = &self->world->reports[self->rank];
  report->status = status;
  snprintf(report->text, sizeof report->text, "%s", status ? text : "");
}

/* ---- in the driver ---- */

typedef void (*process_fn)(process_rank *self, void *arg);

/* Starts world_size processes of this one, which has no other threads. */
static inline void process_start(process_world *world, int32_t world_size, process_fn fn,
                                 void *arg) {
  memset(world, 0, offsetof(process_world, gathered));
  world->world_size = world_size;
  for (int32_t rank = 0; rank < world_size; ++rank)
    world->reports[rank].begun = world->reports[rank].safe = -1;
  fflush(NULL);
  for (int32_t rank = 0; rank < world_size; ++rank) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid) {
      world->pids[rank] = pid;
      continue;
    }
    process_rank self = {world, rank};
    check__thread_rank = rank;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fn(&self, arg);
    check__exit(0);
  }
}

/* Takes leave of those that have ended, which their peers then see; whether any goes on. */
static inline int process_look(process_world *world) {
  int going = 0;
  for (int32_t rank = 0; rank < world->world_size; ++rank) {
    if (!world->pids[rank]) continue;
    const pid_t ended = waitpid(world->pids[rank], &world->ends[rank], WNOHANG);
    CHECK(ended >= 0);
    going += !ended;
    if (!ended) continue;
    world->pids[rank] = 0;
    atomic_store(&world->lost, 1);
  }
  return going;
}

static inline void process_kill(process_world *world, int32_t rank) {
  if (!world->pids[rank]) return;
  world->killed[rank] = 1;
  CHECK(!kill(world->pids[rank], SIGKILL));
}

/* Waits for all to end. What goes on for longer than that hangs, which is a failure. */
static inline void process_await(process_world *world, double seconds) {
  const int64_t end_ns = zero1__now_ns() + (int64_t)(seconds * 1e9);
  while (process_look(world)) {
    if (zero1__now_ns() > end_ns) {
      for (int32_t rank = 0; rank < world->world_size; ++rank) {
        if (world->pids[rank]) fprintf(stderr, "rank %d hangs\n", rank);
        process_kill(world, rank);
      }
      CHECK(!"no rank hangs");
    }
    process_nap(200);
  }
}

/* Every rank that was not killed has come to its end: no failed check, no signal. */
static inline void process_check_ends(const process_world *world) {
  for (int32_t rank = 0; rank < world->world_size; ++rank) {
    const int end = world->ends[rank];
    if (world->killed[rank]) continue;
    if (WIFSIGNALED(end)) fprintf(stderr, "rank %d: signal %d\n", rank, WTERMSIG(end));
    CHECK(WIFEXITED(end) && WEXITSTATUS(end) == 0);
  }
}

/* What survives must have been told of the loss, at once, and not by a wait's end. */
static inline void process_check_survivors(const process_world *world) {
  for (int32_t rank = 0; rank < world->world_size; ++rank) {
    const process_report *const report = &world->reports[rank];
    const int told = report->status == ZERO1_ERR_PEER || report->status == ZERO1_ERR_ABORTED ||
                     report->status == ZERO1_ERR_SPENT || report->status == ZERO1_ERR_COMM;
    if (world->killed[rank] || !report->status || told) continue;
    fprintf(stderr, "rank %d: status %d: %s\n", rank, report->status, report->text);
    CHECK(!"a survivor is told that a peer is lost");
  }
}

/* One process for a check that makes threads, and may hang or crash. */
static inline void process_check(process_world *world, process_fn fn, void *arg, double seconds) {
  process_start(world, 1, fn, arg);
  process_await(world, seconds);
  process_check_ends(world);
}

/* The driver is a process of its own: whatever fails in it or in what it starts, this one says what
 * was being tried. The exit code of the program. */
static inline int process_drive(process_world *world, void (*drive)(void *), void *arg) {
  int end;
  fflush(NULL);
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (!pid) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    drive(arg);
    check__exit(0);
  }
  CHECK(waitpid(pid, &end, 0) == pid);
  if (WIFEXITED(end) && !WEXITSTATUS(end)) return 0;
  fprintf(stderr, "That was: %s\n", world->what);
  for (int32_t rank = 0; rank < world->world_size; ++rank)
    if (world->reports[rank].faults.happened)
      fprintf(stderr, "The call: %s\n", world->reports[rank].faults.what);
  return 1;
}

#endif
