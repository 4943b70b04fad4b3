// sanitizers: address undefined thread
// quarters: 2
// cost: 3
// args: memory
// args: messages
/* The suite of comm_suite.h on every comm that needs no MPI: self, threads, and between threads the
 * paths that are meant for several nodes; and processes that meet through pipes. */
#include "check.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm_suite.h"

/* ---- self ---- */

static void self(void) {
  zero1_comm *comm;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  CHECK(!strcmp(zero1_comm_backend(comm), "self"));
  suite_run(comm);
  suite_abort(comm);
  zero1_comm_destroy(&comm);
  CHECK(!comm);
}

/* ---- threads ---- */

typedef struct ways {
  const char *backend;
  int32_t ranks_per_node, sharers;
  check_rank_fn fn;
} ways;

static void check_backend(int32_t rank, const zero1_comm *comm, const ways *expected) {
  CHECK_EQ(zero1_comm_rank(comm), rank);
  CHECK(!strcmp(zero1_comm_backend(comm), expected->backend));
  CHECK_EQ(zero1_comm_ranks_per_node(comm), expected->sharers);
}

static void run_suite(int32_t rank, zero1_comm *comm, void *arg) {
  check_backend(rank, comm, arg);
  suite_run(comm);
}

static void run_failures(int32_t rank, zero1_comm *comm, void *arg) {
  check_backend(rank, comm, arg);
  suite_abort(comm);
  suite_timeout(comm);
}

static void on_threads(int32_t world, int64_t workspace_bytes, ways how) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = how.ranks_per_node;
  options.workspace_bytes = workspace_bytes;
  options.timeout_seconds = 20;
  check_threads(world, &options, how.fn, &how);
}

static void node(void) {
  const int32_t worlds[] = {1, 2, 3, 4, 5, 8};
  for (size_t i = 0; i < sizeof worlds / sizeof *worlds; ++i)
    on_threads(worlds[i], 0, (ways){"threads", 0, worlds[i], run_suite});
}

/* A workspace of 1 byte: chunks of one block. 7 blocks a shard, 4 receive buffers. */
static void exchange(void) {
  const int32_t worlds[] = {2, 3, 4, 5, 8};
  for (size_t i = 0; i < sizeof worlds / sizeof *worlds; ++i)
    on_threads(worlds[i], worlds[i] != 4, (ways){"exchange", 1, 1, run_suite});
}

static void hierarchical(void) {
  on_threads(4, 0, (ways){"hierarchical", 2, 2, run_suite});
  on_threads(4, 1, (ways){"hierarchical", 2, 2, run_suite});
  on_threads(6, 1, (ways){"hierarchical", 3, 3, run_suite});
  on_threads(8, 1, (ways){"hierarchical", 2, 2, run_suite});
}

/* Nodes that are not alike: every rank is a node of its own. More than there are: one node. */
static void uneven_nodes(void) {
  on_threads(5, 0, (ways){"exchange", 2, 1, run_suite});
  on_threads(3, 0, (ways){"threads", 3, 3, run_suite});
  on_threads(3, 0, (ways){"threads", 100, 3, run_suite});
}

static void peers_that_do_not_come(void) {
  for (int32_t world = 2; world <= 4; ++world) {
    on_threads(world, 1, (ways){"threads", 0, world, run_failures});
    on_threads(world, 1, (ways){"exchange", 1, 1, run_failures});
  }
  on_threads(4, 1, (ways){"hierarchical", 2, 2, run_failures});
}

/* ---- two channels at once, each driven by a thread of its own, as their streams would ---- */

typedef struct driver {
  suite_rig rig;
  zero1__lane *lane;
} driver;

static void *drive(void *context) {
  driver *const self = context;
  check__thread_rank = self->rig.comm->rank;
  for (uint32_t epoch = 1; epoch <= 5; ++epoch) {
    suite_contribute(&self->rig, epoch);
    suite_gather(self->lane, 100, (int)epoch); /* in place of the verdict */
    suite_all_gather(&self->rig, epoch);
  }
  return NULL;
}

