// ranks: mpi 1 3
// sanitizers: address undefined
/* What a caller can get wrong with MPI: before and after its life, with what is no communicator,
 * and on one rank alone of several. */
#include <mpi.h>

#include "misuse.h"

static int world_rank, world_size;

static zero1_status create_comm(int32_t mpi_comm_f, int32_t ranks_per_node, char text[300],
                                zero1_comm **comm) {
  zero1_comm_options options;
  misuse_options(ranks_per_node, 60, &options);
  options.error_text = text;
  options.error_bytes = 300;
  *comm = (zero1_comm *)(void *)text; /* to be cleared */
  const zero1_status status = zero1_comm_create_mpi(mpi_comm_f, &options, comm);
  CHECK(!*comm == (status != ZERO1_OK));
  return status;
}

static void without_mpi(const char *what) {
  char text[300];
  zero1_comm *comm;
  CHECK_STATUS(create_comm(0, 0, text, &comm), ZERO1_ERR_STATE);
  CHECK_TEXT(text, what);
}

static void mpi_must_be_initialised(void) {
  without_mpi("not initialised");
}

static void a_number_that_is_no_communicator_is_named(void) {
  char text[300];
  zero1_comm *comm;
  const int32_t null = MPI_Comm_c2f(MPI_COMM_NULL);
  CHECK_STATUS(create_comm(123456, 0, text, &comm), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "123456");
  CHECK_STATUS(create_comm(-77, 0, text, &comm), ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "-77");
  CHECK_STATUS(create_comm(null, 0, text, &comm), ZERO1_ERR_INVALID);
}

/* Wrong on the last rank alone, or on all. */
static void options_are_checked_together(void) {
  const int32_t world = MPI_Comm_c2f(MPI_COMM_WORLD);
  for (int alone = 0; alone < 2; ++alone) {
    const int wrong = !alone || world_rank == world_size - 1;
    const int culprit = alone ? world_size - 1 : 0;
    char text[300], peer[20];
    zero1_comm *comm;
    zero1_comm_options options;
    snprintf(peer, sizeof peer, "rank %d: ", culprit);
    CHECK_STATUS(create_comm(world, wrong ? -3 : 0, text, &comm), ZERO1_ERR_INVALID);
    CHECK_TEXT(text, "ranks_per_node is -3");
    if (world_rank != culprit) CHECK_TEXT(text, peer);
    misuse_options(0, 60, &options);
    options.error_text = text;
    options.error_bytes = sizeof text;
    CHECK_STATUS(zero1_comm_create_mpi(world, &options, wrong ? NULL : &comm), ZERO1_ERR_INVALID);
    CHECK_TEXT(text, "comm is NULL");
    options.size = wrong ? 3 : sizeof options;
    CHECK_STATUS(zero1_comm_create_mpi(world, &options, &comm), ZERO1_ERR_VERSION);
    CHECK(!comm);
  }
}

static void options_that_differ_are_named(void) {
  const int32_t world = MPI_Comm_c2f(MPI_COMM_WORLD), last = world_rank == world_size - 1;
  char text[300];
  zero1_comm *comm;
  zero1_comm_options options;
  if (world_size == 1) return; /* nobody to differ from */
  misuse_options(0, 60, &options);
  options.error_text = text;
  options.error_bytes = sizeof text;
  options.ranks_per_node = last;
  CHECK_STATUS(zero1_comm_create_mpi(world, &options, &comm), ZERO1_ERR_MISMATCH);
  CHECK_TEXT(text, "options.ranks_per_node is 0 on rank 0 and 1 on rank");
  options.ranks_per_node = 1;
  options.workspace_bytes = last ? 4096 : 8192;
  CHECK_STATUS(zero1_comm_create_mpi(world, &options, &comm), ZERO1_ERR_MISMATCH);
  CHECK_TEXT(text, "options.workspace_bytes is 8192 on rank 0 and 4096 on rank");
}

