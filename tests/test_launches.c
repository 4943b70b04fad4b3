// devices: standin

/* A step launches as many kernels for many small parameters as for one large one: its buckets times
 * a small number, and a few. The stand-in counts them; ranks are threads, so they are counted
 * together. */
#include "misuse.h"
#include "standin/standin.h"

/* 8 buckets; 9 of 126 blocks where 3 ranks share them. */
enum { NUMEL = 1 << 18, BUCKET = 1 << 15, MOST_BUCKETS = 9, MANY = 1024 };

typedef struct count_case {
  int64_t params;
  int32_t guard;
  uint64_t launches; /* of all ranks */
} count_case;

static zero1_optimizer *create(zero1_comm *comm, const count_case *what) {
  static char names[MANY][8];
  zero1_param_spec specs[MANY] = {0};
  zero1_optimizer *optimizer;
  zero1_config config;
  const int64_t numel = NUMEL / what->params;
  misuse_config(&config);
  config.bucket_numel = BUCKET;
  config.guard = what->guard;
  for (int64_t i = 0; i < what->params; ++i) {
    snprintf(names[i], sizeof names[i], "p%lld", (long long)i);
    specs[i].name = names[i];
    specs[i].shape = &numel;
    specs[i].ndim = 1;
  }
  CHECK_STATUS(
      zero1_optimizer_create(comm, &config, specs, sizeof *specs, what->params, &optimizer),
      ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  return optimizer;
}

static void step(zero1_optimizer *optimizer, const count_case *what) {
  zero1_info info;
  for (int64_t i = what->params - 1; i >= 0; --i)
    CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, i, device_thread_stream()), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, device_thread_stream()), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
}

/* The first step uploads what later ones find there. */
static void count_rank(int32_t rank, zero1_comm *comm, void *arg) {
  count_case *const what = (count_case *)arg;
  zero1_optimizer *optimizer = create(comm, what);
  step(optimizer, what);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  const uint64_t before = standin_launch_count();
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  step(optimizer, what);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  if (rank == 0) what->launches = standin_launch_count() - before;
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  zero1_optimizer_destroy(&optimizer);
}

/* Of a rank in a step, at most: for each bucket post, await, reduce, update, post, await and pull;
 * and open, record, mail, decide and tell, and a post and an await at the end. */
static void check_count(int32_t ranks, int32_t guard) {
  count_case one = {.params = 1, .guard = guard}, many = {.params = MANY, .guard = guard};
  check_threads(ranks, NULL, count_rank, &one);
  check_threads(ranks, NULL, count_rank, &many);
  CHECK_EQ(many.launches, one.launches);
  CHECK(one.launches <= (uint64_t)ranks * (7 * MOST_BUCKETS + 7));
}

static void launches_go_by_buckets_and_not_by_tensors(void) {
  for (int32_t ranks = 1; ranks <= 3; ++ranks)
    for (int32_t guard = 0; guard < 2; ++guard) check_count(ranks, guard);
}

int main(void) {
  device_skip_without();
  RUN(launches_go_by_buckets_and_not_by_tensors);
  return check_summary();
}
