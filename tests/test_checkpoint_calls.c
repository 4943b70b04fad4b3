// sanitizers: address undefined thread
// timeout: 200

/* What the calls that save and load promise besides the bits: errors that name what is wrong and
 * change nothing, options, counts and hyper-parameters, partial loads, residuals, retention. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "checkpoint_train.h"

static const trainer_param params[] = {
    {1000, 0, 0}, {0, 1, 0}, {1, 0, 0}, {700, 0, ZERO1_PARAM_FROZEN}, {5000, 1, 0}, {257, 1, 0}};

static trainer_case plain(void) {
  return (trainer_case){.params = params,
                        .param_count = 6,
                        .groups = promise_groups,
                        .group_count = 2,
                        .steps = 4,
                        .guard = 1,
                        .grad_scale = 0.5,
                        .bucket_numel = 700,
                        .threads = 1,
                        .share_params = 1,
                        .microbatches = 1};
}

/* A rank's part of a test: with an optimizer that has made two steps, and a folder of its own. */
typedef struct scene {
  void (*fn)(trainer *self, const char *root);
  const trainer_case *what;
  char root[256];
} scene;

static void play_rank(int32_t rank, zero1_comm *comm, void *arg) {
  scene *const self = (scene *)arg;
  trainer trained;
  zero1_info info;
  (void)rank;
  trainer_begin(&trained, self->what, comm);
  for (int32_t step = 0; step < 2; ++step) trainer_step(&trained, step, &info);
  self->fn(&trained, self->root);
  trainer_end(&trained);
}

static void play(int32_t world, const trainer_case *what,
                 void (*fn)(trainer *self, const char *root)) {
  scene self = {.fn = fn, .what = what};
  folder_begin(self.root, sizeof self.root);
  check_threads(world, NULL, play_rank, &self);
  folder_end(self.root);
}

static void path_of(char *path, size_t bytes, const char *root, const char *name) {
  snprintf(path, bytes, "%s/%s", root, name);
}

/* The status, and that the text names `words`. */
#define CHECK_TOLD(self, call, expected, words)                                       \
  do {                                                                                \
    const zero1_status told_ = (call);                                                \
    const char *text_ = zero1_optimizer_last_error((self)->optimizer);                \
    if (told_ != (expected) || !strstr(text_, words)) fprintf(stderr, "%s\n", text_); \
    CHECK_STATUS(told_, expected);                                                    \
    CHECK(strstr(text_, words) != NULL);                                              \
  } while (0)

/* ---- wrong calls ---- */

static void call_wrongly(trainer *self, const char *root) {
  zero1_optimizer *const optimizer = self->optimizer;
  zero1_save_options options;
  zero1_save_report report;
  zero1_load_options loads;
  char path[300];
  const int first = !self->rank;
  CHECK_STATUS(zero1_checkpoint_save(NULL, root, NULL), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_load(NULL, root, NULL), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_checkpoint_wait(NULL), ZERO1_ERR_INVALID);
  CHECK_TOLD(self, zero1_checkpoint_save(optimizer, NULL, NULL), ZERO1_ERR_INVALID, "root");
  CHECK_TOLD(self, zero1_checkpoint_load(optimizer, "", NULL), ZERO1_ERR_INVALID, "dir");
  CHECK_TOLD(self, zero1_checkpoint_poll(optimizer, NULL), ZERO1_ERR_INVALID, "done");
  CHECK_TOLD(self, zero1_checkpoint_report(optimizer, &report, sizeof report), ZERO1_ERR_STATE,
             "no save");
  CHECK_STATUS(zero1_save_options_init(NULL, sizeof options), ZERO1_ERR_INVALID);
  CHECK_STATUS(zero1_save_options_init(&options, 3), ZERO1_ERR_VERSION);
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.size += 8;
  CHECK_TOLD(self, zero1_checkpoint_save(optimizer, root, &options), ZERO1_ERR_VERSION,
             "zero1_save_options");
  options.size -= 8;
  options.mode = 7;
  CHECK_TOLD(self, zero1_checkpoint_save(optimizer, root, &options), ZERO1_ERR_INVALID, "mode");
  options.mode = first ? ZERO1_SAVE_PINNED : ZERO1_SAVE_SNAPSHOT;
  CHECK_TOLD(self, zero1_checkpoint_save_async(optimizer, root, &options), ZERO1_ERR_MISMATCH,
             "mode");
  options.mode = ZERO1_SAVE_PINNED;
  options.keep_last = first ? -1 : 2; /* wrong on one rank alone */
  CHECK_TOLD(self, zero1_checkpoint_save(optimizer, root, &options), ZERO1_ERR_INVALID,
             "keep_last");
  options.keep_last = 0;
  const zero1_pair twice[] = {{"a", "1"}, {"a", "2"}};
  options.metadata = twice;
  options.metadata_count = 2;
  CHECK_TOLD(self, zero1_checkpoint_save(optimizer, root, &options), ZERO1_ERR_INVALID, "metadata");
  CHECK_STATUS(zero1_load_options_init(&loads, sizeof loads), ZERO1_OK);
  loads.weights_only = first;
  path_of(path, sizeof path, root, "nowhere");
  CHECK_TOLD(self, zero1_checkpoint_load(optimizer, path, NULL), ZERO1_ERR_NOT_FOUND, path);
  CHECK_TOLD(self, zero1_checkpoint_load(optimizer, root, NULL), ZERO1_ERR_NOT_FOUND, root);
  CHECK_EQ(folder_count(root), 0); /* not one of them has left anything */
  CHECK_STATUS(zero1_checkpoint_save(optimizer, root, NULL), ZERO1_OK);
  CHECK_TOLD(self, zero1_checkpoint_load(optimizer, root, &loads), ZERO1_ERR_MISMATCH, "options");
  must(optimizer, zero1_checkpoint_load(optimizer, root, NULL));
}

