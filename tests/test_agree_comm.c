// sanitizers: address undefined thread
// devices: host standin cuda
// standin-delay: 50

/* config.agree_comm: 4 ranks agree on norm and verdict, while 2 and 2 of them shard an optimizer
 * each, like the halves of a model. */
#include "trainer.h"

static const trainer_param params[] = {{1000, 0, 0}, {7, 0, 0}, {257, 0, 0}};
static const zero1_group groups[] = {{sizeof(zero1_group), 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 0}};

/* Half 1 trains other parameters than half 0: fewer of them, in other buckets. */
static trainer_case case_of(int32_t half, int32_t guard) {
  return (trainer_case){.params = params + half,
                        .param_count = 3 - half,
                        .groups = groups,
                        .group_count = 1,
                        .steps = 8,
                        .guard = guard,
                        .grad_scale = 0.5,
                        .bucket_numel = half ? 1 : 1000,
                        .threads = 1,
                        .overlap = 1,
                        .order = TRAINER_BACKWARD,
                        .microbatches = 1};
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

typedef struct halves {
  zero1_comm *shards[4];              /* of each rank */
  double grad_norm[2][TRAINER_STEPS]; /* of each half alone */
  int32_t guard;
} halves;

typedef void (*half_fn)(trainer *self, const halves *what, int32_t half);

static void begin(trainer *self, zero1_comm *shard, zero1_comm *all, const trainer_case *train) {
  zero1_config config = trainer_config(train);
  config.agree_comm = all;
  CHECK_STATUS(trainer_try_create(self, train, shard, &config), ZERO1_OK);
  device_meet();
  CHECK_STATUS(zero1_optimizer_sync_params(self->optimizer, 0), ZERO1_OK);
}

static void run_halves(int32_t all_per_node, const int32_t *shard_per_node, check_rank_fn fn,
                       halves *what) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  for (int32_t half = 0; half < 2; ++half) {
    const trainer_case train = case_of(half, 1);
    trainer_result alone;
    trainer_run_alone(&train, &alone);
    memcpy(what->grad_norm[half], alone.grad_norm, sizeof alone.grad_norm);
    trainer_result_free(&alone);
    options.ranks_per_node = shard_per_node[half];
    CHECK_STATUS(zero1_comm_create_threads(2, &options, &what->shards[2 * half]), ZERO1_OK);
  }
  options.ranks_per_node = all_per_node;
  check_threads(4, &options, fn, what);
}

/* Ranks per node of all, and of each half; the last two are for the host alone, since on CUDA the
 * ranks of all agree where those of each half do. */
static const int32_t ways[][3] = {{0, 0, 0}, {0, 1, 1}, {1, 1, 1}, {1, 0, 0}, {0, 0, 1}};

/* Over a node and between nodes, for all and for each half; without the guard, which could be one
 * pass in a half on one node and cannot in the other. */
static void over_every_way(check_rank_fn fn) {
  for (int32_t way = 0; way < (device_is_cuda() ? 3 : 5); ++way) {
    for (int32_t guard = 0; guard < 2; ++guard) {
      halves what = {.guard = guard};
      run_halves(ways[way][0], &ways[way][1], fn, &what);
    }
  }
}

