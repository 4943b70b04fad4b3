// devices: standin
// sanitizers: thread
// args: delays
// args: removals 0
// args: removals 1
// args: removals 2
// args: removals 3
// timeout: 300
// quarters: 1
// cost: 12
// wrap: zero1__cuda_post_host zero1__cuda_await_host zero1__node_barrier
// wrap: cudaStreamWaitEvent cudaStreamSynchronize
/* The hand-overs of the schedule on a device (the tables of schedule.h, offload.h and of the
 * comms), over the stand-in runtime, which is no GPU: with random delays of every task, the results
 * are those of one rank by itself; with any one of them taken out they are not, or ThreadSanitizer
 * sees it. As test_handover.c does it for the host.
 *
 *   test_handover_device delays          random delays
 *   test_handover_device removals K      takes one out after the other: K, K + 4, K + 8 ... of the
 *                                        table below, each in a process of its own; prints how each
 *                                        was found
 *   test_handover_device removal N TIMES one of them, here, with delays TIMES as long; 0: left in
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handover_device_train.h"

/* ---- delays ---- */

static const job DELAYED[] = {
    {.name = "alone", .world = 1, .way = NODE},
    {.name = "node", .world = 2, .way = NODE, .ask = 1},
    {.name = "node", .world = 3, .way = NODE, .bf16 = 1, .grads_first = 1},
    {.name = "node", .world = 3, .way = NODE, .one_pass = 1, .rewrites = 1},
    {.name = "node", .world = 2, .way = NODE, .no_overlap = 1, .all = 1, .split = 1},
    {.name = "node, graph", .world = 2, .way = NODE, .graph = 1},
    {.name = "offload", .world = 1, .way = NODE, .offload = 1},
    {.name = "offload", .world = 2, .way = NODE, .offload = 0.5, .bf16 = 1},
    {.name = "exchange", .world = 3, .way = EXCHANGE, .grads_first = 1},
    {.name = "exchange", .world = 2, .way = EXCHANGE, .bf16 = 1, .no_overlap = 1, .split = 1},
    {.name = "exchange", .world = 2, .way = EXCHANGE, .inline_calls = 1, .all = 1},
    {.name = "exchange, offload", .world = 2, .way = EXCHANGE, .offload = 0.5, .ask = 1},
    {.name = "nccl", .world = 3, .way = NCCL, .culprit = 7},
    {.name = "nccl, ordered", .world = 2, .way = ORDERED, .bf16 = 1, .grads_first = 1},
    {.name = "nccl, graph", .world = 2, .way = NCCL, .graph = 1},
};

static int is_missing(const job *what) {
  unsigned char id[128];
  return (what->way == NCCL || what->way == ORDERED) &&
         zero1_nccl_unique_id(id, sizeof id) == ZERO1_ERR_UNSUPPORTED;
}

static void late_tasks_change_nothing(void) {
  for (int seed = 1; seed <= 3; ++seed) {
    char text[8];
    snprintf(text, sizeof text, "%d", seed);
    setenv("ZERO1_STANDIN_SEED", text, 1);
    setenv("ZERO1_STANDIN_DELAY_US", seed == 1 ? "200" : "400", 1);
    standin_reload();
    for (size_t i = 0; i < sizeof DELAYED / sizeof *DELAYED; ++i)
      if (!is_missing(&DELAYED[i])) check_job(&DELAYED[i]);
  }
}

/* ---- what is taken out ---- */

typedef struct removal {
  const char *removed; /* as handover_device_hooks.h names it */
  job what;
  const char *slow;
  int slow_ranks;
} removal;

enum { ALL = 7, RANK0 = 1, RANK1 = 2 };

#define ALONE .name = "alone", .world = 1, .way = NODE
#define ON_NODE .name = "node", .world = 2, .way = NODE
#define OFFLOAD .name = "offload", .world = 1, .way = NODE, .offload = 1
#define EXCHANGES .name = "exchange", .world = 2, .way = EXCHANGE
#define INLINE .name = "exchange, inline", .world = 2, .way = EXCHANGE, .inline_calls = 1
#define NATIVE .name = "nccl", .world = 2, .way = NCCL
#define IN_ORDER .name = "nccl, ordered", .world = 2, .way = ORDERED
#define GRAPH .name = "graph", .world = 2, .way = NODE, .graph = 1
#define CULPRIT .name = "nccl, culprit", .world = 2, .way = NCCL, .ask = 1
#define BROADCAST .bf16 = 1, .begins = 1
#define GRADS_FIRST .grads_first = 1, .no_overlap = 1
/* Peers wait in vain, and for no longer than this. */
#define SOON .timeout_seconds = 2