static void wrong_calls_name_what_is_wrong_and_leave_nothing(void) {
  const trainer_case what = plain();
  play(3, &what, call_wrongly);
}

static void save_in_between(trainer *self, const char *root) {
  zero1_info info;
  trainer_mark(self, 2, 4);
  CHECK_TOLD(self, zero1_checkpoint_save(self->optimizer, root, NULL), ZERO1_ERR_STATE,
             "gradients are on their way");
  CHECK_TOLD(self, zero1_checkpoint_load(self->optimizer, root, NULL), ZERO1_ERR_STATE,
             "gradients are on their way");
  must(self->optimizer, zero1_optimizer_drop_grads(self->optimizer));
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
  CHECK_STATUS(zero1_optimizer_info(self->optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.count, 2);
  CHECK(folder_has(root, "step-000000000002"));
}

static void gradients_on_their_way_are_refused(void) {
  const trainer_case what = plain();
  play(2, &what, save_in_between);
}

/* ---- places that cannot be written or read ---- */

static void save_in_bad_places(trainer *self, const char *root) {
  char path[300];
  path_of(path, sizeof path, root, "file");
  if (!self->rank) close(open(path, O_CREAT | O_WRONLY, 0600));
  check_meet();
  CHECK_TOLD(self, zero1_checkpoint_save(self->optimizer, path, NULL), ZERO1_ERR_IO, path);
  CHECK_TOLD(self, zero1_checkpoint_load(self->optimizer, path, NULL), ZERO1_ERR_IO, path);
  path_of(path, sizeof path, root, "none/below");
  CHECK_TOLD(self, zero1_checkpoint_save(self->optimizer, path, NULL), ZERO1_ERR_IO, path);
  CHECK_TOLD(self, zero1_checkpoint_save(self->optimizer, "/proc/zero1", NULL), ZERO1_ERR_IO,
             "/proc/zero1");
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
}

static void places_that_cannot_be_written_are_named(void) {
  const trainer_case what = plain();
  play(2, &what, save_in_bad_places);
}

/* The file system refuses what goes beyond: as a full disk, of one rank's file or of all. */
static void save_beyond_the_limit(trainer *self, const char *root) {
  struct rlimit was, limit;
  int32_t done = 0;
  zero1_status status = ZERO1_OK;
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
  zero1_info info;
  trainer_step(self, 2, &info);
  check_meet();
  if (!self->rank) {
    CHECK(!getrlimit(RLIMIT_FSIZE, &was));
    limit = was;
    limit.rlim_cur = 6000;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
  }
  check_meet();
  CHECK_TOLD(self, zero1_checkpoint_save(self->optimizer, root, NULL), ZERO1_ERR_IO, "rank-0000");
  CHECK(strstr(zero1_optimizer_last_error(self->optimizer), strerror(EFBIG)) != NULL);
  /* In the background: the next call tells it, once. */
  must(self->optimizer, zero1_checkpoint_save_async(self->optimizer, root, NULL));
  trainer_step(self, 3, &info);
  while (!done && !status) status = zero1_checkpoint_poll(self->optimizer, &done);
  CHECK_TOLD(self, status, ZERO1_ERR_IO, "rank-0000");
  CHECK_STATUS(zero1_checkpoint_poll(self->optimizer, &done), ZERO1_OK);
  must(self->optimizer, zero1_checkpoint_save_async(self->optimizer, root, NULL));
  CHECK_TOLD(self, zero1_checkpoint_save(self->optimizer, root, NULL), ZERO1_ERR_IO, "rank-0000");
  check_meet();
  if (!self->rank) {
    CHECK(!setrlimit(RLIMIT_FSIZE, &was));
    char path[300];
    CHECK_STATUS(zero1_checkpoint_latest(root, path, sizeof path, NULL, 0), ZERO1_OK);
    CHECK(strstr(path, "step-000000000002") != NULL);
    CHECK(!folder_has(root, "step-000000000003") && !folder_has(root, "step-000000000004"));
  }
  check_meet();
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
  must(self->optimizer, zero1_checkpoint_load(self->optimizer, root, NULL));
}

static void a_disk_that_takes_no_more_leaves_the_checkpoint_before(void) {
  const trainer_case what = plain();
  play(2, &what, save_beyond_the_limit);
}

/* ---- what is in it ---- */

static void save_metadata(trainer *self, const char *root) {
  zero1_save_options options;
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  zero1_save_report report;
  zero1_group group;
  char own[16], text[400];
  snprintf(own, sizeof own, "seed %d", self->rank);
  const zero1_pair run[] = {{"data", "17"}, {"schedule", "\"cosine\"\n\xc3\xa4"}};
  const zero1_pair mine[] = {{"random", own}};
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.metadata = run;
  options.metadata_count = 2;
  options.rank_metadata = mine;
  options.rank_metadata_count = 1;
  must(self->optimizer, zero1_optimizer_set_lr(self->optimizer, 0, 0.1 + 0.2));
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, &options));
  must(self->optimizer, zero1_checkpoint_report(self->optimizer, &report, sizeof report));
  CHECK(report.count == 2 && report.bytes > 1000 && report.snapshot_bytes == 0);
  CHECK(report.call_ms >= report.write_ms && report.write_ms > 0);
  CHECK_STATUS(zero1_checkpoint_open(root, &checkpoint, text, sizeof text), ZERO1_OK);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, sizeof info), ZERO1_OK);
  CHECK(info.count == 2 && info.attempts == 2 && info.world_size == 2 && info.param_count == 6);
  CHECK(info.group_count == 2 && info.metadata_count == 2 && info.grad_scale == 0.5);
  CHECK(!strcmp(zero1_checkpoint_value(checkpoint, -1, "data"), "17"));
  CHECK(!strcmp(zero1_checkpoint_value(checkpoint, -1, "schedule"), run[1].value));
  CHECK(!strcmp(zero1_checkpoint_value(checkpoint, self->rank, "random"), own));
  CHECK(!zero1_checkpoint_value(checkpoint, -1, "random"));
  CHECK_STATUS(zero1_checkpoint_group(checkpoint, 0, &group, sizeof group), ZERO1_OK);
  CHECK(group.lr == 0.1 + 0.2);
  CHECK_STATUS(zero1_checkpoint_verify(checkpoint, 2, NULL, NULL), ZERO1_OK);
  zero1_checkpoint_close(&checkpoint);
  /* What is set since is what was saved, again. */
  must(self->optimizer, zero1_optimizer_set_lr(self->optimizer, 0, 1));
  must(self->optimizer, zero1_optimizer_set_max_grad_norm(self->optimizer, 3));
  must(self->optimizer, zero1_checkpoint_load(self->optimizer, root, NULL));
  must(self->optimizer, zero1_optimizer_get_group(self->optimizer, 0, &group, sizeof group));
  CHECK(group.lr == 0.1 + 0.2);
}

