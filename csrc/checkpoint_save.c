/* The public calls that save. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "checkpoint_lock.h"
#include "checkpoint_root.h"
#include "clock.h"
#include "fnv.h"
#include "optimizer.h"
#include "save_file.h"
#include "save_job.h"
#include "struct_size.h"

/** What an optimizer has for its checkpoints, from the first one on. */
struct zero1__saver {
  zero1__stream *stream; /* host calls: the writer's thread */
  zero1__hold hold;
  void *staging; /* [ZERO1__STAGING_BYTES] pinned; kept, because whoever frees such memory waits for
                    the whole device; NULL on the host */
  zero1__save_job *job; /* the last one, until it is joined; or NULL */
  zero1__error failure; /* of the last one, not told yet */
  zero1_save_report report;
  int32_t has_report;
  zero1__snapshot snapshot; /* from the first save that makes one on */
  /* rank 0 */
  zero1__root_lock *lock; /* of the root of the last save, or NULL */
};

zero1_status zero1_save_options_init(zero1_save_options *options, size_t options_bytes) {
  const zero1_save_options defaults = {.size = sizeof defaults, .mode = ZERO1_SAVE_PINNED};
  return zero1__struct_put(options, options_bytes, &defaults, sizeof defaults);
}

/* ---- life ---- */

/* The last save is over: keeps what came of it. Its thread is done with it. */
static void join(zero1_optimizer *optimizer) {
  zero1__saver *saver = optimizer->saver;
  zero1__save_job *job = saver ? saver->job : NULL;
  if (!job) return;
  optimizer->device->ops->stream_sync(optimizer->device, saver->stream);
  optimizer->schedule.hold = NULL;
  const double call_ms = saver->report.call_ms, copy_ms = saver->report.copy_ms;
  saver->report = job->report;
  saver->report.call_ms = call_ms;
  saver->report.copy_ms = copy_ms;
  saver->has_report = 1;
  saver->failure = job->error;
  saver->job = NULL;
  zero1__save_job_end(job);
  free(job);
}

static void unlock(zero1__saver *saver) {
  zero1__root_unlock(saver->lock);
  saver->lock = NULL;
}

/* What it keeps, of memory that counts. */
static void note_bytes(zero1_optimizer *optimizer) {
  const zero1__saver *saver = optimizer->saver;
  optimizer->saver_bytes = (saver->staging ? ZERO1__STAGING_BYTES : 0) + saver->snapshot.bytes;
}

static void end_saver(zero1_optimizer *optimizer) {
  zero1__saver *saver = optimizer->saver;
  join(optimizer);
  optimizer->device->ops->stream_destroy(optimizer->device, saver->stream);
  zero1__hold_end(&saver->hold);
  zero1__snapshot_end(&saver->snapshot);
  if (saver->staging)
    optimizer->device->ops->pinned_free(optimizer->device, saver->staging, ZERO1__STAGING_BYTES);
  unlock(saver);
  free(saver);
  optimizer->saver = NULL;
}

static zero1_status begin_saver(zero1_optimizer *optimizer, zero1__error *error) {
  zero1__device *device = optimizer->device;
  if (optimizer->saver) return ZERO1_OK;
  zero1__saver *saver = calloc(1, sizeof *saver);
  if (!saver) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the writer");
  optimizer->saver = saver;
  optimizer->end_saver = end_saver;
  zero1_status status =
      device->ops->stream_create(device, ZERO1__STREAM_HOST_CALLS, &saver->stream, error);
  if (!status)
    status = zero1__hold_begin(&saver->hold, device, optimizer->layout.bucket_count, error);
  if (!status && !device->is_host)
    status = device->ops->pinned_alloc(device, ZERO1__STAGING_BYTES, &saver->staging, error);
  note_bytes(optimizer);
  if (!status) return ZERO1_OK;
  end_saver(optimizer);
  return status;
}

/* ---- a save begins ---- */

