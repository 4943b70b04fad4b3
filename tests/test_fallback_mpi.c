// ranks: mpi 2 3
// devices: standin
// standin-delay: 50
// args: multiple
// args: single
// sanitizers: address undefined

/* Ranks that share a machine, with GPUs that cannot reach each other's memory: with MPI they
 * exchange messages, say so, and train to the same bits; without, they are told what is missing. */
#include <mpi.h>

#include "misuse.h"
#include "promise.h"

static int rank, world;

static zero1_comm *over_mpi(void) {
  zero1_comm_options options;
  zero1_comm *comm;
  misuse_options(0, 60, &options);
  CHECK_STATUS(zero1_comm_create_mpi(MPI_Comm_c2f(MPI_COMM_WORLD), &options, &comm), ZERO1_OK);
  CHECK(!strcmp(zero1_comm_backend(comm), "node"));
  CHECK(!strcmp(zero1_comm_note(comm), ""));
  return comm;
}

static void check_note(const zero1_comm *comm) {
  CHECK_TEXT(zero1_comm_note(comm), "GPUs exchange messages through MPI: ");
  CHECK_TEXT(zero1_comm_note(comm), "rank 0 cannot reach the memory of rank 1: CUDA device 0");
  CHECK_TEXT(zero1_comm_note(comm), "operation not supported");
}

static void they_train_to_the_same_bits_by_messages(void) {
  const promise_sample sample = promise_shuffle(31, 12);
  zero1_comm *comm = over_mpi();
  for (int32_t i = 0; i < 6; ++i) {
    const promise_case what = promise_case_of(&sample, i, world, 0);
    trainer_result mine, reference;
    trainer_run_alone(&what.train, &reference);
    trainer_run(comm, &what.train, &mine);
    check_note(comm);
    promise_check_alike(&what, &mine, &reference);
    trainer_result_free(&mine);
    trainer_result_free(&reference);
  }
  zero1_comm_destroy(&comm);
}

/* On the host they share memory as ever, and the two ways stand side by side. */
static void optimizers_of_both_ways_share_a_communicator(void) {
  zero1_optimizer *optimizers[3];
  zero1_comm *comm = over_mpi();
  for (int i = 0; i < 3; ++i) {
    zero1_config config;
    zero1_param_spec specs[MISUSE_PARAMS];
    misuse_config(&config);
    misuse_specs(specs);
    if (!i) {
      config.device = ZERO1_DEVICE_HOST;
      config.stream = ZERO1_STREAM_DEFAULT;
    }
    CHECK_STATUS(
        zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizers[i]),
        ZERO1_OK);
    if (!i) CHECK(!strcmp(zero1_comm_note(comm), ""));
  }
  check_note(comm);
  for (int round = 0; round < 3; ++round)
    for (int i = 1; i < 3; ++i) misuse_check_works(optimizers[i]);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizers[0], 0), ZERO1_OK);
  for (int i = 0; i < 3; ++i) zero1_optimizer_destroy(&optimizers[i]);
  zero1_comm_destroy(&comm);
}

/* The host takes part in every step. */
static void a_step_cannot_be_captured(void) {
  cudaStream_t stream = (cudaStream_t)device_thread_stream();
  cudaGraph_t graph;
  zero1_optimizer *optimizer;
  zero1_comm *comm = over_mpi();
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, stream), ZERO1_ERR_UNSUPPORTED);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "cannot be captured");
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphDestroy(graph));
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  zero1_comm_destroy(&comm);
}

static int32_t gather_over_mpi(void *context, const void *in, void *out, size_t bytes) {
  (void)context;
  return MPI_Allgather(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
}

static void without_mpi_every_rank_is_told(void) {
  zero1_comm_options options;
  zero1_comm *comm;
  zero1_optimizer *optimizer;
  misuse_options(0, 60, &options);
  CHECK_STATUS(zero1_comm_create_node(rank, world, gather_over_mpi, NULL, &options, &comm),
               ZERO1_OK);
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_ERR_UNSUPPORTED);
  CHECK(!optimizer);
  CHECK_TEXT(zero1_comm_last_error(comm), "rank 0 cannot reach the memory of rank 1");
  CHECK(!strcmp(zero1_comm_note(comm), ""));
  zero1_comm_destroy(&comm);
}

int main(int argc, char **argv) {
  const int single = argc > 1 && !strcmp(argv[1], "single");
  int provided;
  CHECK(!setenv("ZERO1_STANDIN_FAIL", "ipc", 1));
  device_skip_without();
  CHECK(MPI_Init_thread(&argc, &argv, single ? MPI_THREAD_SINGLE : MPI_THREAD_MULTIPLE,
                        &provided) == MPI_SUCCESS);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  RUN(they_train_to_the_same_bits_by_messages);
  RUN(optimizers_of_both_ways_share_a_communicator);
  RUN(a_step_cannot_be_captured);
  RUN(without_mpi_every_rank_is_told);
  CHECK(MPI_Finalize() == MPI_SUCCESS);
  return check_summary();
}