static void metadata_and_hyper_parameters_come_back(void) {
  const trainer_case what = plain();
  play(2, &what, save_metadata);
}

static void save_many(trainer *self, const char *root) {
  zero1_save_options options;
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.keep_last = 2;
  options.keep_every = 3;
  for (int32_t step = 2; step < 8; ++step) {
    zero1_info info;
    must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, &options));
    trainer_step(self, step, &info);
  }
  check_meet();
  /* 2 ... 7 were saved: 7 and 6 are the newest, 6 and 3 multiples of 3. */
  for (int32_t step = 2; step < 8; ++step) {
    char name[ZERO1__STEP_NAME_BYTES];
    zero1__step_name(step, name);
    CHECK_EQ(folder_has(root, name), step == 3 || step >= 6);
  }
  CHECK_EQ(folder_count(root), 3 + 2); /* latest and .lock, and nothing that was under way */
  check_meet();
}

static void old_checkpoints_go_as_it_was_asked(void) {
  const trainer_case what = plain();
  play(2, &what, save_many);
}

static void go_back(trainer *self, const char *root) {
  zero1_save_options options;
  zero1_info info;
  char path[300];
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  for (int32_t step = 2; step < 6; ++step) { /* 2, 3, 4, 5 */
    must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
    trainer_step(self, step, &info);
  }
  path_of(path, sizeof path, root, "step-000000000002");
  must(self->optimizer, zero1_checkpoint_load(self->optimizer, path, NULL));
  trainer_step(self, 2, &info);
  options.keep_last = 2;
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, &options));
  check_meet();
  /* 3 is the newest, and 2 the one before it. 4 and 5 belong to what was given up. */
  for (int32_t step = 2; step < 6; ++step) {
    char name[ZERO1__STEP_NAME_BYTES];
    zero1__step_name(step, name);
    CHECK(folder_has(root, name));
  }
  CHECK_STATUS(zero1_checkpoint_latest(root, path, sizeof path, NULL, 0), ZERO1_OK);
  CHECK(strstr(path, "step-000000000003") != NULL);
  check_meet();
}