/** What the ranks must have given alike, and rank 0's token. */
typedef struct introduction {
  uint64_t token;
  int64_t keep_last, keep_every;
  uint64_t metadata;
  int32_t mode, no_lock, sync;
  int32_t reserved;
} introduction;

static uint64_t hash_pairs(const zero1__pairs *pairs) {
  uint64_t hash = ZERO1__FNV_BEGIN;
  for (int64_t i = 0; i < pairs->count; ++i)
    hash = zero1__fnv_text(zero1__fnv_text(hash, pairs->pairs[i].key), pairs->pairs[i].value);
  return hash;
}

static uint64_t make_token(const zero1_optimizer *optimizer) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const int64_t parts[] = {now.tv_sec, now.tv_nsec, getpid(), (int64_t)(intptr_t)optimizer};
  return zero1__fnv(ZERO1__FNV_BEGIN, parts, sizeof parts);
}

static zero1_status check_alike(zero1_optimizer *optimizer, const introduction *all) {
  for (int32_t rank = 1; rank < optimizer->comm->world_size; ++rank) {
    const char *what = NULL;
    if (all[rank].sync != all[0].sync) what = "call: save and save_async";
    if (all[rank].mode != all[0].mode) what = "options.mode";
    if (all[rank].no_lock != all[0].no_lock) what = "options.no_lock";
    if (all[rank].keep_last != all[0].keep_last) what = "options.keep_last";
    if (all[rank].keep_every != all[0].keep_every) what = "options.keep_every";
    if (all[rank].metadata != all[0].metadata) what = "options.metadata";
    if (what)
      return zero1__fail(&optimizer->error, ZERO1_ERR_MISMATCH, "ranks 0 and %d gave another %s",
                         rank, what);
  }
  return ZERO1_OK;
}

/* Rank 0's token in *mine. */
static zero1_status introduce(zero1_optimizer *optimizer, introduction *mine) {
  void *gathered;
  zero1_status status =
      zero1__optimizer_collect(optimizer, ZERO1_OK, mine, sizeof *mine, &gathered);
  const introduction *all = gathered;
  if (!status) status = check_alike(optimizer, all);
  if (!status) mine->token = all[0].token;
  free(gathered);
  return status;
}

static zero1_status take_options(zero1_optimizer *optimizer, const zero1_save_options *given,
                                 zero1_save_options *options) {
  zero1__error *error = &optimizer->error;
  (void)zero1_save_options_init(options, sizeof *options);
  const zero1_status status = given
                                  ? zero1__struct_get(given, given->size, options, sizeof *options,
                                                      "zero1_save_options", error)
                                  : ZERO1_OK;
  if (status) return status;
  if (options->mode != ZERO1_SAVE_PINNED && options->mode != ZERO1_SAVE_SNAPSHOT)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.mode is %d, which is no ZERO1_SAVE_",
                       options->mode);
  if (options->keep_last < 0 || options->keep_every < 0)
    return zero1__fail(
        error, ZERO1_ERR_INVALID, "options.keep_%s is %lld, which is below 0",
        options->keep_last < 0 ? "last" : "every",
        (long long)(options->keep_last < 0 ? options->keep_last : options->keep_every));
  return ZERO1_OK;
}

/* The failure of the save before, where nobody was told. */
static zero1_status tell_failure(zero1_optimizer *optimizer) {
  zero1__saver *saver = optimizer->saver;
  if (!saver || !saver->failure.status) return ZERO1_OK;
  const zero1__error failure = saver->failure;
  zero1__error_clear(&saver->failure);
  return zero1__fail(&optimizer->error, failure.status, "%s", failure.text);
}

