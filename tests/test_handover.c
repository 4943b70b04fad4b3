// sanitizers: thread
// args: delays node
// args: delays exchange
// args: delays hierarchical
// args: removals 0
// args: removals 1
// args: removals 2
// args: removals 3
// timeout: 300
// quarters: 1
// cost: 15
// without-mpi: no
// wrap: zero1__flag_post zero1__flag_wait zero1__stream_push zero1__stream_wait
// wrap: zero1__event_record zero1__event_sync zero1__node_arrive zero1__node_await
// wrap: zero1__node_all_gather zero1__node_barrier zero1__port_wait zero1__pool_run
// wrap: zero1__node_broadcast zero1__wire_broadcast
/* The hand-overs of the schedule (the table of schedule.h): with random delays at each of them, the
 * results are those of one rank by itself; with any one of them taken out, they are not, or
 * ThreadSanitizer sees it.
 *
 *   test_handover delays PATH        random delays on node, exchange or hierarchical
 *   test_handover removals K         takes one wait out after the other: K, K + 4, K + 8 ... of the
 *                                    table below, each in a process of its own; prints how each was
 *                                    found
 *   test_handover removal N TIMES    one of them, here, with delays TIMES as long; 0: left in */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handover_train.h"

/* ---- delays ---- */

static const job DELAYED[] = {
    {.name = "node", .world = 2},
    {.name = "node", .world = 3, .private_params = 1, .threads = 2},
    {.name = "node", .world = 4, .one_pass = 1},
    {.name = "node", .world = 2, .one_pass = 1, .private_params = 1, .grads_first = 1},
    {.name = "node", .world = 3, .bf16 = 1, .no_overlap = 1},
    {.name = "node", .world = 4, .bf16 = 1, .private_params = 1},
    {.name = "node", .world = 3, .bf16 = 1, .split = 1},
    {.name = "node", .world = 2, .two = 1, .private_params = 1},
    {.name = "node", .world = 3, .int8 = 1, .grads_first = 1},
    {.name = "exchange", .world = 3, .ranks_per_node = 1, .int8 = 1},
    {.name = "exchange", .world = 2, .ranks_per_node = 1, .int8 = 1, .inline_calls = 1},
    {.name = "hierarchical", .world = 4, .ranks_per_node = 2, .int8 = 1, .private_params = 1},
    {.name = "exchange", .world = 3, .ranks_per_node = 1, .two = 1},
    {.name = "exchange", .world = 2, .ranks_per_node = 1, .split = 1},
    {.name = "exchange", .world = 3, .ranks_per_node = 1, .bf16 = 1},
    {.name = "exchange", .world = 4, .ranks_per_node = 1, .one_pass = 1, .threads = 2},
    {.name = "exchange", .world = 3, .ranks_per_node = 1, .no_overlap = 1, .grads_first = 1},
    {.name = "exchange", .world = 3, .ranks_per_node = 1, .inline_calls = 1},
    {.name = "hierarchical", .world = 4, .ranks_per_node = 2, .inline_calls = 1, .bf16 = 1},
    {.name = "hierarchical", .world = 4, .ranks_per_node = 2},
    {.name = "hierarchical", .world = 4, .ranks_per_node = 2, .two = 1},
    {.name = "hierarchical", .world = 4, .ranks_per_node = 2, .private_params = 1, .bf16 = 1},
    {.name = "hierarchical", .world = 4, .ranks_per_node = 2, .one_pass = 1, .grads_first = 1},
};

static const char *delayed_path;

static void late_hand_overs_change_nothing(void) {
  for (size_t i = 0; i < sizeof DELAYED / sizeof *DELAYED; ++i) {
    if (strcmp(DELAYED[i].name, delayed_path)) continue;
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      hooks = (hooks_plan){.seed = seed};
      compare(&DELAYED[i]);
    }
  }
}

/* ---- waits that are taken out ---- */

#define NODE \
  { .name = "node", .world = 2, .private_params = 1 }
#define SHARED \
  { .name = "node, shared", .world = 2 }
#define EXCHANGE \
  { .name = "exchange", .world = 2, .ranks_per_node = 1 }