static void later_steps_do_not_count_as_older(void) {
  const trainer_case what = plain();
  play(2, &what, go_back);
}

static void save_twice(trainer *self, const char *root) {
  char path[300];
  zero1_checkpoint *checkpoint;
  zero1_save_options options;
  const zero1_pair pair = {"which", "second"};
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.metadata = &pair;
  options.metadata_count = 1;
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, &options));
  CHECK_STATUS(zero1_checkpoint_latest(root, path, sizeof path, NULL, 0), ZERO1_OK);
  CHECK_STATUS(zero1_checkpoint_open(path, &checkpoint, NULL, 0), ZERO1_OK);
  CHECK(!strcmp(zero1_checkpoint_value(checkpoint, -1, "which"), "second"));
  zero1_checkpoint_close(&checkpoint);
  check_meet();
  CHECK_EQ(folder_count(root), 3);
  check_meet();
}

static void the_same_step_takes_the_place_of_the_first(void) {
  const trainer_case what = plain();
  play(3, &what, save_twice);
}

/* ---- another optimizer loads it ---- */

typedef struct loading {
  const trainer_case *what;
  const zero1_load_options *options;
  const char *root;
  zero1_status status;
  const char *words;
  void (*then)(trainer *self);
} loading;

static void load_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const loading *const self = (const loading *)arg;
  trainer trained;
  (void)rank;
  trainer_begin(&trained, self->what, comm);
  CHECK_TOLD(&trained, zero1_checkpoint_load(trained.optimizer, self->root, self->options),
             self->status, self->words);
  if (self->then) self->then(&trained);
  trainer_end(&trained);
}

static void load_as(int32_t world, const loading *what) {
  check_threads(world, NULL, load_rank, (void *)(uintptr_t)what);
}

static void save_rank(int32_t rank, zero1_comm *comm, void *arg) {
  const loading *const self = (const loading *)arg;
  trainer trained;
  zero1_info info;
  (void)rank;
  trainer_begin(&trained, self->what, comm);
  for (int32_t step = 0; step < 2; ++step) trainer_step(&trained, step, &info);
  must(trained.optimizer, zero1_checkpoint_save(trained.optimizer, self->root, NULL));
  trainer_end(&trained);
}

static void count_is_two(trainer *self) {
  CHECK_EQ(trainer_info(self).count, 2);
}

static void count_is_zero(trainer *self) {
  CHECK_EQ(trainer_info(self).count, 0);
}

