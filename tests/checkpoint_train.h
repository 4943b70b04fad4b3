/* Training runs of trainer.h that are saved and loaded. */
#ifndef ZERO1_TESTS_CHECKPOINT_TRAIN_H
#define ZERO1_TESTS_CHECKPOINT_TRAIN_H

#include "checkpoint_root.h"
#include "folder.h"
#include "promise.h"
#include "save_file.h"
#include "zero1/checkpoint.h"

/* ---- ways to save ---- */

enum { SAVE_SYNC, SAVE_PINNED, SAVE_SNAPSHOT, SAVE_WAYS };

static inline zero1_status save_by(zero1_optimizer *optimizer, const char *root, int way) {
  zero1_save_options options;
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.mode = way == SAVE_SNAPSHOT ? ZERO1_SAVE_SNAPSHOT : ZERO1_SAVE_PINNED;
  if (way == SAVE_SYNC) return zero1_checkpoint_save(optimizer, root, &options);
  return zero1_checkpoint_save_async(optimizer, root, &options);
}

/* ---- a run in two halves ---- */

typedef struct half {
  const promise_case *what;
  int32_t begin, end; /* steps */
  const char *load;   /* a root, or NULL: from the start */
  const char *save;   /* a root: after the step before save_at; or NULL */
  int32_t save_at, way;
  trainer_result *results; /* [world_size] */
} half;

static inline void run_half(int32_t rank, zero1_comm *comm, void *arg) {
  const half *const self = (const half *)arg;
  const trainer_case *const what = &self->what->train;
  trainer_result *const result = &self->results[rank];
  const zero1_config config = trainer_config(what);
  trainer trained;
  *result = trainer_result_make(what);
  if (self->load) {
    CHECK_STATUS(trainer_try_create(&trained, what, comm, &config), ZERO1_OK);
    device_meet();
    must(trained.optimizer, zero1_checkpoint_load(trained.optimizer, self->load, NULL));
    /* The sum over ranks is the same for any number of them, here; the mean, which load keeps, is
     * not. */
    must(trained.optimizer, zero1_optimizer_set_grad_scale(trained.optimizer, what->grad_scale));
  } else {
    trainer_begin(&trained, what, comm);
  }
  for (int32_t step = self->begin; step < self->end; ++step) {
    zero1_info info;
    if (self->save && step == self->save_at)
      must(trained.optimizer, save_by(trained.optimizer, self->save, self->way));
    result->params_hash[step] = trainer_step(&trained, step, &info);
    result->grad_norm[step] = info.grad_norm;
    result->clip_coef[step] = info.clip_coef;
    CHECK_EQ(info.count, step + 1);
    CHECK_EQ(info.attempts, step + 1);
  }
  if (self->save && self->save_at == self->end)
    must(trained.optimizer, save_by(trained.optimizer, self->save, self->way));
  must(trained.optimizer, zero1_checkpoint_wait(trained.optimizer));
  trainer_collect(&trained, result);
  trainer_end(&trained);
}

static inline void run_halves(const half *what) {
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = what->what->ranks_per_node;
  options.workspace_bytes = what->what->workspace_bytes;
  check_threads(what->what->world_size, &options, run_half, (void *)(uintptr_t)what);
}

#endif
