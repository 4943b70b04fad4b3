/* Ranks that are killed in the middle of saves, again and again in one root: what they leave is a
 * root whose `latest`, and every other checkpoint of it, is that of its step, bit for bit; from
 * there any number of ranks goes on, and its next save sweeps what is left.
 *
 *   trial_crash --trials 500 --seed 1
 *
 * A run goes on from `latest`, and saves before each of its steps. Once its k-th save has begun, k
 * at random, a rank (or all) is killed after a random part of the time that a save takes, or a
 * little more. */
#include "processes.h"

enum { RUN_STEPS = 4, KEEP_LAST = 2, NO_TRIAL_LASTS_S = 60 };

typedef struct crash_run {
  const trial_states *states;
  char root[300];
  int64_t first; /* step to go on from; -1: from the first values */
  int64_t bucket_numel;
  int32_t world_size, way;
} crash_run;

typedef struct crash_counts {
  int64_t killed, inside, nothing_saved, moved; /* moved: `latest` is newer than what was known */
} crash_counts;

/* ---- a rank ---- */

static void note_safe(process_report *report, int64_t step, int64_t begin_ns) {
  atomic_store(&report->safe, step);
  atomic_fetch_add(&report->save_ns, zero1__now_ns() - begin_ns);
  atomic_fetch_add(&report->succeeded, 1);
}

static zero1_status save_here(process_rank *self, trainer *trained, const crash_run *run,
                              int64_t step) {
  process_report *const report = &self->world->reports[self->rank];
  zero1_save_options options;
  CHECK_STATUS(zero1_save_options_init(&options, sizeof options), ZERO1_OK);
  options.keep_last = KEEP_LAST;
  options.mode = run->way == SAVE_SNAPSHOT ? ZERO1_SAVE_SNAPSHOT : ZERO1_SAVE_PINNED;
  atomic_store(&report->begun, step);
  atomic_fetch_add(&report->saves, 1);
  return run->way == SAVE_SYNC
             ? zero1_checkpoint_save(trained->optimizer, run->root, &options)
             : zero1_checkpoint_save_async(trained->optimizer, run->root, &options);
}

/* A save, a step meanwhile, and the save is over. */
static zero1_status save_and_step(process_rank *self, trainer *trained, const crash_run *run,
                                  int64_t step) {
  process_report *const report = &self->world->reports[self->rank];
  const int64_t begin_ns = zero1__now_ns();
  zero1_status status = save_here(self, trained, run, step);
  if (!status && run->way == SAVE_SYNC) note_safe(report, step, begin_ns);
  if (!status) status = trial_step(trained, (int32_t)step);
  if (!status) status = zero1_checkpoint_wait(trained->optimizer);
  if (!status && run->way != SAVE_SYNC) note_safe(report, step, begin_ns);
  return status;
}

static void crash_rank(process_rank *self, void *arg) {
  const crash_run *const run = (const crash_run *)arg;
  trainer_case train = run->states->train;
  trainer trained;
  zero1_comm *comm;
  train.bucket_numel = run->bucket_numel;
  zero1_status status = process_comm(self, &comm);
  if (status) {
    process_tell(self, status, "no communicator");
    return;
  }
  status = trial_create(&trained, &train, comm, 60);
  if (status) {
    process_tell(self, status, zero1_comm_last_error(comm));
    return;
  }
  status = run->first < 0 ? trial_first(&trained) : trial_load(&trained, run->root);
  const int64_t first = run->first < 0 ? 0 : run->first;
  for (int64_t step = first; step < first + RUN_STEPS && !status; ++step)
    status = save_and_step(self, &trained, run, step);
  process_tell(self, status, zero1_optimizer_last_error(trained.optimizer));
  trainer_end(&trained);
  zero1_comm_destroy(&comm);
}

/* ---- a trial ---- */

typedef struct crash_driver {
  process_world *world;
  trial_states states[TRIAL_CASES];
  random_state random;
  crash_run run;
  int64_t trials;
  int64_t roots;                          /* so far; 0: none is there */
  double save_us[TRIAL_CASES][SAVE_WAYS]; /* what a save takes */
  crash_counts counts;
} crash_driver;

static int64_t pick(crash_driver *self, int64_t count) {
  return (int64_t)(random_bits(&self->random) >> 20) % count;
}

static int32_t which_case(const crash_driver *self) {
  return (int32_t)(self->run.states - self->states);
}

/* When the k-th save of rank 0 is on its way, or all is over: then 0. */
static int await_save(crash_driver *self, int32_t save) {
  const int64_t end_ns = zero1__now_ns() + (int64_t)NO_TRIAL_LASTS_S * 1000000000;
  process_world *const world = self->world;
  while (atomic_load(&world->reports[0].saves) < save) {
    CHECK(zero1__now_ns() < end_ns);
    if (!process_look(world)) return 0;
    process_nap(20);
  }
  return 1;
}

static void kill_some(crash_driver *self) {
  process_world *const world = self->world;
  const int64_t victim = pick(self, world->world_size + 1);
  const process_report *const report = &world->reports[0];
  self->counts.inside += atomic_load(&report->saves) > atomic_load(&report->succeeded);
  self->counts.killed += 1;
  for (int32_t rank = 0; rank < world->world_size; ++rank)
    if (victim == rank || victim == world->world_size) process_kill(world, rank);
}