#define HIERARCHICAL \
  { .name = "hierarchical", .world = 4, .ranks_per_node = 2, .private_params = 1 }

typedef struct removal {
  const char *wait; /* as handover_hooks.h names it */
  job what;
  int slow, slow_ranks;
} removal;

enum { ALL = 15, RANK0 = 1, RANK1 = 2 };

static const removal REMOVALS[] = {
    /* grads_ready: offer -> arrive */
    {"arrive", NODE, SLOW_CALLER, RANK1},
    {"arrive", HIERARCHICAL, SLOW_CALLER, RANK1},
    /* between the two streams */
    {"wait encoded",
     {.name = "exchange, int8", .world = 2, .ranks_per_node = 1, .int8 = 1},
     SLOW_COMPUTE,
     ALL},
    {"wait encoded",
     {.name = "hierarchical, int8", .world = 4, .ranks_per_node = 2, .int8 = 1},
     SLOW_COMPUTE,
     ALL},
    {"wait offered", HIERARCHICAL, SLOW_CALLER, RANK1},
    {"wait arrived", EXCHANGE, SLOW_COMM, ALL},
    {"wait arrived", HIERARCHICAL, SLOW_COMM, ALL},
    {"wait made", HIERARCHICAL, SLOW_COMPUTE, ALL},
    {"wait freed", EXCHANGE, SLOW_COMPUTE, ALL},
    {"wait reduced", EXCHANGE, SLOW_COMPUTE, ALL},
    {"wait reduced", HIERARCHICAL, SLOW_COMPUTE, ALL},
    {"wait agreed", EXCHANGE, SLOW_COMM, ALL},
    {"wait agreed", HIERARCHICAL, SLOW_COMM, ALL},
    {"wait updated", EXCHANGE, SLOW_COMPUTE, ALL},
    {"wait updated", HIERARCHICAL, SLOW_COMPUTE, ALL},
    /* updated: publish -> all_gather */
    {"await", NODE, SLOW_COMPUTE, RANK1},
    {"await", SHARED, SLOW_COMPUTE, RANK1},
    {"await", HIERARCHICAL, SLOW_COMM, RANK1},
    /* to the caller */
    {"wait_param gathered", NODE, SLOW_COMPUTE, ALL},
    {"wait_param gathered", EXCHANGE, SLOW_COMM, ALL},
    {"wait_param gathered", HIERARCHICAL, SLOW_COMM, ALL},
    {"wait_grad gathered",
     {.name = "node", .world = 2, .no_overlap = 1, .grads_first = 1},
     SLOW_COMPUTE,
     ALL},
    {"wait_grad gathered",
     {.name = "node, one pass", .world = 2, .one_pass = 1, .grads_first = 1},
     SLOW_COMPUTE,
     ALL},
    {"wait_grad gathered",
     {.name = "exchange", .world = 2, .ranks_per_node = 1, .no_overlap = 1, .grads_first = 1},
     SLOW_COMPUTE,
     ALL},
    {"sync finished", NODE, SLOW_COMPUTE, ALL},
    {"sync finished", EXCHANGE, SLOW_COMM, ALL},
    {"sync agreed", NODE, SLOW_COMPUTE, ALL},
    {"sync agreed", EXCHANGE, SLOW_COMM, ALL},
    {"sync reduced",
     {.name = "masters", .world = 2, .ranks_per_node = 1, .bf16 = 1, .broadcast = 1},
     SLOW_COMPUTE,
     ALL},
    {"sync reduced", EXCHANGE, SLOW_COMPUTE, ALL}, /* check_replicas */
    /* the lane's own */
    {"lane flag", NODE, SLOW_COMPUTE, RANK1},
    {"lane message", EXCHANGE, SLOW_COMM, RANK1},
    {"lane message", HIERARCHICAL, SLOW_COMM, RANK1},
    /* messages */
    {"messages its gradients", EXCHANGE, SLOW_COMM, RANK1},
    {"messages its partial sums", HIERARCHICAL, SLOW_COMM, RANK1},
    {"messages its new parameters", EXCHANGE, SLOW_COMM, RANK1},
    {"messages its new parameters", HIERARCHICAL, SLOW_COMM, RANK1},
    {"messages the root's parameters",
     {.name = "exchange", .world = 3, .ranks_per_node = 1, .broadcast = 1},
     SLOW_BROADCAST,
     RANK0},
    {"messages the parameters to be taken",
     {.name = "exchange", .world = 3, .ranks_per_node = 1, .broadcast = 1},
     SLOW_BROADCAST,
     RANK1},
    {"barrier 1",
     {.name = "node", .world = 2, .private_params = 1, .broadcast = 1},
     SLOW_BROADCAST,
     RANK0},
    {"barrier 2",
     {.name = "node", .world = 2, .private_params = 1, .broadcast = 1},
     SLOW_BROADCAST,
     RANK1},
    /* inside a device */
    {"pool flag", {.name = "2 threads", .world = 2, .threads = 2}, 0, 0},
};

