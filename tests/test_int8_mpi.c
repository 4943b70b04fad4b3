// ranks: mpi 2 4

/* test_int8.c, its ranks being processes: of one node, of nodes of one rank, and of two. */
#include <mpi.h>

#include "int8_case.h"

static void check_nodes(int32_t ranks_per_node) {
  static model expected;
  int world_size;
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  const int hierarchical = ranks_per_node == 2 && world_size > 2;
  for (int32_t i = 0; i < 6; ++i) {
    int8_case what =
        int8_case_of(i, world_size, ranks_per_node, 0, hierarchical ? ranks_per_node : world_size);
    zero1_comm_options options;
    zero1_comm *comm;
    int8_expect(&what, &expected);
    CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
    options.ranks_per_node = ranks_per_node;
    CHECK_STATUS(zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm), ZERO1_OK);
    int8_train_rank(zero1_comm_rank(comm), comm, &what);
    zero1_comm_destroy(&comm);
  }
}

static void processes_of_one_node_come_to_the_definitions_bits(void) {
  check_nodes(0);
}

static void nodes_of_one_rank_come_to_the_same_bits(void) {
  check_nodes(1);
}

static void nodes_of_two_ranks_come_to_the_same_bits(void) {
  check_nodes(2);
}

int main(int argc, char **argv) {
  int provided;
  CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided) == MPI_SUCCESS);
  RUN(processes_of_one_node_come_to_the_definitions_bits);
  RUN(nodes_of_one_rank_come_to_the_same_bits);
  RUN(nodes_of_two_ranks_come_to_the_same_bits);
  CHECK(MPI_Finalize() == MPI_SUCCESS);
  return check_summary();
}
