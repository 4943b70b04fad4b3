// sanitizers: address undefined thread
/* The harness itself: a check that fails must be seen, wherever it fails. */
#include "check.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs fn in a child; gives its exit code, and what it wrote to stdout and stderr. */
static int exit_code_of(void (*fn)(void), char *text, size_t text_bytes) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  fflush(NULL);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    fn();
    check__exit(0);
  }
  close(ends[1]);
  size_t length = 0;
  ssize_t got;
  while ((got = read(ends[0], text + length, text_bytes - 1 - length)) > 0) length += (size_t)got;
  text[length] = '\0';
  close(ends[0]);
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void expect(void (*fn)(void), int code, const char *part) {
  char text[4096];
  CHECK_EQ(exit_code_of(fn, text, sizeof text), code);
  if (!strstr(text, part)) fprintf(stderr, "no \"%s\" in: %s", part, text);
  CHECK(strstr(text, part));
}

static void false_condition(void) {
  CHECK(1 + 1 == 3);
}
static void unequal(void) {
  CHECK_EQ(1 + 1, 3);
}
static void far_apart(void) {
  CHECK_CLOSE(1.0, 1.25, 0.1, 0.0);
}
static void not_a_number(void) {
  CHECK_CLOSE(NAN, 1.0, 1.0, 1.0);
}
static void wrong_status(void) {
  CHECK_STATUS(ZERO1_ERR_TIMEOUT, ZERO1_OK);
}
static void skipped(void) {
  SKIP("no such device");
}

static void a_failed_check_ends_the_process_and_says_what_was_wrong(void) {
  expect(false_condition, 1, "1 + 1 == 3 is false");
  expect(unequal, 1, "1 + 1 is 2, not 3, which is 3");
  expect(far_apart, 1, "0.25 apart, 0.125 allowed");
  expect(not_a_number, 1, "nan");
  expect(wrong_status, 1, "returned -7 (a peer made no progress within the timeout), not 0");
}

static void a_skip_is_exit_code_77_with_its_reason(void) {
  expect(skipped, 77, "skipped: no such device");
}

/* seen[r] is written by rank r alone. */
static void note_rank(int32_t rank, zero1_comm *comm, void *arg) {
  CHECK_EQ(zero1_comm_rank(comm), rank);
  CHECK_EQ(zero1_comm_world_size(comm), 4);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  ((int *)arg)[rank] += 1;
}

static void every_rank_runs_once_with_its_own_communicator(void) {
  int seen[4] = {0};
  check_threads(4, NULL, note_rank, seen);
  for (int r = 0; r < 4; ++r) CHECK_EQ(seen[r], 1);
}

static void fail_on_rank_2(int32_t rank, zero1_comm *comm, void *arg) {
  (void)comm, (void)arg;
  CHECK(rank != 2);
}

static void threads_that_fail(void) {
  check_threads(4, NULL, fail_on_rank_2, NULL);
}

static void a_check_that_fails_on_a_thread_names_the_rank(void) {
  expect(threads_that_fail, 1, "rank 2: rank != 2 is false");
}

int main(void) {
  RUN(a_failed_check_ends_the_process_and_says_what_was_wrong);
  RUN(a_skip_is_exit_code_77_with_its_reason);
  RUN(every_rank_runs_once_with_its_own_communicator);
  RUN(a_check_that_fails_on_a_thread_names_the_rank);
  return check_summary();
}
