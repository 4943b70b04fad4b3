/* What every test is written with. A test file:
 *
 *   static void shards_tile_the_bucket(void) { CHECK(1 + 1 == 2); }
 *   int main(void) {
 *     RUN(shards_tile_the_bucket);
 *     return check_summary();
 *   }
 *
 * The first failed check ends the process with 1, from whichever thread, and names the rank.
 * The comment lines that tell ctest how to run the file are described in CMakeLists.txt. */
#ifndef ZERO1_TESTS_CHECK_H
#define ZERO1_TESTS_CHECK_H

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "zero1/comm.h"
#include "zero1/status.h"

/* Rank of this thread under check_threads, else -1. */
static _Thread_local int32_t check__thread_rank = -1;
static int check__passed; /* written by the main thread alone */

/* Rank of this process under mpirun, or -1. */
static inline int check__process_rank(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
  for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
    const char *const text = getenv(names[i]);
    if (text) return atoi(text);
  }
  return -1;
}

static inline void check__place(const char *file, int line) {
  const int rank = check__thread_rank >= 0 ? check__thread_rank : check__process_rank();
  fprintf(stderr, "%s:%d: ", file, line);
  if (rank >= 0) fprintf(stderr, "rank %d: ", rank);
}

/* Other threads may be anywhere, so nothing is cleaned up. */
_Noreturn static inline void check__exit(int code) {
  fflush(NULL);
  _Exit(code);
}

_Noreturn static inline void check__fail(const char *file, int line, const char *what) {
  check__place(file, line);
  fprintf(stderr, "%s is false\n", what);
  check__exit(1);
}

static inline void check__equal(const char *file, int line, const char *left_text,
                                const char *right_text, int64_t left, int64_t right) {
  if (left == right) return;
  check__place(file, line);
  fprintf(stderr, "%s is %" PRId64 ", not %s, which is %" PRId64 "\n", left_text, left, right_text,
          right);
  check__exit(1);
}

/* NaN is close to nothing; equal infinities are close. */
static inline void check__close(const char *file, int line, const char *left_text,
                                const char *right_text, double left, double right, double rel,
                                double abs) {
  const double bound = abs + rel * fabs(right);
  const double distance = fabs(left - right);
  if (left == right || distance <= bound) return;
  check__place(file, line);
  fprintf(stderr, "%s is %.17g, not %s, which is %.17g: %.3g apart, %.3g allowed\n", left_text,
          left, right_text, right, distance, bound);
  check__exit(1);
}

static inline void check__status(const char *file, int line, const char *call, zero1_status status,
                                 zero1_status expected) {
  if (status == expected) return;
  check__place(file, line);
  fprintf(stderr, "%s returned %" PRId32 " (%s), not %" PRId32 " (%s)\n", call, status,
          zero1_status_string(status), expected, zero1_status_string(expected));
  check__exit(1);
}

/* The condition holds. */
#define CHECK(condition) ((condition) ? (void)0 : check__fail(__FILE__, __LINE__, #condition))

/* Two integers that fit an int64_t are the same. */
#define CHECK_EQ(left, right) \
  check__equal(__FILE__, __LINE__, #left, #right, (int64_t)(left), (int64_t)(right))

/* |left - right| <= abs + rel * |right| */
#define CHECK_CLOSE(left, right, rel, abs) \
  check__close(__FILE__, __LINE__, #left, #right, (left), (right), (rel), (abs))

/* The call returns this status. */
#define CHECK_STATUS(call, expected) check__status(__FILE__, __LINE__, #call, (call), (expected))

/* Runs one test function; its name is printed once, whatever the number of ranks. */
#define RUN(test)                                                   \
  do {                                                              \
    if (check__process_rank() <= 0) fprintf(stdout, "%s\n", #test); \
    fflush(stdout);                                                 \
    (test)();                                                       \
    ++check__passed;                                                \
  } while (0)

/* Ends the process as "skipped", for what this machine does not have. */
#define SKIP(reason)                                                            \
  do {                                                                          \
    if (check__process_rank() <= 0) fprintf(stdout, "skipped: %s\n", (reason)); \
    check__exit(77);                                                            \
  } while (0)

/* The last line of main: `return check_summary();` */
static inline int check_summary(void) {
  if (check__process_rank() <= 0) printf("%d passed, 0 failed\n", check__passed);
  return 0;
}

/* ---- several ranks in one process ---- */

typedef void (*check_rank_fn)(int32_t rank, zero1_comm *comm, void *arg);

typedef struct check__rank {
  pthread_t thread;
  int32_t rank;
  zero1_comm *comm;
  check_rank_fn fn;
  void *arg;
  pthread_barrier_t *meeting;
} check__rank;

static _Thread_local pthread_barrier_t *check__meeting;

static inline void *check__rank_main(void *context) {
  check__rank *const self = (check__rank *)context;
  check__thread_rank = self->rank;
  check__meeting = self->meeting;
  self->fn(self->rank, self->comm, self->arg);
  zero1_comm_destroy(&self->comm);
  return NULL;
}

/* Every rank of check_threads comes here before any goes on; elsewhere nothing. */
static inline void check_meet(void) {
  if (check__meeting) pthread_barrier_wait(check__meeting);
}

/* Runs fn(rank, comm, arg) on `world_size` threads, each with its communicator of
 * zero1_comm_create_threads, which it destroys when fn returns; waits for all of them.
 * options may be NULL. */
static inline void check_threads(int32_t world_size, const zero1_comm_options *options,
                                 check_rank_fn fn, void *arg) {
  check__rank *const ranks = (check__rank *)calloc((size_t)world_size, sizeof *ranks);
  zero1_comm **const comms = (zero1_comm **)calloc((size_t)world_size, sizeof *comms);
  pthread_barrier_t meeting;
  CHECK(ranks && comms && !pthread_barrier_init(&meeting, NULL, (unsigned)world_size));
  CHECK_STATUS(zero1_comm_create_threads(world_size, options, comms), ZERO1_OK);
  for (int32_t r = 0; r < world_size; ++r) {
    ranks[r].rank = r;
    ranks[r].comm = comms[r];
    ranks[r].fn = fn;
    ranks[r].arg = arg;
    ranks[r].meeting = &meeting;
    CHECK(pthread_create(&ranks[r].thread, NULL, check__rank_main, &ranks[r]) == 0);
  }
  for (int32_t r = 0; r < world_size; ++r) CHECK(pthread_join(ranks[r].thread, NULL) == 0);
  pthread_barrier_destroy(&meeting);
  free(comms);
  free(ranks);
}

#endif