static int32_t gather(void *context, const void *in, void *out, size_t bytes) {
  (void)context;
  return MPI_Allgather(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
}

static int32_t gather_elsewhere(void *context, const void *in, void *out, size_t bytes) {
  int *calls = context;
  const int32_t result = gather(NULL, in, out, bytes);
  /* The first that is long is who the ranks are: that of the last rank is of another machine. */
  if (bytes > 40 && !(*calls)++) ((char *)out)[(size_t)(world_size - 1) * bytes] ^= 1;
  return result;
}

static void the_node_checks_who_is_who(void) {
  char text[300];
  zero1_comm_options options;
  zero1_comm *comm;
  misuse_options(0, 60, &options);
  options.error_text = text;
  options.error_bytes = sizeof text;
  const int32_t claimed = world_rank == world_size - 1 ? world_size + 5 : world_rank;
  CHECK_STATUS(zero1_comm_create_node(claimed, world_size, gather, NULL, &options, &comm),
               ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "rank is ");
  CHECK_STATUS(zero1_comm_create_node(world_rank, world_size, gather, NULL, &options,
                                      world_rank ? &comm : NULL),
               ZERO1_ERR_INVALID);
  CHECK_TEXT(text, "comm is NULL");
  options.ranks_per_node = 1;
  CHECK_STATUS(zero1_comm_create_node(world_rank, world_size, gather, NULL, &options, &comm),
               world_size > 1 ? ZERO1_ERR_UNSUPPORTED : ZERO1_OK);
  if (world_size > 1) CHECK_TEXT(text, "options.ranks_per_node is 1");
  zero1_comm_destroy(&comm);
  options.ranks_per_node = 0;
  if (world_size > 1) {
    int calls = 0;
    CHECK_STATUS(
        zero1_comm_create_node(world_rank, world_size, gather_elsewhere, &calls, &options, &comm),
        world_rank == world_size - 1 ? ZERO1_ERR_COMM : ZERO1_ERR_UNSUPPORTED);
    CHECK_TEXT(text, world_rank == world_size - 1 ? "did not put" : "different machines");
    MPI_Barrier(MPI_COMM_WORLD);
  }
  CHECK_STATUS(zero1_comm_create_node(world_rank, world_size, gather, NULL, &options, &comm),
               ZERO1_OK);
  CHECK_TEXT(zero1_comm_backend(comm), "node");
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
  zero1_comm_destroy(&comm);
}

/* A few mistakes of one rank in each way that ranks find each other; all of them are in
 * test_bad_input.c. */
static void make_mistakes(zero1_comm *comm, int32_t culprit) {
  const int wrong = world_rank == culprit;
  for (int i = 0; i < 4; ++i) {
    zero1_config config;
    zero1_param_spec specs[MISUSE_PARAMS];
    zero1_optimizer *optimizer;
    char peer[20];
    const char *const texts[] = {"config.bucket_numel is -1", "'b'", "parameters 0 and 1",
                                 "threads"};
    const zero1_status statuses[] = {ZERO1_ERR_INVALID, ZERO1_ERR_INVALID, ZERO1_ERR_INVALID,
                                     ZERO1_ERR_INVALID};
    misuse_config(&config);
    misuse_specs(specs);
    if (wrong && i == 0) config.bucket_numel = -1;
    if (wrong && i == 1) specs[1].flags = 512;
    if (wrong && i == 2) specs[1].name = "w";
    if (wrong && i == 3) config.threads = -1;
    CHECK_STATUS(
        zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizer),
        statuses[i]);
    CHECK(!optimizer);
    CHECK_TEXT(zero1_comm_last_error(comm), texts[i]);
    snprintf(peer, sizeof peer, "rank %d: ", culprit);
    if (!wrong) CHECK_TEXT(zero1_comm_last_error(comm), peer);
  }
}

static void a_mistake_of_one_rank_is_told_to_every_rank(void) {
  for (int32_t ranks_per_node = 0; ranks_per_node < 2; ++ranks_per_node)
    for (int32_t culprit = 0; culprit < world_size; ++culprit) {
      char text[300];
      zero1_comm *comm;
      zero1_optimizer *optimizer;
      CHECK_STATUS(create_comm(MPI_Comm_c2f(MPI_COMM_WORLD), ranks_per_node, text, &comm),
                   ZERO1_OK);
      CHECK_EQ(text[0], 0);
      make_mistakes(comm, culprit);
      CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
      misuse_check_works(optimizer);
      zero1_optimizer_destroy(&optimizer);
      zero1_comm_destroy(&comm);
    }
}

/* More than the machine has, by far: said at once, of all ranks together. */
static void absurd_sizes_are_refused_at_once(void) {
  static const int64_t shape[] = {(int64_t)1 << 38}; /* 1 TiB of parameters */
  for (int32_t ranks_per_node = 0; ranks_per_node < 2; ++ranks_per_node) {
    char text[300];
    zero1_comm *comm;
    zero1_optimizer *optimizer;
    zero1_config config;
    zero1_param_spec specs[MISUSE_PARAMS];
    misuse_config(&config);
    misuse_specs(specs);
    specs[1].shape = shape;
    CHECK_STATUS(create_comm(MPI_Comm_c2f(MPI_COMM_WORLD), ranks_per_node, text, &comm), ZERO1_OK);
    const double begin = misuse_seconds();
    CHECK_STATUS(
        zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizer),
        ZERO1_ERR_MEMORY);
    CHECK(misuse_seconds() - begin < 10);
    CHECK_TEXT(zero1_comm_last_error(comm), "bytes are needed on this machine");
    CHECK_TEXT(zero1_comm_last_error(comm), "leaves");
    CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
    misuse_check_works(optimizer);
    zero1_optimizer_destroy(&optimizer);
    zero1_comm_destroy(&comm);
  }
}

static void mpi_must_not_be_finalised(void) {
  without_mpi("finalised");
}

int main(void) {
  RUN(mpi_must_be_initialised);
  CHECK(MPI_Init(NULL, NULL) == MPI_SUCCESS);
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  RUN(a_number_that_is_no_communicator_is_named);
  RUN(options_are_checked_together);
  RUN(options_that_differ_are_named);
  RUN(the_node_checks_who_is_who);
  RUN(a_mistake_of_one_rank_is_told_to_every_rank);
  RUN(absurd_sizes_are_refused_at_once);
  MPI_Finalize();
  RUN(mpi_must_not_be_finalised);
  return check_summary();
}
