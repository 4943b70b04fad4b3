#include "lm_checkpoint.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "zero1/checkpoint.h"

/* ---- what is saved beside the state ---- */

enum { FACT_MAX = 8, PAIR_MAX = FACT_MAX + LM_SHAPING_COUNT, VALUE_BYTES = 32 };

typedef struct facts {
  lm_option_text shaping[LM_SHAPING_COUNT];
  char values[FACT_MAX][VALUE_BYTES];
  zero1_pair pairs[PAIR_MAX];
  int64_t count;
} facts;

static void add_whole(facts *all, const char *key, int64_t number) {
  char *const value = all->values[all->count];
  snprintf(value, VALUE_BYTES, "%" PRId64, number);
  all->pairs[all->count++] = (zero1_pair){key, value};
}

static void add_real(facts *all, const char *key, double number) {
  char *const value = all->values[all->count];
  snprintf(value, VALUE_BYTES, "%a", number);
  all->pairs[all->count++] = (zero1_pair){key, value};
}

/* [in] seconds  that training has taken, on rank 0's clock: every rank is to say the same */
static void gather_facts(const lm_trainer *t, double seconds, facts *all) {
  *all = (facts){0};
  add_whole(all, "steps_done", t->steps_done);
  add_whole(all, "skipped", t->skipped);
  add_real(all, "part_done", t->part_done);
  if (t->options.time_limit > 0) add_real(all, "seconds", seconds);
  add_whole(all, "data_bytes", t->data.bytes);
  lm_options_shaping(&t->options, all->shaping);
  for (int i = 0; i < LM_SHAPING_COUNT; ++i) {
    all->pairs[all->count++] = (zero1_pair){all->shaping[i].name, all->shaping[i].value};
  }
}

/* ---- saving ---- */

static void tell_saved(lm_trainer *t) {
  t->saving = false;
  t->any_saved = true;
  zero1_save_report report = {.size = sizeof report};
  if (t->rank != 0 ||
      zero1_checkpoint_report(t->sharded.optimizer, &report, sizeof report) != ZERO1_OK) {
    return;
  }
  const bool apart = t->options.save_async != LM_SAVE_OFF; /* else the call was all of it */
  lm_progress_break(&t->progress);
  printf("saved step %" PRId64
         ": %.2f MiB of rank 0 in %.1f ms, of which training stood still %.1f ms\n",
         t->saved_step, (double)report.bytes / (1 << 20),
         report.call_ms + (apart ? report.write_ms + report.commit_ms : 0),
         report.call_ms + report.stall_ms);
  fflush(stdout);
}

/* The run goes on without this checkpoint where the disk is full, say, and has taken one before. */
static void tell_failed(lm_trainer *t, zero1_status status) {
  t->saving = false;
  t->saved_step = -1;
  if (status != ZERO1_ERR_IO || !t->any_saved) lm_must(t, status, "checkpoint");
  if (t->rank != 0) return;
  lm_progress_break(&t->progress);
  fflush(stdout);
  fprintf(stderr, "train_lm: checkpoint: %s; the one before stands, and training goes on\n",
          zero1_optimizer_last_error(t->sharded.optimizer));
}

static void settle(lm_trainer *t) {
  if (!t->saving) return;
  const zero1_status status = zero1_checkpoint_wait(t->sharded.optimizer);
  if (status) {
    tell_failed(t, status);
  } else {
    tell_saved(t);
  }
}

void lm_checkpoint_look(lm_trainer *t) {
  if (!t->saving) return;
  int32_t done = 0;
  const zero1_status status = zero1_checkpoint_poll(t->sharded.optimizer, &done);
  if (status) {
    tell_failed(t, status);
  } else if (done) {
    tell_saved(t);
  }
}

