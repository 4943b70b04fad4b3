// ranks: mpi 1 2 3 4
// sanitizers: address undefined
/* The suite of comm_suite.h over processes that mpirun has started: over MPI, with every number of
 * ranks per node, and over the callback that needs no MPI after it has returned. */
#include "check.h"

#include <mpi.h>

#include "comm_suite.h"

static int world;

static zero1_comm_options options_of(int32_t ranks_per_node, int64_t workspace_bytes) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = ranks_per_node;
  options.workspace_bytes = workspace_bytes;
  options.timeout_seconds = 20;
  return options;
}

static zero1_comm *over_mpi(int32_t ranks_per_node, int64_t workspace_bytes) {
  zero1_comm_options options = options_of(ranks_per_node, workspace_bytes);
  char text[400];
  zero1_comm *comm;
  int rank;
  options.error_text = text;
  options.error_bytes = sizeof text;
  const zero1_status status =
      zero1_comm_create_mpi((int32_t)MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm);
  if (status) fprintf(stderr, "%s\n", text);
  CHECK_STATUS(status, ZERO1_OK);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  CHECK_EQ(zero1_comm_rank(comm), rank);
  CHECK_EQ(zero1_comm_world_size(comm), world);
  return comm;
}

static void is_backend(const zero1_comm *comm, const char *backend, int32_t ranks_per_node) {
  CHECK(!strcmp(zero1_comm_backend(comm), backend));
  CHECK_EQ(zero1_comm_ranks_per_node(comm), ranks_per_node);
}

/* Peers that do not come are tried where nothing but shared memory is between them. */
static void one_node(void) {
  zero1_comm *comm = over_mpi(0, 0);
  is_backend(comm, "node", world);
  suite_run(comm);
  suite_abort(comm);
  suite_timeout(comm);
  zero1_comm_destroy(&comm);
}

static void a_node_per_rank(void) {
  for (int64_t workspace = world == 2 ? 0 : 1; workspace <= 1; ++workspace) {
    zero1_comm *comm = over_mpi(1, workspace);
    is_backend(comm, world > 1 ? "exchange" : "node", 1);
    suite_run(comm);
    zero1_comm_destroy(&comm);
  }
}

/* 4 ranks: 2 nodes of 2. 2 ranks: one node. 3 ranks: 2 does not divide them. */
static void two_ranks_per_node(void) {
  const char *const backends[] = {"", "node", "node", "exchange", "hierarchical"};
  const int32_t sharers[] = {0, 1, 2, 1, 2};
  for (int64_t workspace = world == 2 ? 0 : 1; workspace <= 1; ++workspace) {
    zero1_comm *comm = over_mpi(2, workspace);
    is_backend(comm, backends[world], sharers[world]);
    suite_run(comm);
    zero1_comm_destroy(&comm);
  }
}

static int32_t gather_over_mpi(void *context, const void *in, void *out, size_t bytes) {
  return MPI_Allgather(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, *(MPI_Comm *)context);
}

static void through_a_callback(void) {
  const zero1_comm_options options = options_of(0, 0);
  MPI_Comm mpi;
  zero1_comm *comm;
  int rank;
  CHECK(!MPI_Comm_dup(MPI_COMM_WORLD, &mpi));
  MPI_Comm_rank(mpi, &rank);
  CHECK_STATUS(zero1_comm_create_node(rank, world, gather_over_mpi, &mpi, &options, &comm),
               ZERO1_OK);
  MPI_Comm_free(&mpi); /* it has served */
  is_backend(comm, "node", world);
  suite_run(comm);
  zero1_comm_destroy(&comm);
}

/* A part of the ranks, in another order; two comms at a time. */
static void part_of_the_ranks(void) {
  int rank;
  MPI_Comm half;
  zero1_comm *comm, *all = over_mpi(1, 1);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  CHECK(!MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half));
  const zero1_comm_options options = options_of(1, 1);
  CHECK_STATUS(zero1_comm_create_mpi((int32_t)MPI_Comm_c2f(half), &options, &comm), ZERO1_OK);
  MPI_Comm_free(&half); /* the library has a duplicate */
  CHECK_EQ(zero1_comm_world_size(comm), (world + 1 - rank % 2) / 2);
  suite_lanes(comm);
  suite_lanes(all);
  suite_two_channels(comm);
  suite_two_channels(all);
  zero1_comm_destroy(&all);
  zero1_comm_destroy(&comm);
}

int main(int argc, char **argv) {
  int level;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  RUN(one_node);
  RUN(a_node_per_rank);
  RUN(two_ranks_per_node);
  RUN(through_a_callback);
  RUN(part_of_the_ranks);
  MPI_Finalize();
  return check_summary();
}