static zero1_status check_savable(zero1_optimizer *optimizer, const char *root) {
  zero1__error *error = &optimizer->error;
  zero1_status status = zero1__optimizer_check_idle(optimizer);
  if (!status) status = zero1__root_check(root, "root", error);
  if (status) return status;
  if (optimizer->half_loaded)
    return zero1__fail(error, ZERO1_ERR_STATE,
                       "a load of a checkpoint has failed half-way: there is nothing to save");
  if (zero1__buffers_have_masters(&optimizer->buffers) && !optimizer->has_masters)
    return zero1__fail(error, ZERO1_ERR_STATE,
                       "the masters are not set: sync_params comes before the first save");
  return ZERO1_OK;
}

/* What a rank can find out by itself. */
static zero1_status prepare(zero1_optimizer *optimizer, const char *root,
                            const zero1_save_options *given, zero1_save_options *options,
                            zero1__save_job **job) {
  zero1_status status = begin_saver(optimizer, &optimizer->error);
  if (!status) {
    join(optimizer);
    status = tell_failure(optimizer);
  }
  if (!status) status = take_options(optimizer, given, options);
  if (!status) status = check_savable(optimizer, root);
  if (status) return status;
  *job = calloc(1, sizeof **job);
  if (!*job) return zero1__fail(&optimizer->error, ZERO1_ERR_MEMORY, "no memory for a save");
  return zero1__save_job_begin(*job, optimizer, options, &optimizer->error);
}

/* Rank 0: the root is there, and nobody else's. Its folder counts, not its path: that may have been
 * removed and made anew since the last save, or be relative and mean another one. */
static zero1_status open_root(zero1_optimizer *optimizer, const char *root, int32_t no_lock) {
  zero1__saver *saver = optimizer->saver;
  const zero1_status status = zero1__make_folder(root, 1, &optimizer->error);
  if (status || no_lock || zero1__root_lock_holds(saver->lock, root)) return status;
  unlock(saver);
  return zero1__root_lock_take(root, &saver->lock, &optimizer->error);
}

static zero1_status open_work(zero1_optimizer *optimizer, const char *root,
                              const introduction *common, zero1__save_job *job) {
  zero1_status status = ZERO1_OK;
  if (!optimizer->comm->rank) status = open_root(optimizer, root, common->no_lock);
  if (!status)
    status = zero1__save_work_begin(&job->work, root, common->token, optimizer, &optimizer->error);
  status = zero1__optimizer_agree(optimizer, status);
  if (status) return status;
  return zero1__optimizer_agree(optimizer, zero1__save_work_see(&job->work, &optimizer->error));
}

/* The state of this moment, as a copy where that was asked for. */
static zero1_status hold_state(zero1_optimizer *optimizer, const zero1_save_options *options,
                               int32_t sync, zero1__save_job *job) {
  zero1__saver *saver = optimizer->saver;
  zero1_status status = ZERO1_OK;
  job->staging = saver->staging;
  saver->report.copy_ms = 0;
  if (options->mode == ZERO1_SAVE_SNAPSHOT && !sync) {
    const int64_t begin_ns = zero1__now_ns();
    status = zero1__snapshot_take(&saver->snapshot, optimizer, &optimizer->error);
    job->snapshot = &saver->snapshot;
    saver->report.copy_ms = (double)(zero1__now_ns() - begin_ns) * 1e-6;
    note_bytes(optimizer);
  }
  return zero1__optimizer_agree(optimizer, status);
}

/* ---- on the writer's thread ---- */

static void write_task(void *context, const void *args) {
  int64_t bucket;
  memcpy(&bucket, args, sizeof bucket);
  zero1__save_job_write(context, bucket);
}

static void commit_task(void *context, const void *args) {
  (void)args;
  zero1__save_job_commit(context);
}

