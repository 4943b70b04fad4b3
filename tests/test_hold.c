// sanitizers: address undefined
// wrap: zero1__hold_wait
// wrap: zero1__save_job_write

/* A writer that makes no copy, slower than training: what is on disk is the state at the call, since
 * updates wait for it, bucket by bucket. Without that wait it is not, which is found. */
#include <stdatomic.h>

#include "hold.h"
#include "slow_writer.h"

static atomic_int wait_is_taken_out;

void __real_zero1__hold_wait(zero1__hold *hold, zero1__stream *stream, int64_t bucket);
void __wrap_zero1__hold_wait(zero1__hold *hold, zero1__stream *stream, int64_t bucket);
void __wrap_zero1__hold_wait(zero1__hold *hold, zero1__stream *stream, int64_t bucket) {
  if (!atomic_load(&wait_is_taken_out)) __real_zero1__hold_wait(hold, stream, bucket);
}

typedef struct saved {
  const trainer_case *what;
  char roots[2][256]; /* saved at once, and in the background */
  zero1_save_report reports[2];
} saved;

static void save_both(int32_t rank, zero1_comm *comm, void *arg) {
  saved *const self = (saved *)arg;
  trainer trained;
  zero1_info info;
  trainer_begin(&trained, self->what, comm);
  for (int32_t step = 0; step < 3; ++step) trainer_step(&trained, step, &info);
  must(trained.optimizer, save_by(trained.optimizer, self->roots[0], SAVE_SYNC));
  must(trained.optimizer, save_by(trained.optimizer, self->roots[1], SAVE_PINNED));
  trainer_step(&trained, 3, &info);
  must(trained.optimizer, zero1_checkpoint_wait(trained.optimizer));
  must(trained.optimizer, zero1_checkpoint_report(trained.optimizer, &self->reports[rank],
                                                  sizeof self->reports[rank]));
  trainer_end(&trained);
}

static int same_tensors(const saved *self) {
  int same = 1;
  for (int rank = 0; rank < 2; ++rank)
    same &= rank_files_are_the_same(self->roots[0], self->roots[1], 3, rank);
  return same;
}

/* One pass and two, in place and through messages; fp32 parameters, which are their own masters,
 * and bf16 ones. */
static int every_way_is_the_same(void) {
  int same = 0;
  for (int i = 0; i < 8; ++i) {
    const trainer_case what = {.params = promise_params,
                               .param_count = 9,
                               .groups = promise_groups,
                               .group_count = 2,
                               .steps = 4,
                               .param_dtype = i & 1 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32,
                               .guard = i >> 1 & 1,
                               .grad_scale = 0.5,
                               .bucket_numel = 700,
                               .threads = 1,
                               .share_params = 1,
                               .overlap = 1,
                               .microbatches = 1};
    zero1_comm_options options;
    saved self = {.what = &what};
    CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
    options.ranks_per_node = i & 4 ? 1 : 0;
    for (int root = 0; root < 2; ++root) folder_begin(self.roots[root], sizeof self.roots[root]);
    atomic_store(&writer_is_slow, 1);
    check_threads(2, &options, save_both, &self);
    same += same_tensors(&self);
    if (!atomic_load(&wait_is_taken_out)) CHECK(self.reports[0].stall_ms > 10);
    for (int root = 0; root < 2; ++root) folder_end(self.roots[root]);
  }
  return same;
}

static void what_is_on_disk_is_the_state_at_the_call(void) {
  atomic_store(&wait_is_taken_out, 0);
  CHECK_EQ(every_way_is_the_same(), 8);
}

static void the_wait_taken_out_is_missed(void) {
  atomic_store(&wait_is_taken_out, 1);
  CHECK_EQ(every_way_is_the_same(), 0);
}

int main(void) {
  RUN(what_is_on_disk_is_the_state_at_the_call);
  RUN(the_wait_taken_out_is_missed);
  return check_summary();
}