static void another_models_checkpoint_is_refused_with_both_shapes(void) {
  char root[256];
  const trainer_case what = plain();
  trainer_param changed[7];
  trainer_case other = what;
  other.params = changed;
  folder_begin(root, sizeof root);
  loading load = {.what = &what, .root = root, .words = ""};
  check_threads(2, NULL, save_rank, &load);
  load.then = count_is_two;
  load_as(3, &load);
  load.what = &other;
  load.then = count_is_zero;
  load.status = ZERO1_ERR_MISMATCH;

  memcpy(changed, params, sizeof params);
  changed[4].numel = 5001;
  load.words = "[5000]";
  load_as(2, &load);
  load.words = "[5001]";
  load_as(2, &load);
  memcpy(changed, params, sizeof params);
  changed[4].group = 0;
  load.words = "'p4'";
  load_as(2, &load);
  zero1_load_options options;
  CHECK_STATUS(zero1_load_options_init(&options, sizeof options), ZERO1_OK);
  options.keep_hyper = 1;
  load.options = &options;
  load.status = ZERO1_OK;
  load.words = "";
  load.then = count_is_two;
  load_as(2, &load);
  options.keep_hyper = 0;
  load.then = count_is_zero;

  /* One less, and one more. */
  memcpy(changed, params, sizeof params);
  changed[6] = (trainer_param){10, 0, 0};
  load.status = ZERO1_ERR_MISMATCH;
  other.param_count = 5;
  load.words = "'p5'";
  load_as(2, &load);
  options.allow_extra = "x*,p[56]";
  load.status = ZERO1_OK;
  load.words = "";
  load.then = count_is_two;
  load_as(2, &load);
  other.param_count = 7;
  options.allow_extra = NULL;
  load.status = ZERO1_ERR_MISMATCH;
  load.words = "'p6'";
  load.then = count_is_zero;
  load_as(1, &load);
  options.allow_missing = "p6";
  load.status = ZERO1_OK;
  load.words = "";
  load.then = count_is_two;
  load_as(2, &load);
  options.allow_missing = NULL;

  /* Frozen here and not there: weights alone. */
  other.param_count = 6;
  changed[4].flags = ZERO1_PARAM_FROZEN;
  changed[3].flags = 0;
  load.status = ZERO1_ERR_MISMATCH;
  load.words = "frozen";
  load.then = count_is_zero;
  load_as(2, &load);
  options.weights_only = 1;
  load.status = ZERO1_OK;
  load.words = "";
  load_as(3, &load);
  folder_end(root);
}

/* ---- values of partial loads ---- */

typedef struct values {
  const char *root;
  const trainer_case *saved, *loaded;
  const zero1_load_options *options;
} values;

/* Against what the public reader says; moments stay zero, as they are in the beginning. */
static void check_weights(int32_t rank, zero1_comm *comm, void *arg) {
  const values *const self = (const values *)arg;
  trainer trained;
  zero1_checkpoint *checkpoint;
  trainer_result result = trainer_result_make(self->loaded);
  (void)rank;
  trainer_begin(&trained, self->loaded, comm);
  must(trained.optimizer, zero1_checkpoint_load(trained.optimizer, self->root, self->options));
  trainer_collect(&trained, &result);
  CHECK_STATUS(zero1_checkpoint_open(self->root, &checkpoint, NULL, 0), ZERO1_OK);
  for (int32_t i = 0; i < self->loaded->param_count; ++i) {
    const int64_t numel = self->loaded->params[i].numel, at = trainer_offset(self->loaded, i);
    float *const master = (float *)calloc((size_t)numel + 1, sizeof *master);
    CHECK(master != NULL);
    CHECK_STATUS(zero1_checkpoint_read(checkpoint, i, ZERO1_STATE_MASTER_PARAM, 0, 0, numel,
                                       ZERO1_DTYPE_FP32, master),
                 ZERO1_OK);
    for (int64_t e = 0; e < numel; ++e) {
      uint32_t bits;
      memcpy(&bits, &master[e], sizeof bits);
      if (self->loaded->param_dtype == ZERO1_DTYPE_FP32) CHECK_EQ(result.params[at + e], bits);
      if (!result.owned[at + e]) continue;
      CHECK_EQ(result.master_param[at + e], bits);
      CHECK(!result.exp_avg[at + e] && !result.exp_avg_sq[at + e]);
    }
    free(master);
  }
  zero1_checkpoint_close(&checkpoint);
  trainer_result_free(&result);
  trainer_end(&trained);
}

static void weights_alone_are_loaded_into_any_data_type(void) {
  char root[256];
  zero1_load_options options;
  CHECK_STATUS(zero1_load_options_init(&options, sizeof options), ZERO1_OK);
  for (int i = 0; i < 4; ++i) {
    trainer_case saved = plain(), loaded = plain();
    trainer_param changed[6];
    memcpy(changed, params, sizeof params);
    if (i > 1) {
      changed[3].flags = 0; /* what was frozen is trained now, and the other way round */
      changed[5].flags = ZERO1_PARAM_FROZEN;
    }
    loaded.params = changed;
    saved.param_dtype = i % 2 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
    loaded.param_dtype = i % 2 ? ZERO1_DTYPE_FP32 : ZERO1_DTYPE_BF16;
    loaded.share_params = i / 2;
    folder_begin(root, sizeof root);
    loading load = {.what = &saved, .root = root, .words = ""};
    check_threads(2, NULL, save_rank, &load);
    options.weights_only = 1;
    options.allow_dtype_change = 0;
    load.what = &loaded;
    load.options = &options;
    load.status = ZERO1_ERR_MISMATCH;
    load.words = "bf16";
    load_as(2, &load);
    options.allow_dtype_change = 1;
    values self = {root, &saved, &loaded, &options};
    check_threads(3, NULL, check_weights, &self);
    folder_end(root);
  }
}

