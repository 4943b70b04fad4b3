// ranks: mpi 1 2 3 4 5 8
// args: multiple
// args: single
// devices: host standin cuda
// standin-ranks: 1 2 4
// cuda-ranks: 1 2 4

/* The promise of test_promise.c, its ranks being processes: over one node's shared memory, between
 * nodes of one rank, and between nodes of several. With MPI_THREAD_MULTIPLE the library sends from
 * threads of its own, with less inside the caller's calls. */
#include <mpi.h>

#include "promise.h"

enum { CASES = 12 };

/* Processes on one GPU take turns: fewer cases there. */
static int32_t cases(void) {
  return device_ranks(CASES) < CASES ? 4 : CASES;
}

static int64_t summed(int64_t value) {
  CHECK(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD) == 0);
  return value;
}

static void check_case(const promise_case *what, int64_t trainable) {
  trainer_result mine, reference;
  zero1_comm_options options;
  zero1_comm *comm;
  int64_t owned = 0;
  setenv("ZERO1_ISA", "baseline", 1);
  trainer_run_alone(&what->train, &reference);
  promise_check_clipping(what, &reference);
  if (promise_has_isa(what->isa)) setenv("ZERO1_ISA", what->isa, 1);
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->ranks_per_node;
  options.workspace_bytes = what->workspace_bytes;
  options.timeout_seconds = 60;
  CHECK_STATUS(zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm), ZERO1_OK);
  trainer_run(comm, &what->train, &mine);
  promise_check_alike(what, &mine, &reference);
  for (int64_t e = 0; e < mine.numel; ++e) owned += mine.owned[e];
  CHECK_EQ(summed(owned), trainable);
  zero1_comm_destroy(&comm);
  trainer_result_free(&mine);
  trainer_result_free(&reference);
}

static void check_sample(uint64_t seed, int32_t ranks_per_node) {
  const promise_sample sample = promise_shuffle(seed, CASES);
  int world_size;
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  for (int32_t i = 0; i < cases(); ++i) {
    const promise_case what = promise_case_of(&sample, i, world_size, ranks_per_node);
    int64_t trainable = 0;
    for (int32_t p = 0; p < what.train.param_count; ++p)
      if (!(what.train.params[p].flags & ZERO1_PARAM_FROZEN))
        trainable += what.train.params[p].numel;
    check_case(&what, trainable);
  }
}

static void processes_of_one_node_give_the_same_bits(void) {
  check_sample(11, 0);
}

static void nodes_of_one_rank_give_the_same_bits(void) {
  check_sample(12, 1);
}

static void nodes_of_two_ranks_give_the_same_bits(void) {
  check_sample(13, 2);
}

int main(int argc, char **argv) {
  const int wanted =
      argc > 1 && !strcmp(argv[1], "single") ? MPI_THREAD_SINGLE : MPI_THREAD_MULTIPLE;
  int provided;
  device_skip_without();
  CHECK(MPI_Init_thread(&argc, &argv, wanted, &provided) == MPI_SUCCESS);
  RUN(processes_of_one_node_give_the_same_bits);
  RUN(nodes_of_one_rank_give_the_same_bits);
  RUN(nodes_of_two_ranks_give_the_same_bits);
  CHECK(MPI_Finalize() == MPI_SUCCESS);
  return check_summary();
}