enum { REMOVAL_COUNT = sizeof REMOVALS / sizeof *REMOVALS };

/* In a process of its own: it may well hang or crash. */
static int run_one(int number, int32_t times) {
  const removal *const at = &REMOVALS[number];
  alarm(!times ? 100 : times == 1 ? 10 : 30); /* most take less than 1 second, but for what hangs */
  hooks = (hooks_plan){.removed = times ? at->wait : "none",
                       .slow = at->slow,
                       .slow_ranks = at->slow_ranks,
                       .times = times ? times : 1};
  compare(&at->what);
  return times && !atomic_load(&hooks_removals) ? 3 : 0;
}

static const char *verdict_of(int status) {
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? "it hangs" : "it crashes";
  switch (WEXITSTATUS(status)) {
    case 0:
      return "NOT FOUND";
    case 1:
      return "a wrong result";
    case 3:
      return "NEVER CALLED";
    case 66:
      return "ThreadSanitizer";
    default:
      return "a sanitizer, or abort";
  }
}

static int run_child(int number, int32_t times) {
  char number_text[16], times_text[16];
  int status;
  snprintf(number_text, sizeof number_text, "%d", number);
  snprintf(times_text, sizeof times_text, "%d", times);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    if (times) dup2(open("/dev/null", O_WRONLY), 2);
    execl("/proc/self/exe", "test_handover", "removal", number_text, times_text, (char *)NULL);
    _exit(4);
  }
  while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
  return status;
}

static int is_found(int status) {
  return WIFSIGNALED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 3);
}

/* Where the machine is busy elsewhere, what is waited for has come before anyone needs it: it comes
 * later then. */
static int look_for(int number) {
  static const int32_t TIMES[] = {1, 8, 32};
  int status = 0;
  for (size_t i = 0; i < sizeof TIMES / sizeof *TIMES && !is_found(status); ++i)
    status = run_child(number, TIMES[i]);
  return status;
}

static int first_removal;

static void every_wait_is_needed(void) {
  int missed = 0;
  for (int i = first_removal; i < REMOVAL_COUNT; i += 4) {
    const removal *const at = &REMOVALS[i];
    CHECK_EQ(run_child(i, 0), 0);
    const int status = look_for(i);
    missed += !is_found(status);
    printf("  %2d  %-35s %-15s %s\n", i, at->wait, at->what.name, verdict_of(status));
    fflush(stdout);
  }
  CHECK_EQ(missed, 0);
}

int main(int argc, char **argv) {
  if (argc > 2 && !strcmp(argv[1], "removal"))
    return run_one(atoi(argv[2]), argc > 3 ? atoi(argv[3]) : 1);
  if (argc > 2 && !strcmp(argv[1], "removals")) {
    first_removal = atoi(argv[2]);
    RUN(every_wait_is_needed);
  } else if (argc > 2 && !strcmp(argv[1], "delays")) {
    delayed_path = argv[2];
    RUN(late_hand_overs_change_nothing);
  } else {
    fprintf(stderr, "usage: test_handover delays PATH | removals 0..3 | removal N TIMES\n");
    return 2;
  }
  return check_summary();
}