static void train_half(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const int32_t half = rank / 2;
  const trainer_case train = case_of(half, what->guard);
  trainer self;
  begin(&self, what->shards[rank], all, &train);
  for (int32_t step = 0; step < train.steps; ++step) {
    zero1_info info;
    trainer_step(&self, step, &info);
    const double norm = hypot(what->grad_norm[0][step], what->grad_norm[1][step]);
    CHECK_CLOSE(info.grad_norm, norm, 4 * 0x1p-53, 0); /* 2 roots, a sum and a root of squares */
    CHECK_EQ(info.count, step + 1);
  }
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void the_norm_is_that_of_both_halves(void) {
  over_every_way(train_half);
}

static void spoil(trainer *self, int64_t param, void *grad) {
  if (self->rank == 1 && param == 0) trainer_store(grad, ZERO1_DTYPE_FP32, 5, NAN);
}

/* A NaN on rank 3 of all, which is rank 1 of half 1. */
static void spoil_half(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const int32_t half = rank / 2;
  const trainer_case train = case_of(half, 1);
  zero1_info info;
  trainer self;
  begin(&self, what->shards[rank], all, &train);
  trainer_step(&self, 0, &info);
  const uint64_t before = trainer_forward(&self);
  self.spoil = half ? spoil : NULL;
  trainer_step(&self, 1, &info);
  CHECK_EQ(info.skipped, 1);
  CHECK_EQ(info.skip_reason, ZERO1_SKIP_NONFINITE);
  CHECK_EQ(info.count, 1);
  CHECK_EQ(info.nonfinite_numel, 1);
  CHECK(isnan(info.grad_norm));
  CHECK(trainer_forward(&self) == before);
  self.spoil = NULL;
  trainer_step(&self, 1, &info);
  CHECK_EQ(info.count, 2);
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void a_nan_in_one_half_makes_both_skip(void) {
  over_every_way(spoil_half);
}

/* Half 0 is clipped because of half 1: both by the same. */
static void clip_half(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const trainer_case train = case_of(rank / 2, 1);
  zero1_info info;
  trainer self;
  begin(&self, what->shards[rank], all, &train);
  const double norm = hypot(what->grad_norm[0][1], what->grad_norm[1][1]);
  CHECK_STATUS(zero1_optimizer_set_max_grad_norm(self.optimizer, norm / 2), ZERO1_OK);
  trainer_step(&self, 1, &info);
  CHECK_CLOSE(info.clip_coef, 0.5, 1e-6, 0);
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void both_halves_are_clipped_alike(void) {
  over_every_way(clip_half);
}

/* Ranks of half 1 set different rates after the norm is known: half 0 is not to go on alone. */
static void fail_half(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const trainer_case train = case_of(rank / 2, 1);
  zero1_info info;
  trainer self;
  begin(&self, what->shards[rank], all, &train);
  trainer_backward(&self, 0);
  CHECK_STATUS(zero1_optimizer_reduce_grads(self.optimizer), ZERO1_OK);
  CHECK_EQ(trainer_info(&self).skipped, 0);
  CHECK_STATUS(zero1_optimizer_set_lr(self.optimizer, 0, rank == 3 ? 0.5 : 0.25), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_ERR_MISMATCH);
  CHECK_EQ(info.skipped, 1);
  CHECK_EQ(info.skip_reason, ZERO1_SKIP_ERROR);
  CHECK_EQ(info.count, 0);
  CHECK_STATUS(zero1_optimizer_set_lr(self.optimizer, 0, 0.25), ZERO1_OK);
  trainer_step(&self, 0, &info);
  CHECK_EQ(info.count, 1);
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void an_error_in_one_half_stops_both(void) {
  over_every_way(fail_half);
}

static void part_ways(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const trainer_case train = case_of(rank / 2, what->guard);
  zero1_info info;
  trainer self;
  begin(&self, what->shards[rank], all, &train);
  trainer_backward(&self, 0);
  if (rank / 2)
    CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_OK);
  else
    CHECK_STATUS(zero1_optimizer_reduce_grads(self.optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_info(self.optimizer, &info, sizeof info), ZERO1_ERR_MISMATCH);
  CHECK_STATUS(zero1_optimizer_step(self.optimizer), ZERO1_ERR_SPENT);
  CHECK_STATUS(zero1_comm_barrier(all), ZERO1_OK);
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void halves_that_come_for_different_things_are_told(void) {
  over_every_way(part_ways);
}

/* Rank 3 cannot go on: half 0, which waits for it in the agreement alone, hears of it long before
 * the timeout. */
static void abort_half(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const trainer_case train = case_of(rank / 2, 1);
  zero1_info info;
  trainer self;
  begin(&self, what->shards[rank], all, &train);
  trainer_backward(&self, 0);
  CHECK_STATUS(zero1_comm_barrier(all), ZERO1_OK);
  const int64_t begin_ns = now_ns();
  if (rank == 3) {
    zero1_optimizer_abort(self.optimizer, "rank 3 is out of disk");
  } else {
    zero1_status status = zero1_optimizer_step(self.optimizer); /* may have heard already */
    if (!status) status = zero1_optimizer_info(self.optimizer, &info, sizeof info);
    CHECK_STATUS(status, ZERO1_ERR_ABORTED);
  }
  CHECK(now_ns() - begin_ns < (int64_t)20 * 1000000000); /* of the 60 s of trainer_config */
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void an_abort_in_one_half_reaches_both(void) {
  over_every_way(abort_half);
}

/* ---- on CUDA: all over the host, the halves on the GPU, or one of them ---- */

static void try_half(int32_t rank, zero1_comm *all, void *arg) {
  halves *const what = (halves *)arg;
  const trainer_case train = case_of(rank / 2, 1);
  zero1_config config = trainer_config(&train);
  trainer self;
  config.agree_comm = all;
  config.timeout_seconds = 5;
  CHECK_STATUS(trainer_try_create(&self, &train, what->shards[rank], &config),
               ZERO1_ERR_UNSUPPORTED);
  trainer_end(&self);
  zero1_comm_destroy(&what->shards[rank]);
}

static void ways_that_cannot_agree_are_told(void) {
  for (int32_t way = 3; way < 5 && device_is_cuda(); ++way) {
    halves what = {.guard = 1};
    run_halves(ways[way][0], &ways[way][1], try_half, &what);
  }
}

int main(void) {
  device_skip_without();
  RUN(the_norm_is_that_of_both_halves);
  RUN(a_nan_in_one_half_makes_both_skip);
  RUN(both_halves_are_clipped_alike);
  RUN(an_error_in_one_half_stops_both);
  RUN(halves_that_come_for_different_things_are_told);
  if (!device_sums_after_a_loss_are_races) RUN(an_abort_in_one_half_reaches_both);
  RUN(ways_that_cannot_agree_are_told);
  return check_summary();
}