static void launch(zero1_optimizer *optimizer, zero1__save_job *job) {
  zero1__saver *saver = optimizer->saver;
  zero1__device *device = optimizer->device;
  zero1__hold *hold = &saver->hold;
  saver->job = job;
  zero1__hold_reset(hold);
  for (int32_t group = 0; group <= hold->group_count && !job->snapshot; ++group) {
    const int64_t bucket = group < hold->group_count ? zero1__hold_group_begin(hold, group) : -1;
    device->ops->host_call(device, saver->stream, write_task, job, &bucket, sizeof bucket);
    device->ops->event_record(device, hold->let_go[group], saver->stream);
  }
  device->ops->host_call(device, saver->stream, commit_task, job, NULL, 0);
  if (!job->snapshot) optimizer->schedule.hold = hold;
}

/* All ranks begin, or none. */
static zero1_status start(zero1_optimizer *optimizer, const char *root,
                          const zero1_save_options *given, int32_t sync) {
  zero1_save_options options;
  zero1__save_job *job = NULL;
  introduction mine;
  const int64_t begin_ns = zero1__now_ns();
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "checkpoint_save");
  if (status) return status;
  status = zero1__optimizer_agree(optimizer, prepare(optimizer, root, given, &options, &job));
  if (!status) {
    memset(&mine, 0, sizeof mine);
    mine.token = make_token(optimizer);
    mine.keep_last = options.keep_last;
    mine.keep_every = options.keep_every;
    mine.metadata = hash_pairs(&job->manifest.metadata);
    mine.mode = options.mode;
    mine.no_lock = options.no_lock;
    mine.sync = sync;
    status = introduce(optimizer, &mine);
  }
  if (!status) status = open_work(optimizer, root, &mine, job);
  if (!status) status = hold_state(optimizer, &options, sync, job);
  if (!status) {
    launch(optimizer, job);
    optimizer->saver->report.call_ms = (double)(zero1__now_ns() - begin_ns) * 1e-6;
    return ZERO1_OK;
  }
  if (job) {
    zero1__error unheard;
    zero1__error_clear(&unheard);
    if (job->work.path && !optimizer->comm->rank)
      (void)zero1__remove_tree(job->work.path, &unheard);
    zero1__save_job_end(job);
    free(job);
  }
  return status;
}

/* ---- the calls ---- */

zero1_status zero1_checkpoint_save_async(zero1_optimizer *optimizer, const char *root,
                                         const zero1_save_options *options) {
  return start(optimizer, root, options, 0);
}

zero1_status zero1_checkpoint_save(zero1_optimizer *optimizer, const char *root,
                                   const zero1_save_options *options) {
  const int64_t begin_ns = zero1__now_ns();
  const zero1_status status = start(optimizer, root, options, 1);
  if (status) return status;
  join(optimizer);
  optimizer->saver->report.call_ms = (double)(zero1__now_ns() - begin_ns) * 1e-6;
  return tell_failure(optimizer);
}

zero1_status zero1_checkpoint_wait(zero1_optimizer *optimizer) {
  const zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  join(optimizer);
  return tell_failure(optimizer);
}

zero1_status zero1_checkpoint_poll(zero1_optimizer *optimizer, int32_t *done) {
  const zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  if (!done) return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "done is NULL");
  zero1__saver *saver = optimizer->saver;
  *done = !saver || !saver->job || atomic_load(&saver->job->ended);
  if (!*done) return ZERO1_OK;
  join(optimizer);
  return tell_failure(optimizer);
}

zero1_status zero1_checkpoint_report(zero1_optimizer *optimizer, zero1_save_report *report,
                                     size_t report_bytes) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  zero1__saver *saver = optimizer->saver;
  if (!saver || !saver->has_report)
    return zero1__fail(&optimizer->error, ZERO1_ERR_STATE, "no save has ended yet");
  saver->report.stall_ms = (double)zero1__hold_stall_ns(&saver->hold) * 1e-6;
  status = zero1__struct_put(report, report_bytes, &saver->report, sizeof saver->report);
  if (!status) return ZERO1_OK;
  return zero1__fail(&optimizer->error, status, "report is %s, report_bytes %zu of %zu",
                     report ? "given" : "NULL", report_bytes, sizeof saver->report);
}
