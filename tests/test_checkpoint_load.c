// sanitizers: address undefined thread
// timeout: 200

/* What the call that loads promises besides the bits: what does not fit is refused with both sides
 * named, partial loads, residuals and scales of another number of ranks, damage, every path. */
#include "checkpoint_scene.h"

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

/* A checkpoint of plain(), and an optimizer that is a little different. */
typedef struct other_model {
  char root[256];
  trainer_param params[7];
  trainer_case saved, loaded;
  zero1_load_options options;
} other_model;

static void other_begin(other_model *other) {
  other->saved = other->loaded = plain();
  other->loaded.params = other->params;
  memcpy(other->params, scene_params, sizeof scene_params);
  other->params[6] = (trainer_param){10, 0, 0};
  folder_begin(other->root, sizeof other->root);
  const loading save = {.what = &other->saved, .root = other->root};
  check_threads(2, NULL, save_rank, (void *)(uintptr_t)&save);
  CHECK_STATUS(zero1_load_options_init(&other->options, sizeof other->options), ZERO1_OK);
}

/* words NULL: it is loaded; count: of updates, then. */
static void other_loads(const other_model *other, int32_t world, const char *words, int32_t count) {
  const loading load = {.what = &other->loaded,
                        .options = &other->options,
                        .root = other->root,
                        .status = words ? ZERO1_ERR_MISMATCH : ZERO1_OK,
                        .words = words ? words : "",
                        .then = count ? count_is_two : count_is_zero};
  load_as(world, &load);
}

static void another_shape_or_group_is_refused_with_both(void) {
  other_model other;
  other_begin(&other);
  other_loads(&other, 3, NULL, 2);
  other.params[4].numel = 5001;
  other_loads(&other, 2, "[5000]", 0);
  other_loads(&other, 2, "[5001]", 0);
  other.params[4] = scene_params[4];
  other.params[4].group = 0;
  other_loads(&other, 2, "'p4'", 0);
  other.options.keep_hyper = 1;
  other_loads(&other, 2, NULL, 2);
  folder_end(other.root);
}

static void a_parameter_more_or_less_is_named_or_allowed(void) {
  other_model other;
  other_begin(&other);
  other.loaded.param_count = 5;
  other_loads(&other, 2, "'p5'", 0);
  other.options.allow_extra = "x*,p[56]";
  other_loads(&other, 2, NULL, 2);
  other.options.allow_extra = NULL;
  other.loaded.param_count = 7;
  other_loads(&other, 1, "'p6'", 0);
  other.options.allow_missing = "p6";
  other_loads(&other, 2, NULL, 2);
  folder_end(other.root);
}

static void what_is_frozen_in_one_alone_takes_weights_only(void) {
  other_model other;
  other_begin(&other);
  other.params[4].flags = ZERO1_PARAM_FROZEN;
  other.params[3].flags = 0;
  other_loads(&other, 2, "frozen", 0);
  other.options.weights_only = 1;
  other_loads(&other, 3, NULL, 0);
  folder_end(other.root);
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
    memcpy(changed, scene_params, sizeof scene_params);
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

/* ---- paths ---- */

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
  RUN(another_shape_or_group_is_refused_with_both);
  RUN(a_parameter_more_or_less_is_named_or_allowed);
  RUN(what_is_frozen_in_one_alone_takes_weights_only);
  RUN(weights_alone_are_loaded_into_any_data_type);
  RUN(residuals_go_with_their_rank_or_are_shared_out);
  RUN(the_mean_over_ranks_stays);
  RUN(a_load_that_fails_on_its_way_allows_no_step);
  RUN(every_path_to_a_checkpoint_loads_it);
  RUN(latest_may_lead_out_of_its_root);
  RUN(a_load_waits_until_frozen_parameters_are_written);
  return check_summary();
}
