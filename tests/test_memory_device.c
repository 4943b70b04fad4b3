// sanitizers: address
// devices: standin

/* What zero1_optimizer_memory reports on a device against what was really taken there, asked of the
 * runtime before and after. */
#include "standin/standin.h"
#include "trainer.h"

static const trainer_param params[] = {{1000000, 0, 0}, {7, 0, 0}, {300000, 0, 0}};
static const zero1_group groups[] = {{sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0}};

static const trainer_case base = {.params = params,
                                  .param_count = 3,
                                  .groups = groups,
                                  .group_count = 1,
                                  .steps = 1,
                                  .guard = 1,
                                  .grad_scale = 1,
                                  .bucket_numel = 200000,
                                  .threads = 1,
                                  .overlap = 1,
                                  .order = TRAINER_BACKWARD,
                                  .microbatches = 1};

/* Bytes of every size are rounded up to pages, and to what can be shared; small tables of pointers
 * and events' flags are not told. */
enum { SLACK = 256 << 10 };

typedef struct asked {
  trainer_case train;
  zero1_memory memory[4];
  size_t before, after; /* free */
} asked;

static size_t free_bytes(void) {
  size_t free_now, all;
  CHECK_CUDA(cudaMemGetInfo(&free_now, &all));
  return free_now;
}

static void ask_rank(int32_t rank, zero1_comm *comm, void *arg) {
  asked *const what = (asked *)arg;
  trainer self;
  trainer_begin(&self, &what->train, comm);
  CHECK_STATUS(
      zero1_optimizer_memory(self.optimizer, &what->memory[rank], sizeof what->memory[rank]),
      ZERO1_OK);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  if (rank == 0) what->after = free_bytes();
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  trainer_end(&self);
}

/* The host's part is told, too: it can only be more than what the device lacks. */
static void check_told(int32_t ranks, const trainer_case *train, uint64_t on_host) {
  asked what = {.train = *train};
  uint64_t told = 0;
  what.before = free_bytes();
  check_threads(ranks, NULL, ask_rank, &what);
  CHECK_EQ(free_bytes(), what.before); /* nothing stays */
  const uint64_t taken = what.before - what.after;
  for (int32_t rank = 0; rank < ranks; ++rank) told += what.memory[rank].total_bytes;
  const uint64_t slack = (uint64_t)ranks * SLACK;
  CHECK(told + slack >= taken + on_host);
  CHECK(told <= taken + on_host + slack);
}

static void what_is_told_is_what_was_taken(void) {
  trainer_case train = base;
  for (int dtypes = 0; dtypes < 4; ++dtypes) {
    train.param_dtype = dtypes & 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    train.grad_dtype = dtypes & 2 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    for (int32_t ranks = 1; ranks <= 3; ++ranks) check_told(ranks, &train, 0);
  }
}

/* All of the state, 1300007 elements of 12 bytes and a last block, and a ring of 4 chunks of 1 MiB
 * of gradients and as much of parameters, are the host's. */
static void what_is_offloaded_is_told_as_well(void) {
  trainer_case train = base;
  train.offload = 1;
  check_told(1, &train, 1300007 * 12 + (8 << 20));
}

int main(void) {
  RUN(what_is_told_is_what_was_taken);
  RUN(what_is_offloaded_is_told_as_well);
  return check_summary();
}