/* ---- residuals ---- */

static trainer_case int8_case(void) {
  trainer_case what = plain();
  what.grad_wire = ZERO1_WIRE_INT8;
  what.grad_scale = 0;
  return what;
}

static float residual_of(trainer *self, int64_t param, int64_t e) {
  float *residual;
  must(self->optimizer, zero1_optimizer_residual(self->optimizer, param, &residual));
  return residual[e];
}

static float made_residual(int32_t rank, int64_t param, int64_t e) {
  return (float)((e % 13) * 4 + rank * 8 + param);
}

static void save_residuals(int32_t rank, zero1_comm *comm, void *arg) {
  const loading *const self = (const loading *)arg;
  trainer trained;
  trainer_begin(&trained, self->what, comm);
  for (int32_t i = 0; i < self->what->param_count; ++i) {
    float *residual;
    must(trained.optimizer, zero1_optimizer_residual(trained.optimizer, i, &residual));
    for (int64_t e = 0; residual && e < self->what->params[i].numel; ++e)
      residual[e] = made_residual(rank, i, e);
  }
  must(trained.optimizer, zero1_checkpoint_save(trained.optimizer, self->root, NULL));
  trainer_end(&trained);
}

static void residuals_are_the_same(trainer *self) {
  for (int64_t e = 0; e < 5000; ++e)
    CHECK(residual_of(self, 4, e) == made_residual(self->rank, 4, e));
}

/* Saved by 4 ranks: the mean over them. */
static void residuals_are_means(trainer *self) {
  for (int64_t e = 0; e < 5000; ++e)
    CHECK(residual_of(self, 4, e) == made_residual(0, 4, e) + (0 + 8 + 16 + 24) / 4);
}

static void residuals_go_with_their_rank_or_are_shared_out(void) {
  char root[256];
  const trainer_case what = int8_case();
  loading load = {.what = &what, .root = root, .words = ""};
  folder_begin(root, sizeof root);
  check_threads(4, NULL, save_residuals, &load);
  load.then = residuals_are_the_same;
  load_as(4, &load);
  load.then = residuals_are_means;
  load_as(2, &load);
  folder_end(root);
}

/* ---- grad_scale ---- */

static double scale_saved_by(trainer *self) {
  static char root[256]; /* one for all ranks */
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  if (!self->rank) folder_begin(root, sizeof root);
  check_meet();
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
  CHECK_STATUS(zero1_checkpoint_open(root, &checkpoint, NULL, 0), ZERO1_OK);
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, &info, sizeof info), ZERO1_OK);
  zero1_checkpoint_close(&checkpoint);
  check_meet();
  if (!self->rank) folder_end(root);
  return info.grad_scale;
}

static void scale_is_a_third(trainer *self) {
  CHECK(scale_saved_by(self) == 1.0 / 3);
}

static void scale_is_a_quarter(trainer *self) {
  CHECK(scale_saved_by(self) == 0.25);
}

static void the_mean_over_ranks_stays(void) {
  char root[256];
  trainer_case what = plain();
  loading load = {.what = &what, .root = root, .words = ""};
  for (int i = 0; i < 2; ++i) {
    what.grad_scale = i ? 0.375 : 0;
    load.then = i ? scale_is_a_quarter : scale_is_a_third;
    folder_begin(root, sizeof root);
    check_threads(2, NULL, save_rank, &load);
    load_as(3, &load);
    folder_end(root);
  }
}

/* ---- damage on the way ---- */

static void steps_are_refused(trainer *self) {
  CHECK_EQ(trainer_info(self).count, 0);
  for (int32_t i = self->what->param_count - 1; i >= 0; --i)
    if (!trainer_is_frozen(self, i)) trainer_mark(self, 0, i);
  CHECK_TOLD(self, zero1_optimizer_step(self->optimizer), ZERO1_ERR_STATE, "load");
  must(self->optimizer, zero1_optimizer_wait_params(self->optimizer, self->caller.streams[0]));
}

