/* What the trials of checkpoints share: a training run whose state after each step is known, every
 * bit of it, from a run that is not sharded; and a look at a root, which must hold only that. */
#ifndef ZERO1_TESTS_TRIALS_H
#define ZERO1_TESTS_TRIALS_H

#include <errno.h>
#include <time.h>

#include "checkpoint_train.h"

/* ---- a run ---- */

enum { TRIAL_CASES = 3 };

/* A checksum and a write are of a MiB at most: of two ranks each has more than one. */
static const trainer_param trial_large[] = {{250000, 0, 0}, {3, 1, 0}, {20000, 1, 0}};

/* bf16 with fp32 masters, fp32, large. bucket_numel decides nothing but the layout. */
static inline trainer_case trial_case(int32_t which, int64_t bucket_numel) {
  trainer_case made = {.params = promise_params,
                       .param_count = (int32_t)(sizeof promise_params / sizeof *promise_params),
                       .groups = promise_groups,
                       .group_count = 2,
                       .param_dtype = which ? ZERO1_DTYPE_FP32 : ZERO1_DTYPE_BF16,
                       .grad_dtype = ZERO1_DTYPE_FP32,
                       .steps = TRAINER_STEPS,
                       .guard = 1,
                       .grad_scale = 0.37,
                       .bucket_numel = bucket_numel,
                       .threads = 1,
                       .microbatches = 1,
                       .on_host = 1};
  if (which < 2) return made;
  made.params = trial_large;
  made.param_count = 3;
  return made;
}

static inline zero1_status trial_create(trainer *self, const trainer_case *train, zero1_comm *comm,
                                        double timeout_seconds) {
  zero1_config config = trainer_config(train);
  config.timeout_seconds = timeout_seconds;
  return trainer_try_create(self, train, comm, &config);
}

/* The first values. Not with share_params. */
static inline zero1_status trial_first(trainer *self) {
  for (int32_t i = 0; i < self->what->param_count; ++i) {
    random_state random = {(uint64_t)i + 100};
    void *const param = trainer_begin_param(self, i);
    for (int64_t e = 0; e < self->what->params[i].numel; ++e)
      trainer_store(param, self->what->param_dtype, e, random_unit(&random));
    trainer_end_param(self, i, param);
  }
  return zero1_optimizer_sync_params(self->optimizer, 0);
}

/* What was saved last. The sum over ranks is that of any number of ranks; the mean, which load
 * keeps, is not. */
static inline zero1_status trial_load(trainer *self, const char *dir) {
  const zero1_status status = zero1_checkpoint_load(self->optimizer, dir, NULL);
  if (status) return status;
  return zero1_optimizer_set_grad_scale(self->optimizer, self->what->grad_scale);
}

/* Step number `step`, the first is 0; unlike trainer_step it comes back when a peer is lost. */
static inline zero1_status trial_step(trainer *self, int32_t step) {
  const trainer_case *what = self->what;
  zero1_status status = ZERO1_OK;
  for (int32_t i = what->param_count - 1; i >= 0 && !status; --i) {
    void *grad;
    if (trainer_is_frozen(self, i)) continue;
    status = zero1_optimizer_wait_grad(self->optimizer, i, ZERO1_STREAM_DEFAULT);
    if (!status) status = zero1_optimizer_grad(self->optimizer, i, &grad);
    for (int64_t e = 0; e < what->params[i].numel && !status; ++e)
      trainer_store(grad, what->grad_dtype, e,
                    (float)trainer_grad(what, self->world_size, self->rank, step, i, e));
    if (!status) status = zero1_optimizer_grad_ready(self->optimizer, i, ZERO1_STREAM_DEFAULT);
  }
  if (!status) status = zero1_optimizer_step(self->optimizer);
  if (!status) status = zero1_optimizer_wait_params(self->optimizer, ZERO1_STREAM_DEFAULT);
  return status;
}

/* ---- the state of each step ---- */

typedef struct trial_states {
  trainer_case train;
  int32_t steps;
  trainer_result after[TRAINER_STEPS + 1]; /* [steps + 1] */
} trial_states;

static inline void trial_states_begin(trial_states *self, int32_t which, int32_t steps) {
  trainer trained;
  zero1_comm *comm;
  self->train = trial_case(which, (int64_t)1 << 40);
  self->steps = steps;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  CHECK_STATUS(trial_create(&trained, &self->train, comm, 60), ZERO1_OK);
  must(trained.optimizer, trial_first(&trained));
  for (int32_t step = 0; step <= steps; ++step) {
    if (step) must(trained.optimizer, trial_step(&trained, step - 1));
    self->after[step] = trainer_result_make(&self->train);
    trainer_collect(&trained, &self->after[step]);
  }
  trainer_end(&trained);
  zero1_comm_destroy(&comm);
}

static inline void trial_states_end(trial_states *self) {
  for (int32_t step = 0; step <= self->steps; ++step) trainer_result_free(&self->after[step]);
}

