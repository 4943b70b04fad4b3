// sanitizers: address undefined thread

/* What a channel notes of its buckets: when the calls for each began and ended. */
#include "clock.h"
#include "optimizer.h"
#include "trainer.h"

static const trainer_param params[] = {{5000, 0, 0}, {1000, 0, 0}, {257, 0, 0}};

static const trainer_case train = {.params = params,
                                   .param_count = sizeof params / sizeof *params,
                                   .steps = 2,
                                   .guard = 1,
                                   .grad_scale = 1,
                                   .bucket_numel = 1500,
                                   .threads = 1,
                                   .overlap = 1,
                                   .order = TRAINER_BACKWARD,
                                   .microbatches = 1};

/* One stream makes them all: the exchanges in the order of buckets, then the gathers in the other.
 */
static void step_and_look(int32_t rank, zero1_comm *comm, void *arg) {
  trainer self;
  zero1_info info;
  (void)rank;
  (void)arg;
  trainer_begin(&self, &train, comm);
  const int64_t count = self.optimizer->layout.bucket_count;
  CHECK(count > 2);
  for (int32_t step = 0; step < train.steps; ++step) {
    int64_t last_ns = zero1__now_ns(); /* later than all of the step before */
    trainer_step(&self, step, &info);
    const zero1__bucket_times *times = self.optimizer->channel->times;
    for (int64_t b = 0; b < count; ++b) {
      CHECK(last_ns <= times[b].exchange_begin_ns);
      CHECK(times[b].exchange_begin_ns <= times[b].exchange_end_ns);
      last_ns = times[b].exchange_end_ns;
    }
    for (int64_t b = count - 1; b >= 0; --b) {
      CHECK(last_ns <= times[b].gather_begin_ns);
      CHECK(times[b].gather_begin_ns <= times[b].gather_end_ns);
      last_ns = times[b].gather_end_ns;
    }
    CHECK(last_ns <= zero1__now_ns());
  }
  trainer_end(&self);
}

static void on_nodes_of(int32_t ranks, int32_t ranks_per_node) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = ranks_per_node;
  check_threads(ranks, &options, step_and_look, NULL);
}

static void buckets_follow_each_other_between_nodes(void) {
  on_nodes_of(3, 1);
}

static void buckets_follow_each_other_between_nodes_of_several_ranks(void) {
  on_nodes_of(4, 2);
}

static void buckets_follow_each_other_on_a_node(void) {
  on_nodes_of(2, 0);
}

int main(void) {
  RUN(buckets_follow_each_other_between_nodes);
  RUN(buckets_follow_each_other_between_nodes_of_several_ranks);
  RUN(buckets_follow_each_other_on_a_node);
  return check_summary();
}