static void a_load_that_fails_on_its_way_allows_no_step(void) {
  char root[256], path[400];
  const trainer_case what = plain();
  loading load = {.what = &what, .root = root, .words = ""};
  folder_begin(root, sizeof root);
  check_threads(2, NULL, save_rank, &load);
  path_of(path, sizeof path, root, "step-000000000002/rank-00001-of-00002-00000.safetensors");
  FILE *const file = fopen(path, "r+b");
  CHECK(file && !fseek(file, -5, SEEK_END));
  const int was = fgetc(file);
  CHECK(was != EOF && !fseek(file, -5, SEEK_END) && fputc(was ^ 64, file) != EOF && !fclose(file));
  load.status = ZERO1_ERR_CORRUPT;
  load.words = "rank-00001-of-00002-00000.safetensors";
  load.then = steps_are_refused;
  load_as(2, &load);
  folder_end(root);
}

/* ---- two jobs ---- */

static void save_beside(int32_t rank, zero1_comm *comm, void *arg) {
  const trainer_case what = plain();
  const char *const root = (const char *)arg;
  trainer one, two;
  (void)rank;
  trainer_begin(&one, &what, comm);
  trainer_begin(&two, &what, comm);
  must(one.optimizer, zero1_checkpoint_save(one.optimizer, root, NULL));
  CHECK_TOLD(&two, zero1_checkpoint_save(two.optimizer, root, NULL), ZERO1_ERR_LOCKED, root);
  must(one.optimizer, zero1_checkpoint_save(one.optimizer, root, NULL));
  trainer_end(&one);
  must(two.optimizer, zero1_checkpoint_save(two.optimizer, root, NULL));
  trainer_end(&two);
}

static void two_writers_of_one_root_are_kept_apart(void) {
  char root[256];
  folder_begin(root, sizeof root);
  check_threads(2, NULL, save_beside, root);
  folder_end(root);
}

/* ---- paths ---- */

/* One process: all ranks are in the same folder. */
static void go_elsewhere_meanwhile(trainer *self, const char *root) {
  char here[1024];
  CHECK(getcwd(here, sizeof here) && !chdir(root) && !mkdir("elsewhere", 0777));
  must(self->optimizer, zero1_checkpoint_save_async(self->optimizer, "made", NULL));
  CHECK(!chdir("elsewhere"));
  must(self->optimizer, zero1_checkpoint_wait(self->optimizer));
  CHECK(!folder_has(".", "made"));
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, "made", NULL));
  CHECK(folder_has("made", ".lock")); /* another folder of the same relative path */
  CHECK(!chdir(here) && folder_has(root, "made/latest") && !folder_has(root, "made/.lock"));
}

static void a_relative_root_is_that_of_the_call(void) {
  const trainer_case what = plain();
  play(1, &what, go_elsewhere_meanwhile);
}

static void remove_root(trainer *self, const char *root) {
  char path[300];
  zero1__error error;
  path_of(path, sizeof path, root, "made");
  for (int i = 0; i < 2; ++i) {
    must(self->optimizer, zero1_checkpoint_save(self->optimizer, path, NULL));
    CHECK(folder_has(path, ".lock") && folder_has(path, "latest"));
    CHECK_STATUS(zero1__remove_tree(path, &error), ZERO1_OK);
  }
}

static void a_root_that_is_made_anew_is_locked_anew(void) {
  const trainer_case what = plain();
  play(1, &what, remove_root);
}

static void load_each_way(trainer *self, const char *root) {
  static const char *const ways[] = {"",         "/",        "//",
                                     "/latest",  "/latest/", "/step-000000000002",
                                     "/linked/", "/linked",  "/step-000000000002//"};
  char path[400];
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, root, NULL));
  path_of(path, sizeof path, root, "linked");
  CHECK(self->rank || !symlink("step-000000000002", path));
  check_meet();
  for (size_t i = 0; i < sizeof ways / sizeof *ways; ++i) {
    snprintf(path, sizeof path, "%s%s", root, ways[i]);
    must(self->optimizer, zero1_checkpoint_load(self->optimizer, path, NULL));
  }
}

static void every_path_to_a_checkpoint_loads_it(void) {
  const trainer_case what = plain();
  play(2, &what, load_each_way);
}

static void load_by_link(trainer *self, const char *root) {
  char path[300], latest[300], whole[340];
  path_of(path, sizeof path, root, "made");
  must(self->optimizer, zero1_checkpoint_save(self->optimizer, path, NULL));
  path_of(latest, sizeof latest, root, "latest");
  for (int i = 0; i < 2; ++i) { /* in another folder below, and by a whole path */
    path_of(whole, sizeof whole, path, "step-000000000002");
    check_meet();
    if (!self->rank) (void)unlink(latest);
    CHECK(self->rank || !symlink(i ? whole : "made/step-000000000002", latest));
    check_meet();
    must(self->optimizer, zero1_checkpoint_load(self->optimizer, root, NULL));
  }
}

