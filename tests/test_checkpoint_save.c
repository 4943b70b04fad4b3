// sanitizers: address undefined thread
// timeout: 200

/* What the calls that save promise besides the bits: errors that name what is wrong and change
 * nothing, what is kept, metadata, one writer of a root at a time. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "checkpoint_scene.h"

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

int main(void) {
  RUN(wrong_calls_name_what_is_wrong_and_leave_nothing);
  RUN(gradients_on_their_way_are_refused);
  RUN(places_that_cannot_be_written_are_named);
  RUN(a_disk_that_takes_no_more_leaves_the_checkpoint_before);
  RUN(metadata_and_hyper_parameters_come_back);
  RUN(old_checkpoints_go_as_it_was_asked);
  RUN(later_steps_do_not_count_as_older);
  RUN(the_same_step_takes_the_place_of_the_first);
  RUN(two_writers_of_one_root_are_kept_apart);
  RUN(a_relative_root_is_that_of_the_call);
  RUN(a_root_that_is_made_anew_is_locked_anew);
  return check_summary();
}
