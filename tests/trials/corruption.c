/* Damage of any kind to anything in a root: loading and reading then give what was saved, bit for
 * bit, or an error that names the file; never a crash, a wait without end, or another value. Damage
 * whose checksums were made to fit gives anything but a crash or a wait.
 *
 *   trial_corruption --cases 10000 --seed 1 */
#include "damage.h"
#include "processes.h"

enum { FIRST = 2, LAST = 3, STEPS = 4, CASE_SECONDS = 60, BUCKET = 2000 };

typedef struct corruption {
  process_world *world;
  int64_t cases, seed;
  trial_states states;
  damage_folder folder;
  random_state random;
  zero1_comm *comm;
  trainer loaded;  /* takes what is there */
  char whole[256]; /* a root that is not damaged */
  int64_t errors, unharmed, forged_errors, forged_taken;
} corruption;

/* ---- the root ---- */

static void save_both(int32_t rank, zero1_comm *comm, void *arg) {
  corruption *const self = (corruption *)arg;
  const zero1_pair pair = {"data", "17"};
  trainer_case train = self->states.train;
  trainer trained;
  zero1_save_options options;
  (void)rank;
  train.bucket_numel = BUCKET;
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.metadata = options.rank_metadata = &pair;
  options.metadata_count = options.rank_metadata_count = 1;
  CHECK_STATUS(trial_create(&trained, &train, comm, 60), ZERO1_OK);
  must(trained.optimizer, trial_first(&trained));
  for (int32_t step = 0; step < LAST; ++step) {
    must(trained.optimizer, trial_step(&trained, step));
    if (step + 1 >= FIRST)
      must(trained.optimizer,
           zero1_checkpoint_save(trained.optimizer, self->folder.root, &options));
  }
  must(trained.optimizer, zero1_checkpoint_save(trained.optimizer, self->whole, NULL));
  trainer_end(&trained);
}

static void begin(corruption *self) {
  char path[600];
  trial_states_begin(&self->states, 0, STEPS);
  folder_begin(self->folder.root, sizeof self->folder.root);
  folder_begin(self->whole, sizeof self->whole);
  check_threads(2, NULL, save_both, self);
  damage_path(&self->folder, ".lock", path); /* of a job that has died */
  damage_write(path, "{\"host\":\"a\",\"pid\":1,\"process_start\":1,\"since\":\"b\"}\n", 50);
  damage_begin(&self->folder);
  CHECK_STATUS(zero1_comm_create_self(NULL, &self->comm), ZERO1_OK);
  CHECK_STATUS(trial_create(&self->loaded, &self->states.train, self->comm, 60), ZERO1_OK);
  must(self->loaded.optimizer, trial_first(&self->loaded));
}

static void end(corruption *self) {
  trainer_end(&self->loaded);
  zero1_comm_destroy(&self->comm);
  folder_end(self->folder.root);
  folder_end(self->whole);
  damage_end(&self->folder);
  trial_states_end(&self->states);
}

/* ---- what is asked ---- */

/* The text says where: the file that was damaged. Of `latest`, of a folder, and where two were taken
 * for each other, the root is enough. */
static int names(const corruption *self, const char *text, const damage *done) {
  const char *const slash = strrchr(done->entry->name, '/');
  if (!strstr(text, strrchr(self->folder.root, '/'))) return 0;
  return !slash || done->other || strstr(text, slash);
}

static int is_known(zero1_status status) {
  return status == ZERO1_ERR_CORRUPT || status == ZERO1_ERR_NOT_FOUND || status == ZERO1_ERR_IO ||
         status == ZERO1_ERR_VERSION;
}

static void check_error(const corruption *self, zero1_status status, const char *text,
                        const damage *done) {
  const int fine = *text && (done->forged || (is_known(status) && names(self, text, done)));
  if (!fine) fprintf(stderr, "status %d: %s\n", status, text);
  CHECK(fine);
}

/* Whole, of either step: which one `latest` was then is not the point. */
static int try_load(corruption *self, const damage *done) {
  int64_t where;
  const zero1_status status = trial_load(&self->loaded, self->folder.root);
  if (status) {
    check_error(self, status, zero1_optimizer_last_error(self->loaded.optimizer), done);
    return 0;
  }
  if (done->forged) return 1;
  for (int32_t step = FIRST; step <= LAST; ++step)
    if (!trial_difference(&self->loaded, &self->states.after[step], &where)) return 1;
  CHECK(!"what was loaded is what was saved");
  return 0;
}

/* All of one parameter and state; 1: it was read. */
static int try_read(const corruption *self, zero1_checkpoint *checkpoint,
                    const trainer_result *expected, int32_t param, int32_t state,
                    const damage *done) {
  const uint32_t *const bits[] = {expected->params, expected->master_param, expected->exp_avg,
                                  expected->exp_avg_sq};
  const trainer_param *const what = &self->states.train.params[param];
  const int frozen = (what->flags & ZERO1_PARAM_FROZEN) != 0;
  const int64_t at = trainer_offset(&self->states.train, param);
  if (frozen && state != ZERO1_STATE_PARAM) return 1;
  float *const values = (float *)calloc((size_t)what->numel + 1, sizeof *values);
  CHECK(values != NULL);
  const zero1_status status =
      zero1_checkpoint_read(checkpoint, param, state, 0, 0, what->numel, ZERO1_DTYPE_FP32, values);
  if (status)
    check_error(self, status, zero1_checkpoint_last_error(checkpoint), done);
  else if (!done->forged)
    CHECK(!memcmp(values, bits[state] + at, (size_t)what->numel * sizeof *values));
  free(values);
  return !status;
}

