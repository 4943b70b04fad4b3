// ranks: mpi 2 3
// args: multiple
// args: single
// sanitizers: address undefined
// timeout: 200

/* Checkpoints of processes under mpirun: on one machine through shared memory, and each rank as a
 * machine of its own, with the messages of training beside the writer, whatever thread support MPI
 * has. Saved in each way, loaded
 * with another layout. */
#include <mpi.h>

#include "checkpoint_train.h"

enum { FIRST = 4, LATER = 7, STEPS = 9 };

static int32_t rank, world;

/* Rank 0's text for all of them. */
static void share_path(char *path, size_t bytes) {
  if (!rank) folder_begin(path, bytes);
  CHECK(!MPI_Bcast(path, (int)bytes, MPI_CHAR, 0, MPI_COMM_WORLD));
}

static void run_on(int32_t ranks_per_node, const half *what) {
  zero1_comm *comm;
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = ranks_per_node;
  CHECK_STATUS(zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm), ZERO1_OK);
  run_half(rank, comm, (void *)(uintptr_t)what);
  zero1_comm_destroy(&comm);
}

static void there(int32_t from_node, int32_t to_node, int32_t axis, int way) {
  char root[256];
  trainer_result reference, results[8];
  const promise_sample sample = promise_shuffle(21, 24);
  promise_case what = promise_case_of(&sample, axis, world, from_node);
  what.train.steps = STEPS;
  what.train.root = 0;
  trainer_run_alone(&what.train, &reference);
  share_path(root, sizeof root);
  const half first = {
      .what = &what, .end = LATER, .save = root, .save_at = FIRST, .way = way, .results = results};
  run_on(from_node, &first);
  trainer_result_free(&results[rank]);
  what.train.bucket_numel = 900;
  what.train.share_params = axis % 2;
  const half second = {
      .what = &what, .begin = FIRST, .end = STEPS, .load = root, .results = results};
  run_on(to_node, &second);
  for (int32_t step = FIRST; step < STEPS; ++step)
    CHECK(results[rank].params_hash[step] == reference.params_hash[step]);
  trainer_result_free(&results[rank]);
  trainer_result_free(&reference);
  CHECK(!MPI_Barrier(MPI_COMM_WORLD));
  if (!rank) folder_end(root);
}

static void every_way_between_processes_goes_on_where_it_was(void) {
  setenv("ZERO1_ISA", "baseline", 1);
  for (int32_t i = 0; i < 2 * SAVE_WAYS; ++i) there(i % 2, i / 2 % 2, i, i % SAVE_WAYS);
}

int main(int argc, char **argv) {
  int got;
  const int multiple = argc > 1 && !strcmp(argv[1], "multiple");
  CHECK(!MPI_Init_thread(&argc, &argv, multiple ? MPI_THREAD_MULTIPLE : MPI_THREAD_SINGLE, &got));
  CHECK(!MPI_Comm_rank(MPI_COMM_WORLD, &rank) && !MPI_Comm_size(MPI_COMM_WORLD, &world));
  RUN(every_way_between_processes_goes_on_where_it_was);
  CHECK(!MPI_Finalize());
  return check_summary();
}