static const removal REMOVALS[] = {
    /* ready: the caller -> both; at the begin of a step, its buckets, its end */
    {"wait open compute ready *", {GRAPH, SOON}, NULL, 0},
    {"wait open compute ready *", {NATIVE, .graph = 1, SOON}, NULL, 0},
    {"wait grad_ready compute ready *", {ALONE}, "caller? write", ALL},
    {"wait grad_ready compute ready caller1", {ALONE}, "caller1 write", ALL},
    {"wait grad_ready compute ready *", {ON_NODE}, "caller? write", RANK1},
    {"wait grad_ready comm ready *", {EXCHANGES}, "caller? write", RANK1},
    {"wait grad_ready comm ready *", {INLINE}, "caller? write", RANK1},
    {"wait grad_ready comm ready *", {NATIVE}, "caller? write", RANK1},
    {"wait grad_ready compute ready *", {CULPRIT, .culprit = 6}, "caller0 write", ALL},
    {"wait step compute ready *", {ON_NODE}, "caller? read", ALL},
    {"wait step compute ready *", {EXCHANGES}, "caller? read", ALL},
    {"wait step compute ready *", {NATIVE}, "caller? read", ALL},
    /* grads_ready, by bucket */
    {"await grads_ready 0", {ON_NODE}, "caller? write", RANK1},
    {"await grads_ready 2", {ON_NODE}, "caller0 write", RANK0},
    {"await grads_ready 3", {ON_NODE}, "caller0 write", RANK1},
    {"post grads_ready 1", {ON_NODE, SOON}, NULL, 0},
    /* the ring's */
    {"wait grad_ready compute arrived *", {EXCHANGES}, "comm call", ALL},
    {"wait grad_ready compute arrived *", {NATIVE}, "comm time", ALL},
    {"wait grad_ready compute arrived *", {IN_ORDER}, "comm time", ALL},
    {"wait grad_ready comm freed *", {EXCHANGES}, "compute reduce", ALL},
    {"wait grad_ready comm freed *", {IN_ORDER}, "compute reduce", ALL},
    {"wait grad_ready comm made *", {CULPRIT, .culprit = 7}, "compute partial", ALL},
    /* the verdict */
    {"wait open comm reduced", {NATIVE, .race = 1}, "compute open", ALL},
    {"wait step comm reduced", {EXCHANGES}, "compute reduce", ALL},
    {"wait step comm reduced", {INLINE}, "compute reduce", ALL},
    {"wait step comm reduced", {NATIVE}, "compute reduce", ALL},
    {"mail", {ON_NODE, SOON}, "compute mail", RANK1},
    {"wait step compute agreed", {EXCHANGES}, "comm call", ALL},
    {"wait step compute agreed", {NATIVE}, "comm decide", ALL},
    {"wait step down agreed", {OFFLOAD}, "compute decide", ALL},
    {"wait step down agreed", {EXCHANGES, .offload = 1}, "comm call", ALL},
    {"tell", {ON_NODE, .ask = 1, SOON}, NULL, 0},
    /* offloaded chunks */
    {"wait step down freed *", {OFFLOAD}, "work call", ALL},
    {"wait step work down *", {OFFLOAD}, "down copy", ALL},
    {"wait step up worked *", {OFFLOAD}, "work call", ALL},
    {"wait step compute done *", {OFFLOAD}, "up copy", ALL},
    /* updated, by bucket */
    {"await updated 0", {ON_NODE}, "compute update", RANK1},
    {"await updated 2", {ON_NODE}, "compute update", RANK1},
    {"await updated 3", {ON_NODE}, "compute update", RANK1},
    {"post updated 1", {ON_NODE, SOON}, NULL, 0},
    {"wait step comm updated 0", {EXCHANGES}, "compute update", ALL},
    {"wait step comm updated 3", {EXCHANGES}, "compute update", ALL},
    {"wait step comm updated *", {INLINE}, "compute update", ALL},
    {"wait step comm updated 0", {NATIVE}, "compute update", ALL},
    /* copied */
    {"await copied", {ON_NODE, .rewrites = 1}, "compute pull", RANK1},
    {"post copied", {ON_NODE, SOON}, NULL, 0},
    /* gathered, by bucket */
    {"wait wait_param caller? gathered 0", {ON_NODE}, "compute pull", ALL},
    {"wait wait_param caller? gathered 3", {ON_NODE}, "compute pull", ALL},
    {"wait wait_param caller? gathered 6", {ALONE}, "compute update", ALL},
    {"wait wait_param caller? gathered 0", {EXCHANGES}, "comm call", ALL},
    {"wait wait_param caller? gathered 3", {EXCHANGES}, "comm call", ALL},
    {"wait wait_param caller? gathered 2", {NATIVE}, "comm time", ALL},
    {"wait wait_grad caller? gathered *", {ON_NODE, GRADS_FIRST}, "compute reduce", RANK1},
    {"wait wait_grad caller? gathered *",
     {ON_NODE, .one_pass = 1, .grads_first = 1},
     "compute update",
     RANK1},
    {"wait wait_grad caller? gathered *", {EXCHANGES, GRADS_FIRST}, "comm call", ALL},
    {"wait wait_grad caller? gathered *", {NATIVE, GRADS_FIRST}, "comm time", ALL},
    /* finished */
    {"wait wait_params caller? finished", {ON_NODE, .all = 1}, "compute pull", ALL},
    {"wait wait_params caller? finished", {EXCHANGES, .all = 1}, "comm call", ALL},
    {"wait wait_params caller? finished", {NATIVE, .all = 1}, "comm time", ALL},
    {"sync open finished", {EXCHANGES}, "comm call", ALL},
    {"sync info finished", {EXCHANGES, .ask = 1}, "comm call", ALL},
    {"sync check_replicas finished", {EXCHANGES, .replicas = 1}, "comm call", RANK1},
    {"wait replay caller? finished", {GRAPH}, "compute update", ALL},
    {"wait replay caller? uncaptured", {GRAPH}, "compute update", ALL},
    {"wait replay caller? uncaptured", {NATIVE, .graph = 1}, "compute update", ALL},
    /* between a device and host calls */
    {"await_host", {EXCHANGES}, "comm call", ALL},
    {"post_host", {EXCHANGES, SOON}, NULL, 0},
    {"order of records", {EXCHANGES}, "caller1 write", ALL},
    /* calls between steps */
    {"sync sync_params caller0", {ON_NODE, BROADCAST}, "caller? write", RANK0},
    {"sync sync_params caller0", {EXCHANGES, BROADCAST}, "caller? write", RANK0},
    {"sync sync_params reduced", {ON_NODE, BROADCAST}, "compute master", ALL},
    {"sync params_changed caller0", {ON_NODE, .bf16 = 1, .rewrites = 1}, "caller0 write", ALL},
    {"barrier 1", {ON_NODE, .broadcasts = 1}, "root", RANK0},
    {"barrier 2", {ON_NODE, .broadcasts = 1}, "* transfer", RANK1},
    {"transfer", {EXCHANGES}, "* transfer", ALL},
    {"sync check_replicas reduced", {ON_NODE, .replicas = 1}, "compute hash", ALL},
};