static void drive_two(int32_t rank, zero1_comm *comm, void *arg) {
  driver drivers[2];
  pthread_t threads[2];
  zero1__error error = {0};
  check_backend(rank, comm, arg);
  for (int i = 0; i < 2; ++i) {
    drivers[i].rig = (suite_rig){.comm = comm, .share_params = i};
    suite_open(&drivers[i].rig, &SUITE_CASES[1]);
    CHECK_STATUS(comm->ops->lane_open(comm, 20, &drivers[i].lane, &error), ZERO1_OK);
  }
  for (int i = 0; i < 2; ++i) CHECK(!pthread_create(&threads[i], NULL, drive, &drivers[i]));
  for (int i = 0; i < 2; ++i) CHECK(!pthread_join(threads[i], NULL));
  suite_meet(comm);
  for (int i = 0; i < 2; ++i) {
    comm->ops->lane_close(drivers[i].lane);
    suite_close(&drivers[i].rig);
  }
}

static void two_channels_at_once(void) {
  on_threads(3, 1, (ways){"threads", 0, 3, drive_two});
  on_threads(3, 1, (ways){"exchange", 1, 1, drive_two});
  on_threads(4, 1, (ways){"hierarchical", 2, 2, drive_two});
}

/* ---- processes that meet through the caller's own all-gather: no MPI ---- */

enum { PROCESSES = 4 };
static int hub_of_rank[PROCESSES], rank_of_hub[PROCESSES]; /* ends of socket pairs */

static void read_all(int file, void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t got = read(file, (char *)data + done, bytes - done);
    CHECK(got > 0);
    done += (size_t)got;
  }
}

static void write_all(int file, const void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t put = write(file, (const char *)data + done, bytes - done);
    CHECK(put > 0);
    done += (size_t)put;
  }
}

typedef struct place {
  int32_t rank, world;
} place;

/* Everyone to rank 0, and back. */
static int32_t gather_over_sockets(void *context, const void *in, void *out, size_t bytes) {
  const place *const at = context;
  if (at->rank) {
    write_all(hub_of_rank[at->rank], in, bytes);
    read_all(hub_of_rank[at->rank], out, (size_t)at->world * bytes);
    return 0;
  }
  memcpy(out, in, bytes);
  for (int32_t i = 1; i < at->world; ++i)
    read_all(rank_of_hub[i], (char *)out + (size_t)i * bytes, bytes);
  for (int32_t i = 1; i < at->world; ++i) write_all(rank_of_hub[i], out, (size_t)at->world * bytes);
  return 0;
}

static void be_process(int32_t rank, int32_t world) {
  place at = {rank, world};
  zero1_comm_options options;
  zero1_comm *comm;
  check__thread_rank = rank;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.timeout_seconds = 20;
  CHECK_STATUS(zero1_comm_create_node(rank, world, gather_over_sockets, &at, &options, &comm),
               ZERO1_OK);
  const ways expected = {"node", 0, world, NULL};
  check_backend(rank, comm, &expected);
  suite_run(comm);
  suite_abort(comm);
  suite_timeout(comm);
  zero1_comm_destroy(&comm);
}

static void processes(void) {
  for (int32_t world = 1; world <= PROCESSES; ++world) {
    pid_t children[PROCESSES];
    for (int32_t rank = 0; rank < world; ++rank) {
      int pair[2];
      CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
      hub_of_rank[rank] = pair[0];
      rank_of_hub[rank] = pair[1];
    }
    fflush(NULL);
    for (int32_t rank = 0; rank < world; ++rank) {
      children[rank] = fork();
      CHECK(children[rank] >= 0);
      if (children[rank]) continue;
      be_process(rank, world);
      exit(0);
    }
    for (int32_t rank = 0; rank < world; ++rank) {
      int status;
      while (waitpid(children[rank], &status, 0) < 0) CHECK(errno == EINTR);
      CHECK_EQ(status, 0);
      close(hub_of_rank[rank]);
      close(rank_of_hub[rank]);
    }
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "memory")) {
    RUN(processes); /* first: while this process has one thread */
    RUN(self);
    RUN(node);
    RUN(peers_that_do_not_come);
  } else {
    RUN(exchange);
    RUN(hierarchical);
    RUN(uneven_nodes);
    RUN(two_channels_at_once);
  }
  return check_summary();
}
