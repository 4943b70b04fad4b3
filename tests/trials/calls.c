/* Every system call that a save makes in its root fails once, or its process dies there, just before
 * it or just after: the save then succeeds or says what is wrong, on every rank; `latest` is the
 * checkpoint before it or the new one, of its step bit for bit; and the next save succeeds, of the
 * same processes or of others, and leaves nothing but checkpoints.
 *
 *   trial_calls --every 1 --offset 0
 *
 * The n-th call, n = 1 + offset, 1 + offset + every, ... until a save makes fewer; in turn of each
 * rank, of each way to save, and into roots of each kind. */
#include "processes.h"

enum { RANKS = 2, SAVED = 3, STEPS = 6, KEEP_LAST = 2, NO_RUN_LASTS_S = 60 };

/* What the root holds. */
enum {
  SCENE_OLDER, /* checkpoints of steps 1 and 2, the first of which goes; and what crashes left */
  SCENE_SAME,  /* that, and another one of the same step */
  SCENE_NONE,  /* it is not there */
  SCENES
};

typedef struct calls_run {
  const trial_states *states;
  char root[300];
  int32_t scene, way, victim;
  faults_plan plan;
  int32_t again; /* 1: the same processes go on and save the next step */
} calls_run;

typedef struct calls_driver {
  process_world *world;
  trial_states states;
  calls_run run;
  char below[256], templates[SCENES][300];
  int64_t every, offset;
  int64_t runs, died, failed, succeeded;
} calls_driver;

static const char *const scene_names[] = {"older ones", "one of this step", "no root"};
static const char *const way_names[] = {"save", "save_async, pinned", "save_async, snapshot"};
static const char *const kind_names[] = {"EIO",   "ENOSPC",        "EACCES",      "EINTR",
                                         "short", "killed before", "killed after"};

/* ---- a rank ---- */

static zero1_status save_now(trainer *trained, const char *root, int way) {
  zero1_save_options options;
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.keep_last = KEEP_LAST;
  options.mode = way == SAVE_SNAPSHOT ? ZERO1_SAVE_SNAPSHOT : ZERO1_SAVE_PINNED;
  if (way == SAVE_SYNC) return zero1_checkpoint_save(trained->optimizer, root, &options);
  const zero1_status status = zero1_checkpoint_save_async(trained->optimizer, root, &options);
  return status ? status : zero1_checkpoint_wait(trained->optimizer);
}

static void save_with_fault(process_rank *self, trainer *trained, const calls_run *run) {
  process_report *const report = &self->world->reports[self->rank];
  if (self->rank == run->victim) faults_arm(&run->plan, &report->faults);
  const zero1_status status = save_now(trained, run->root, run->way);
  if (self->rank == run->victim) faults_disarm();
  process_tell(self, status, zero1_optimizer_last_error(trained->optimizer));
  if (!self->rank) report->latest = trial_latest(run->root);
}

static void calls_rank(process_rank *self, void *arg) {
  const calls_run *const run = (const calls_run *)arg;
  trainer_case train = run->states->train;
  trainer trained;
  zero1_comm *comm;
  train.bucket_numel = 2000;
  CHECK_STATUS(process_comm(self, &comm), ZERO1_OK);
  CHECK_STATUS(trial_create(&trained, &train, comm, 20), ZERO1_OK);
  must(trained.optimizer, trial_first(&trained));
  for (int32_t step = 0; step < SAVED; ++step) must(trained.optimizer, trial_step(&trained, step));
  save_with_fault(self, &trained, run);
  if (run->again) {
    must(trained.optimizer, trial_step(&trained, SAVED));
    must(trained.optimizer, save_now(&trained, run->root, run->way));
  }
  trainer_end(&trained);
  zero1_comm_destroy(&comm);
}

/* ---- roots ---- */

static void leave_file(const char *root, const char *name) {
  char path[400];
  zero1__error error;
  zero1__error_clear(&error);
  snprintf(path, sizeof path, "%.300s/%s", root, name);
  CHECK_STATUS(zero1__save_file(path, "left", 4, NULL, 0, &error), ZERO1_OK);
}

static void leave_folder(const char *root, const char *name) {
  char path[400];
  snprintf(path, sizeof path, "%.300s/%s", root, name);
  CHECK(!mkdir(path, 0777));
}