/* What differs first from what a rank has now; NULL: nothing. */
static inline const char *trial_difference(trainer *self, const trainer_result *expected,
                                           int64_t *where) {
  trainer_result mine = trainer_result_make(self->what);
  const char *difference = NULL;
  trainer_collect(self, &mine);
  for (int64_t e = 0; e < mine.numel && !difference; ++e) {
    *where = e;
    if (mine.params[e] != expected->params[e]) difference = "param";
    if (!mine.owned[e]) continue;
    if (mine.master_param[e] != expected->master_param[e]) difference = "master_param";
    if (mine.exp_avg[e] != expected->exp_avg[e]) difference = "exp_avg";
    if (mine.exp_avg_sq[e] != expected->exp_avg_sq[e]) difference = "exp_avg_sq";
  }
  trainer_result_free(&mine);
  return difference;
}

static inline void trial_check_state(trainer *self, const trial_states *states, int64_t step) {
  int64_t where;
  CHECK(step >= 0 && step <= states->steps);
  const char *const difference = trial_difference(self, &states->after[step], &where);
  if (!difference) return;
  fprintf(stderr, "step %lld: element %lld of %s is not that of the run that was not sharded\n",
          (long long)step, (long long)where, difference);
  CHECK(!"the same bits");
}

/* ---- a root ---- */

/* Step of the checkpoint that `latest` or what stands for it leads to; -1: there is none. */
static inline int64_t trial_latest(const char *root) {
  char path[4200], error[400];
  int64_t count;
  const zero1_status status = zero1_checkpoint_latest(root, path, sizeof path, error, sizeof error);
  if (status == ZERO1_ERR_NOT_FOUND) return -1;
  if (status) fprintf(stderr, "%s\n", error);
  CHECK_STATUS(status, ZERO1_OK);
  CHECK(zero1__step_parse(strrchr(path, '/') + 1, &count));
  return count;
}

/* Nothing is there but `latest` and at most keep_last checkpoints (0: any number). */
static inline void trial_check_tidy(const char *root, int64_t keep_last) {
  int64_t steps = 0, count;
  DIR *const folder = opendir(root);
  CHECK(folder != NULL);
  for (struct dirent *entry; (entry = readdir(folder));) {
    const char *const name = entry->d_name;
    const int is_step = zero1__step_parse(name, &count);
    const int known =
        is_step || !strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "latest");
    if (!known) fprintf(stderr, "%s/%s is left\n", root, name);
    CHECK(known);
    steps += is_step;
  }
  closedir(folder);
  CHECK(folder_has(root, "latest"));
  CHECK(!keep_last || steps <= keep_last);
}

/* A look at a root by some ranks, which are threads: every checkpoint is that of its step, `latest`
 * too; then training goes on from there by a step and is saved. */
typedef struct trial_look {
  const char *root;
  const trial_states *states;
  int64_t bucket_numel;
  int64_t keep_last;
  int64_t latest;      /* -1: nothing was ever saved */
  int32_t latest_only; /* 1: other checkpoints are not read */
} trial_look;

static inline void trial_check_others(trainer *self, const trial_look *look) {
  int64_t *counts, count;
  zero1__error error;
  zero1__error_clear(&error);
  if (look->latest < 0 || look->latest_only) return;
  CHECK_STATUS(zero1__root_list(look->root, &counts, &count, &error), ZERO1_OK);
  for (int64_t i = 0; i < count; ++i) {
    char name[ZERO1__STEP_NAME_BYTES], dir[4200];
    zero1__step_name(counts[i], name);
    snprintf(dir, sizeof dir, "%.4000s/%s", look->root, name);
    must(self->optimizer, trial_load(self, dir));
    trial_check_state(self, look->states, counts[i]);
  }
  free(counts);
  check_meet(); /* none is removed while another rank lists them */
}

static inline void trial_look_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const trial_look *const look = (const trial_look *)arg;
  trainer_case train = look->states->train;
  trainer self;
  zero1_save_options options;
  const int64_t step = look->latest < 0 ? 0 : look->latest;
  (void)rank;
  train.bucket_numel = look->bucket_numel;
  CHECK_STATUS(trial_create(&self, &train, comm, 60), ZERO1_OK);
  trial_check_others(&self, look);
  must(self.optimizer, look->latest < 0 ? trial_first(&self) : trial_load(&self, look->root));
  trial_check_state(&self, look->states, step);
  must(self.optimizer, trial_step(&self, (int32_t)step));
  trial_check_state(&self, look->states, step + 1);
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.keep_last = look->keep_last;
  must(self.optimizer, zero1_checkpoint_save(self.optimizer, look->root, &options));
  trainer_end(&self);
}

/* latest: see trial_look. The next save, which is one of it, sweeps what was left. */
static inline void trial_check_root(const trial_look *look, int32_t world_size) {
  CHECK_EQ(trial_latest(look->root), look->latest);
  check_threads(world_size, NULL, trial_look_rank, (void *)(uintptr_t)look);
  trial_check_tidy(look->root, look->keep_last);
  CHECK_EQ(trial_latest(look->root), (look->latest < 0 ? 0 : look->latest) + 1);
}

/* ---- arguments: --name NUMBER ---- */

static inline int64_t trial_argument(int argc, char **argv, const char *name, int64_t otherwise) {
  for (int i = 1; i + 1 < argc; i += 2)
    if (!strncmp(argv[i], "--", 2) && !strcmp(argv[i] + 2, name))
      return strtoll(argv[i + 1], NULL, 10);
  return otherwise;
}

#endif