static void latest_may_lead_out_of_its_root(void) {
  const trainer_case what = plain();
  play(2, &what, load_by_link);
}

/* ---- a load while a save is under way ---- */

enum { LARGE = 16 << 20, SMALL = 1000 };

/* [count] of specs, the last one SMALL. */
static zero1_optimizer *create_frozen(zero1_comm *comm, const zero1_param_spec *specs,
                                      int64_t count) {
  zero1_config config;
  zero1_optimizer *optimizer;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  config.threads = 1;
  CHECK_STATUS(zero1_optimizer_create(comm, &config, specs, sizeof *specs, count, &optimizer),
               ZERO1_OK);
  return optimizer;
}

static float *fill_small(zero1_optimizer *optimizer, float value) {
  void *small;
  must(optimizer,
       zero1_optimizer_param(optimizer, zero1_optimizer_param_count(optimizer) - 1, &small));
  for (int64_t e = 0; e < SMALL; ++e) ((float *)small)[e] = value;
  must(optimizer, zero1_optimizer_sync_params(optimizer, 0));
  return small;
}

/* The writer has much to do before it comes to the small one; the load has that one alone. */
static void load_over_a_save(int32_t rank, zero1_comm *comm, void *arg) {
  const int64_t large = LARGE, small = SMALL;
  const zero1_param_spec specs[] = {{"large", &large, 1, 0, ZERO1_PARAM_FROZEN, 0},
                                    {"small", &small, 1, 0, ZERO1_PARAM_FROZEN, 0}};
  char first[300], second[300];
  zero1_load_options options;
  (void)rank;
  path_of(first, sizeof first, (const char *)arg, "first");
  path_of(second, sizeof second, (const char *)arg, "second");
  zero1_optimizer *optimizer = create_frozen(comm, &specs[1], 1);
  (void)fill_small(optimizer, 1);
  must(optimizer, zero1_checkpoint_save(optimizer, first, NULL));
  zero1_optimizer_destroy(&optimizer);
  optimizer = create_frozen(comm, specs, 2);
  const float *const frozen = fill_small(optimizer, 2);
  must(optimizer, zero1_checkpoint_save_async(optimizer, second, NULL));
  CHECK_STATUS(zero1_load_options_init(&options, sizeof options), ZERO1_OK);
  options.allow_missing = "large";
  must(optimizer, zero1_checkpoint_load(optimizer, first, &options));
  CHECK(frozen[0] == 1 && frozen[SMALL - 1] == 1);
  must(optimizer, zero1_checkpoint_wait(optimizer));
  must(optimizer, zero1_checkpoint_load(optimizer, second, NULL));
  CHECK(frozen[0] == 2 && frozen[SMALL - 1] == 2); /* as they were at the call */
  zero1_optimizer_destroy(&optimizer);
}

static void a_load_waits_until_frozen_parameters_are_written(void) {
  char root[256];
  folder_begin(root, sizeof root);
  check_threads(1, NULL, load_over_a_save, root);
  folder_end(root);
}

int main(void) {
  RUN(wrong_calls_name_what_is_wrong_and_leave_nothing);
  RUN(gradients_on_their_way_are_refused);
  RUN(places_that_cannot_be_written_are_named);
  RUN(a_disk_that_takes_no_more_leaves_the_checkpoint_before);
  RUN(metadata_and_hyper_parameters_come_back);
  RUN(old_checkpoints_go_as_it_was_asked);
  RUN(later_steps_do_not_count_as_older);
  RUN(the_same_step_takes_the_place_of_the_first);
  RUN(another_models_checkpoint_is_refused_with_both_shapes);
  RUN(weights_alone_are_loaded_into_any_data_type);
  RUN(residuals_go_with_their_rank_or_are_shared_out);
  RUN(the_mean_over_ranks_stays);
  RUN(a_load_that_fails_on_its_way_allows_no_step);
  RUN(two_writers_of_one_root_are_kept_apart);
  RUN(a_relative_root_is_that_of_the_call);
  RUN(a_root_that_is_made_anew_is_locked_anew);
  RUN(every_path_to_a_checkpoint_loads_it);
  RUN(latest_may_lead_out_of_its_root);
  RUN(a_load_waits_until_frozen_parameters_are_written);
  return check_summary();
}