static int32_t go_on(void *context, uint64_t bytes, uint64_t total_bytes) {
  (void)context;
  CHECK(bytes <= total_bytes);
  return 0;
}

static int try_verify(const corruption *self, zero1_checkpoint *checkpoint, const damage *done) {
  const zero1_status status =
      zero1_checkpoint_verify(checkpoint, 1 + (int32_t)(self->random.state % 2), go_on, NULL);
  if (status) check_error(self, status, zero1_checkpoint_last_error(checkpoint), done);
  return !status;
}

/* Everything that can be asked of one. */
static void ask(const corruption *self, zero1_checkpoint *checkpoint, zero1_checkpoint_info *info) {
  zero1_param_spec spec;
  zero1_group group;
  zero1_pair pair;
  const char *name;
  uint64_t bytes;
  CHECK_STATUS(zero1_checkpoint_get_info(checkpoint, info, sizeof *info), ZERO1_OK);
  for (int64_t i = 0; i < info->param_count; ++i)
    CHECK_STATUS(zero1_checkpoint_param(checkpoint, i, &spec, sizeof spec), ZERO1_OK);
  for (int64_t i = 0; i < info->group_count; ++i)
    CHECK_STATUS(zero1_checkpoint_group(checkpoint, i, &group, sizeof group), ZERO1_OK);
  for (int64_t i = 0; i < info->file_count; ++i)
    CHECK_STATUS(zero1_checkpoint_file(checkpoint, i, &name, &bytes), ZERO1_OK);
  for (int64_t i = 0; i < info->metadata_count; ++i)
    CHECK_STATUS(zero1_checkpoint_metadata(checkpoint, -1, i, &pair), ZERO1_OK);
  (void)self;
}

/* Whether all of it could be read, and all was whole. */
static int try_open(const corruption *self, const damage *done) {
  char text[400];
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  const zero1_status status =
      zero1_checkpoint_open(self->folder.root, &checkpoint, text, sizeof text);
  if (status) {
    check_error(self, status, text, done);
    return 0;
  }
  ask(self, checkpoint, &info);
  CHECK(done->forged || (info.count >= FIRST && info.count <= LAST));
  const trainer_result *const expected = &self->states.after[done->forged ? LAST : info.count];
  int all = 1;
  for (int32_t param = 0; param < self->states.train.param_count; ++param)
    for (int32_t state = ZERO1_STATE_PARAM; state <= ZERO1_STATE_EXP_AVG_SQ; ++state)
      all &= try_read(self, checkpoint, expected, param, state, done);
  const int whole = try_verify(self, checkpoint, done);
  CHECK(done->forged || all || !whole); /* what is whole can be read */
  zero1_checkpoint_close(&checkpoint);
  return all && whole;
}

/* A save in the midst of it, of another job: succeeds, and is then the latest; or says what is in its
 * way. */
static void try_save(corruption *self) {
  trainer saved;
  CHECK_STATUS(trial_create(&saved, &self->states.train, self->comm, 60), ZERO1_OK);
  must(saved.optimizer, trial_load(&saved, self->whole));
  const zero1_status status = zero1_checkpoint_save(saved.optimizer, self->folder.root, NULL);
  const char *const text = zero1_optimizer_last_error(saved.optimizer);
  const int told = status == ZERO1_ERR_IO && strstr(text, self->folder.root);
  if (status && !told) fprintf(stderr, "status %d: %s\n", status, text);
  CHECK(!status || told);
  trainer_end(&saved);
  if (status) return;
  CHECK_EQ(trial_latest(self->folder.root), LAST);
  must(self->loaded.optimizer, trial_load(&self->loaded, self->folder.root));
  trial_check_state(&self->loaded, &self->states, LAST);
}

static void try_case(corruption *self, int64_t number) {
  self->random.state = (uint64_t)(self->seed * 1000003 + number);
  damage_restore(&self->folder);
  const damage done = damage_do(&self->folder, &self->random);
  snprintf(self->world->what, sizeof self->world->what, "case %lld: %.300s, in %.200s",
           (long long)number, done.text, self->folder.root);
  alarm(CASE_SECONDS);
  const int loaded = try_load(self, &done), read = try_open(self, &done);
  CHECK(done.forged || loaded || !read); /* what is whole can be loaded */
  if (number % 4 == 0) try_save(self);
  if (done.forged) {
    self->forged_taken += loaded;
    self->forged_errors += !loaded;
  } else {
    self->unharmed += loaded;
    self->errors += !loaded;
  }
}

static void drive(void *arg) {
  corruption *const self = (corruption *)arg;
  begin(self);
  for (int64_t i = 0; i < self->cases; ++i) try_case(self, i);
  alarm(0);
  end(self);
  printf(
      "corruption: %lld cases: %lld errors, %lld loads of what was saved; of checksums that fit "
      "%lld errors, %lld loads\n",
      (long long)self->cases, (long long)self->errors, (long long)self->unharmed,
      (long long)self->forged_errors, (long long)self->forged_taken);
}

int main(int argc, char **argv) {
  static corruption self;
  self.cases = trial_argument(argc, argv, "cases", 10000);
  self.seed = trial_argument(argc, argv, "seed", 1);
  self.world = process_world_create();
  return process_drive(self.world, drive, &self);
}