static void template_rank(process_rank *self, void *arg) {
  const calls_driver *const driver = (const calls_driver *)arg;
  trainer trained;
  zero1_comm *comm;
  (void)self;
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  CHECK_STATUS(trial_create(&trained, &driver->states.train, comm, 60), ZERO1_OK);
  must(trained.optimizer, trial_first(&trained));
  for (int32_t step = 0; step < SAVED; ++step) {
    must(trained.optimizer, trial_step(&trained, step));
    for (int32_t scene = 0; scene < SCENE_NONE; ++scene)
      if (step + 1 < SAVED || scene == SCENE_SAME)
        must(trained.optimizer,
             zero1_checkpoint_save(trained.optimizer, driver->templates[scene], NULL));
  }
  trainer_end(&trained);
  zero1_comm_destroy(&comm);
}

static void make_templates(calls_driver *self) {
  for (int32_t scene = 0; scene < SCENE_NONE; ++scene)
    snprintf(self->templates[scene], sizeof self->templates[scene], "%.200s/template-%d",
             self->below, scene);
  process_check(self->world, template_rank, self, NO_RUN_LASTS_S);
  for (int32_t scene = 0; scene < SCENE_NONE; ++scene) {
    const char *const root = self->templates[scene];
    leave_folder(root, ".save-0123456789abcdef");
    leave_folder(root, ".save-0123456789abcdef/data");
    leave_file(root, ".save-0123456789abcdef/data/rank-00000-of-00002-00000.safetensors");
    leave_folder(root, ".gone-step-000000000000");
    leave_file(root, ".gone-step-000000000000/manifest.json");
  }
}

static void copy_tree(const char *from, const char *to) {
  int end;
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (!pid) {
    execlp("cp", "cp", "-a", "--", from, to, (char *)NULL);
    _exit(1);
  }
  CHECK(waitpid(pid, &end, 0) == pid && WIFEXITED(end) && !WEXITSTATUS(end));
}

/* ---- what came of it ---- */

static int64_t latest_before(const calls_run *run) {
  static const int64_t latest[] = {SAVED - 1, SAVED, -1};
  return latest[run->scene];
}

static void check_told(const calls_run *run, const process_world *world) {
  for (int32_t rank = 0; rank < RANKS; ++rank) {
    const process_report *const report = &world->reports[rank];
    const int named = report->status == ZERO1_ERR_IO && strstr(report->text, run->root);
    const int survived = run->plan.kind == FAULT_EINTR ? !report->status : 1;
    if ((!report->status || named) && survived) continue;
    fprintf(stderr, "rank %d: status %d: %s\n", rank, report->status, report->text);
    CHECK(!"names the file, or succeeds; what is interrupted is made again");
  }
}

static void look_rank(process_rank *self, void *arg) {
  const calls_driver *const driver = (const calls_driver *)arg;
  const trial_look look = {.root = driver->run.root,
                           .states = &driver->states,
                           .bucket_numel = 700,
                           .keep_last = KEEP_LAST,
                           .latest = trial_latest(driver->run.root)};
  (void)self;
  trial_check_root(&look, 1 + (int32_t)(driver->runs % 3));
}

/* 1: the fault happened. */
static int judge(calls_driver *self) {
  process_world *const world = self->world;
  const calls_run *const run = &self->run;
  const int32_t victim = run->victim, kind = run->plan.kind;
  const int ended = world->ends[victim];
  world->killed[victim] = WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL &&
                          (kind == FAULT_KILL_BEFORE || kind == FAULT_KILL_AFTER);
  process_check_ends(world);
  const int died = world->killed[victim];
  const int64_t latest = trial_latest(run->root), expected = run->again ? SAVED + 1 : SAVED;
  if (died)
    process_check_survivors(world);
  else
    check_told(run, world);
  int failed = 0;
  for (int32_t rank = 0; rank < RANKS; ++rank) failed |= world->reports[rank].status != 0;
  CHECK(latest == expected || ((died || failed) && !run->again && latest == latest_before(run)));
  if (!died) {
    const int64_t then = world->reports[0].latest;
    CHECK(then == SAVED || (failed && then == latest_before(run)));
  }
  if (run->again) trial_check_tidy(run->root, KEEP_LAST);
  self->died += died;
  self->failed += !died && failed;
  self->succeeded += !died && !failed && world->reports[victim].faults.happened;
  return world->reports[victim].faults.happened;
}