enum { REMOVAL_COUNT = sizeof REMOVALS / sizeof *REMOVALS };

/* In a process of its own: it may well hang or crash. What is left in has all the time it needs. */
static int run_one(int number, int32_t times) {
  const removal *const at = &REMOVALS[number];
  job what = at->what;
  int32_t removals = 0;
  if (!times) what.timeout_seconds = 0;
  alarm(!times ? 100 : what.timeout_seconds > 0 ? (unsigned)(3 * what.timeout_seconds) : 30);
  hooks = (hooks_plan){.removed = times ? at->removed : NULL,
                       .slow = at->slow,
                       .slow_ranks = at->slow_ranks,
                       .times = times ? times : 1};
  check_job(&what);
  for (int rank = 0; rank < RANKS; ++rank) removals += hooked_devices[rank].removals;
  return times && !removals ? 3 : 0;
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

static pid_t start_child(int number, int32_t times) {
  char number_text[16], times_text[16];
  snprintf(number_text, sizeof number_text, "%d", number);
  snprintf(times_text, sizeof times_text, "%d", times);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    if (times) dup2(open("/dev/null", O_WRONLY), 2);
    execl("/proc/self/exe", "test_handover_device", "removal", number_text, times_text,
          (char *)NULL);
    _exit(4);
  }
  return child;
}

static int end_child(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
  return status;
}

static int is_found(int status) {
  return WIFSIGNALED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 3);
}

static int first_removal;

static int can_be_seen(const removal *at) {
#if defined(__SANITIZE_THREAD__)
  return !is_missing(&at->what);
#else
  return !is_missing(&at->what) && !at->what.race;
#endif
}

/* Where the machine is busy elsewhere, what is waited for has come before anyone needs it: it comes
 * later then. */
static int look_for(int number, pid_t child) {
  static const int32_t TIMES[] = {8, 32};
  int status = end_child(child);
  for (size_t i = 0; i < sizeof TIMES / sizeof *TIMES && !is_found(status); ++i)
    status = end_child(start_child(number, TIMES[i]));
  return status;
}

/* They mostly sleep: the one that is to go well and the one that is not run at the same time. */
static void every_hand_over_is_needed(void) {
  int missed = 0;
  for (int i = first_removal; i < REMOVAL_COUNT; i += 4) {
    const removal *const at = &REMOVALS[i];
    if (!can_be_seen(at)) continue;
    const pid_t whole = start_child(i, 0), without = start_child(i, 1);
    CHECK_EQ(end_child(whole), 0);
    const int status = look_for(i, without);
    missed += !is_found(status);
    printf("  %2d  %-40s %-18s %s\n", i, at->removed, at->what.name, verdict_of(status));
    fflush(stdout);
  }
  CHECK_EQ(missed, 0);
}

int main(int argc, char **argv) {
  if (argc > 2 && !strcmp(argv[1], "removal"))
    return run_one(atoi(argv[2]), argc > 3 ? atoi(argv[3]) : 1);
  if (argc > 2 && !strcmp(argv[1], "removals")) {
    first_removal = atoi(argv[2]);
    RUN(every_hand_over_is_needed);
  } else if (argc > 1 && !strcmp(argv[1], "delays")) {
    RUN(late_tasks_change_nothing);
  } else {
    fprintf(stderr, "usage: test_handover_device delays | removals 0..3 | removal N TIMES\n");
    return 2;
  }
  return check_summary();
}