/* A mean that follows. */
static void learn(crash_driver *self) {
  const process_report *const report = &self->world->reports[0];
  double *const us = &self->save_us[which_case(self)][self->run.way];
  const int32_t count = atomic_load(&report->succeeded);
  if (!count) return;
  const double mean = (double)atomic_load(&report->save_ns) * 1e-3 / count;
  *us = *us > 0 ? 0.8 * *us + 0.2 * mean : mean;
}

static int64_t highest(const process_world *world, int want_safe) {
  int64_t found = -1;
  for (int32_t rank = 0; rank < world->world_size; ++rank) {
    const process_report *const report = &world->reports[rank];
    const int64_t step = want_safe ? atomic_load(&report->safe) : atomic_load(&report->begun);
    if (step > found) found = step;
  }
  return found;
}

static void look_rank(process_rank *self, void *arg) {
  crash_driver *const driver = (crash_driver *)arg;
  static const int64_t buckets[] = {700, 5000, (int64_t)1 << 40};
  const trial_look look = {.root = driver->run.root,
                           .states = driver->run.states,
                           .bucket_numel = buckets[pick(driver, 3)],
                           .keep_last = KEEP_LAST,
                           .latest = driver->run.first};
  (void)self;
  trial_check_root(&look, 1 + (int32_t)pick(driver, 4));
}

/* run.first: what `latest` is now. */
static void check_root(crash_driver *self) {
  const int64_t before = self->run.first;
  const int64_t safe = highest(self->world, 1), begun = highest(self->world, 0);
  const int64_t latest = trial_latest(self->run.root);
  CHECK(latest >= safe && latest >= before);
  CHECK(latest <= begun || latest == before);
  CHECK(latest < 0 || folder_has(self->run.root, "latest") || safe < 0);
  self->counts.nothing_saved += latest < 0;
  self->counts.moved += latest > safe && latest > before;
  self->run.first = latest;
  process_check(self->world, look_rank, self, NO_TRIAL_LASTS_S);
  self->run.first = (latest < 0 ? 0 : latest) + 1;
}

static void next_root(crash_driver *self, const char *below) {
  crash_run *const run = &self->run;
  if (self->roots) folder_end(run->root);
  snprintf(run->root, sizeof run->root, "%.200s/root-%lld", below, (long long)self->roots);
  run->states = &self->states[self->roots % TRIAL_CASES];
  run->first = -1;
  self->roots += 1;
}

static void try_once(crash_driver *self, const char *below, int64_t trial) {
  static const int64_t buckets[] = {1, 2000, 60000, (int64_t)1 << 40};
  crash_run *const run = &self->run;
  if (!self->roots || run->first + RUN_STEPS + 1 > TRAINER_STEPS) next_root(self, below);
  run->world_size = 2 + (int32_t)pick(self, 2);
  run->way = (int32_t)pick(self, SAVE_WAYS);
  run->bucket_numel = buckets[pick(self, 4)];
  const double save_us = self->save_us[which_case(self)][run->way];
  const double delay_us = (save_us > 0 ? save_us : 2000) * 1.2 * (double)pick(self, 1000) * 1e-3;
  snprintf(self->world->what, sizeof self->world->what,
           "trial %lld: %d ranks, way %d, from step %lld, bucket_numel %lld, in %s",
           (long long)trial, run->world_size, run->way, (long long)run->first,
           (long long)run->bucket_numel, run->root);
  process_start(self->world, run->world_size, crash_rank, run);
  if (await_save(self, 1 + (int32_t)pick(self, RUN_STEPS))) {
    process_nap((long)delay_us);
    kill_some(self);
  }
  process_await(self->world, NO_TRIAL_LASTS_S);
  process_check_ends(self->world);
  process_check_survivors(self->world);
  learn(self);
  check_root(self);
}

/* ---- all of them ---- */

static void tell(const crash_counts *counts, int64_t trials) {
  printf(
      "crash: %lld trials, %lld killed, %lld of them inside of a save; nothing was saved yet in "
      "%lld, a save had succeeded that nobody knew of yet in %lld\n",
      (long long)trials, (long long)counts->killed, (long long)counts->inside,
      (long long)counts->nothing_saved, (long long)counts->moved);
}

static void drive(void *arg) {
  crash_driver *const self = (crash_driver *)arg;
  char below[256];
  prctl(PR_SET_TIMERSLACK, 1000);
  for (int32_t i = 0; i < TRIAL_CASES; ++i) trial_states_begin(&self->states[i], i, TRAINER_STEPS);
  folder_begin(below, sizeof below);
  for (int64_t i = 0; i < self->trials; ++i) {
    if (i && i % 100 == 0) printf("crash: %lld of %lld\n", (long long)i, (long long)self->trials);
    try_once(self, below, i);
  }
  folder_end(below);
  for (int32_t i = 0; i < TRIAL_CASES; ++i) trial_states_end(&self->states[i]);
  CHECK(self->counts.inside > self->trials / 3);
  tell(&self->counts, self->trials);
}

int main(int argc, char **argv) {
  static crash_driver self;
  self.trials = trial_argument(argc, argv, "trials", 500);
  self.random.state = (uint64_t)trial_argument(argc, argv, "seed", 1);
  self.world = process_world_create();
  return process_drive(self.world, drive, &self);
}