/* ---- all of them ---- */

static int run_once(calls_driver *self) {
  calls_run *const run = &self->run;
  snprintf(run->root, sizeof run->root, "%.200s/root-%lld", self->below, (long long)self->runs);
  snprintf(self->world->what, sizeof self->world->what,
           "%s, %s, rank %d, %s call %lld: %s%s; in %s", scene_names[run->scene],
           way_names[run->way], run->victim, run->plan.what ? "looking" : "changing",
           (long long)run->plan.at, kind_names[run->plan.kind], run->again ? ", once more" : "",
           run->root);
  run->plan.root = run->root;
  if (run->scene != SCENE_NONE) copy_tree(self->templates[run->scene], run->root);
  process_start(self->world, RANKS, calls_rank, run);
  process_await(self->world, NO_RUN_LASTS_S);
  const int happened = judge(self);
  const size_t said = strlen(self->world->what);
  snprintf(self->world->what + said, sizeof self->world->what - said, ": %s",
           self->world->reports[run->victim].faults.what);
  process_check(self->world, look_rank, self, NO_RUN_LASTS_S);
  folder_end(run->root);
  self->runs += 1;
  return happened;
}

/* A call that looks kills nothing that one before or after it would not. */
static int is_tried(const calls_run *run) {
  const int32_t kind = run->plan.kind;
  if (run->plan.what == FAULT_LOOKS) return kind == FAULT_EIO || kind == FAULT_EINTR;
  return kind != FAULT_EACCES || run->scene == SCENE_OLDER;
}

/* Whether the save made so many calls. */
static int try_call(calls_driver *self, int64_t at) {
  int happened = 0;
  self->run.plan.at = at;
  for (int32_t kind = 0; kind < FAULT_KINDS; ++kind) {
    self->run.plan.kind = kind;
    self->run.again = kind == FAULT_EIO || kind == FAULT_SHORT;
    if (!is_tried(&self->run)) continue;
    happened |= run_once(self);
    if (!happened) return 0; /* EIO, the first kind, happens to any call */
  }
  return 1;
}

static void try_calls(calls_driver *self, int32_t scene, int32_t way, int32_t victim) {
  calls_run *const run = &self->run;
  *run = (calls_run){.states = &self->states, .scene = scene, .way = way, .victim = victim};
  for (int32_t what = 0; what < FAULT_CLASSES; ++what) {
    int64_t at = 1 + self->offset % self->every;
    run->plan.what = what;
    while (try_call(self, at)) at += self->every;
    if (self->every == 1)
      printf("calls: %s, %s, rank %d: %lld calls that %s\n", scene_names[scene], way_names[way],
             victim, (long long)at - 1, what ? "look" : "change");
    fflush(stdout);
  }
}

static void drive(void *arg) {
  calls_driver *const self = (calls_driver *)arg;
  trial_states_begin(&self->states, 0, STEPS);
  folder_begin(self->below, sizeof self->below);
  make_templates(self);
  for (int32_t scene = 0; scene < SCENES; ++scene)
    for (int32_t victim = 0; victim < RANKS; ++victim)
      for (int32_t way = 0; way < SAVE_WAYS; ++way)
        if (way == scene || (scene == SCENE_OLDER && self->every == 1))
          try_calls(self, scene, way, victim);
  folder_end(self->below);
  trial_states_end(&self->states);
  printf(
      "calls: %lld saves in which a call failed or its process died: %lld died there, %lld told "
      "of an error, %lld succeeded all the same\n",
      (long long)(self->died + self->failed + self->succeeded), (long long)self->died,
      (long long)self->failed, (long long)self->succeeded);
}

int main(int argc, char **argv) {
  static calls_driver self;
  self.every = trial_argument(argc, argv, "every", 1);
  self.offset = trial_argument(argc, argv, "offset", 0);
  CHECK(self.every > 0 && self.offset >= 0);
  self.world = process_world_create();
  return process_drive(self.world, drive, &self);
}