void lm_checkpoint_save(lm_trainer *t) {
  settle(t);
  if (t->rank == 0) lm_progress_flush(&t->progress); /* no row that a resumed run would miss */
  double seconds = lm_seconds() - t->started;
  if (t->options.time_limit > 0) MPI_Bcast(&seconds, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
  facts all;
  gather_facts(t, seconds, &all);
  zero1_save_options options;
  lm_must(t, zero1_save_options_init(&options, sizeof options), "checkpoint");
  options.keep_last = t->options.keep_last;
  options.metadata = all.pairs;
  options.metadata_count = all.count;
  t->saved_step = t->steps_done;
  t->saving = true;
  zero1_status status;
  if (t->options.save_async == LM_SAVE_OFF) {
    status = zero1_checkpoint_save(t->sharded.optimizer, t->options.checkpoint, &options);
  } else {
    options.mode = (int32_t)t->options.save_async;
    status = zero1_checkpoint_save_async(t->sharded.optimizer, t->options.checkpoint, &options);
  }
  if (status) {
    tell_failed(t, status);
  } else if (t->options.save_async == LM_SAVE_OFF) {
    tell_saved(t);
  }
}

void lm_checkpoint_conclude(lm_trainer *t) {
  settle(t);
  t->any_saved = false; /* this one must not fail */
  if (t->saved_step != t->steps_done) lm_checkpoint_save(t);
  settle(t);
}

/* ---- going on ---- */

/* What rank 0 finds, for all. */
typedef struct found {
  zero1_status status; /* ZERO1_ERR_NOT_FOUND: start from the beginning */
  char path[PATH_MAX];
  int64_t steps_done, skipped;
  double part_done, seconds;
} found;

/* Tells which of what shapes the training is another than when the checkpoint was saved. */
static void tell_changes(const lm_trainer *t, zero1_checkpoint *checkpoint) {
  facts now;
  gather_facts(t, 0, &now);
  for (int64_t i = 0; i < now.count; ++i) {
    const char *const key = now.pairs[i].key;
    const bool is_option = i >= now.count - LM_SHAPING_COUNT;
    if (!is_option && strcmp(key, "data_bytes") != 0) continue;
    const char *const then = zero1_checkpoint_value(checkpoint, -1, key);
    if (!then || strcmp(then, now.pairs[i].value) == 0) continue;
    printf("note     %s%s is %s now; it was %s when the checkpoint was saved\n",
           is_option ? "--" : "", key, now.pairs[i].value, then);
  }
}

static bool whole_of(zero1_checkpoint *checkpoint, const char *key, int64_t *number) {
  const char *const text = zero1_checkpoint_value(checkpoint, -1, key);
  char *end = NULL;
  if (text) *number = strtoll(text, &end, 10);
  return end && end != text && !*end && *number >= 0;
}

static bool real_of(zero1_checkpoint *checkpoint, const char *key, double *number) {
  const char *const text = zero1_checkpoint_value(checkpoint, -1, key);
  char *end = NULL;
  if (text) *number = strtod(text, &end);
  return end && end != text && !*end && *number >= 0;
}

/* On failure the text is in t->error. */
static void look_for(lm_trainer *t, found *it) {
  it->status = zero1_checkpoint_latest(t->options.checkpoint, it->path, sizeof it->path, t->error,
                                       sizeof t->error);
  if (it->status) return;
  zero1_checkpoint *checkpoint = NULL;
  it->status = zero1_checkpoint_open(it->path, &checkpoint, t->error, sizeof t->error);
  if (it->status) {
    /* it was there a moment ago: not a reason to start from the beginning */
    if (it->status == ZERO1_ERR_NOT_FOUND) it->status = ZERO1_ERR_CORRUPT;
    return;
  }
  if (!whole_of(checkpoint, "steps_done", &it->steps_done) ||
      !whole_of(checkpoint, "skipped", &it->skipped) ||
      !real_of(checkpoint, "part_done", &it->part_done)) {
    it->status = ZERO1_ERR_MISMATCH;
    snprintf(t->error, sizeof t->error,
             "%.400s: no checkpoint of train_lm: it does not say where the run stood", it->path);
  } else {
    if (!real_of(checkpoint, "seconds", &it->seconds)) it->seconds = -1; /* it was of no matter */
    printf("resumes  from %s: step %" PRId64 "\n", it->path, it->steps_done);
    tell_changes(t, checkpoint);
    fflush(stdout);
  }
  zero1_checkpoint_close(&checkpoint);
}

static zero1_status load(lm_trainer *t, const char *path) {
  zero1_load_options options;
  zero1_status status = zero1_load_options_init(&options, sizeof options);
  options.keep_hyper = 1;
  if (!status) status = zero1_checkpoint_load(t->sharded.optimizer, path, &options);
  if (status) {
    snprintf(t->error, sizeof t->error, "--resume: %s: %s", zero1_status_string(status),
             zero1_optimizer_last_error(t->sharded.optimizer));
  }
  return lm_agree(t, !status) ? ZERO1_OK : status ? status : ZERO1_ERR_PEER;
}

zero1_status lm_checkpoint_resume(lm_trainer *t) {
  found it = {0};
  if (t->rank == 0) look_for(t, &it);
  MPI_Bcast(&it, (int)sizeof it, MPI_BYTE, 0, MPI_COMM_WORLD);
  if (it.status == ZERO1_ERR_NOT_FOUND) {
    if (t->rank == 0) {
      printf("resumes  nothing: no checkpoint in %s; from the start\n", t->options.checkpoint);
    }
    return ZERO1_OK;
  }
  if (it.status) {
    lm_agree(t, t->rank != 0);
    return it.status;
  }
  const zero1_status status = load(t, it.path);
  if (status) return status;
  t->resumed = true;
  t->steps_done = t->saved_step = it.steps_done;
  t->skipped = it.skipped;
  t->part_done = it.part_done;
  t->seconds_before = it.seconds;
  return ZERO1_OK;
}
