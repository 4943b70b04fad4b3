#include "save_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "clock.h"

/* ---- what the call gives ---- */

static zero1_status take_settings(zero1__save_job *job, zero1__error *error) {
  const zero1_optimizer *optimizer = job->optimizer;
  const zero1_config *config = &optimizer->settings.config;
  zero1__manifest *manifest = &job->manifest;
  manifest->count = optimizer->schedule.count;
  manifest->attempts = optimizer->schedule.attempts;
  manifest->world_size = optimizer->comm->world_size;
  manifest->param_dtype = config->param_dtype;
  manifest->grad_scale = config->grad_scale;
  manifest->max_grad_norm = config->max_grad_norm;
  manifest->skip_grad_norm = config->skip_grad_norm;
  manifest->group_count = config->group_count;
  manifest->groups = calloc((size_t)config->group_count + 1, sizeof *manifest->groups);
  manifest->rank_metadata = calloc((size_t)manifest->world_size, sizeof *manifest->rank_metadata);
  if (!manifest->groups || !manifest->rank_metadata)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a manifest");
  memcpy(manifest->groups, config->groups, (size_t)config->group_count * sizeof *manifest->groups);
  return ZERO1_OK;
}

zero1_status zero1__save_job_begin(zero1__save_job *job, zero1_optimizer *optimizer,
                                   const zero1_save_options *options, zero1__error *error) {
  memset(job, 0, sizeof *job);
  job->optimizer = optimizer;
  job->begin_ns = zero1__now_ns();
  job->keep_last = options->keep_last;
  job->keep_every = options->keep_every;
  zero1_status status = take_settings(job, error);
  if (!status)
    status = zero1__pairs_begin(&job->manifest.metadata, options->metadata, options->metadata_count,
                                "options.metadata", error);
  if (!status)
    status = zero1__pairs_begin(&job->rank_metadata, options->rank_metadata,
                                options->rank_metadata_count, "options.rank_metadata", error);
  return status;
}

void zero1__save_job_end(zero1__save_job *job) {
  zero1__save_writer_end(&job->writer);
  zero1__save_work_end(&job->work);
  zero1__pairs_end(&job->rank_metadata);
  zero1__manifest_end(&job->manifest);
}

/* ---- writing ---- */

void zero1__save_job_write(zero1__save_job *job, int64_t bucket) {
  if (!job->writer.optimizer)
    zero1__save_writer_begin(&job->writer, job->optimizer, job->snapshot, job->work.folder,
                             job->staging);
  if (!job->error.status) (void)zero1__save_writer_run(&job->writer, bucket, &job->error);
}

/* A full disk has room for words again. */
static void remove_files(zero1__save_job *job) {
  const zero1__index *index = &job->writer.index;
  char path[4096];
  zero1__chunk_file_end(&job->writer.file);
  for (int64_t i = 0; i < index->file_count; ++i) {
    snprintf(path, sizeof path, "%s/%s", job->work.folder, index->files[i].name);
    (void)unlink(path);
  }
}

/* What the other ranks have to know of this one's files. */
static void tell_rank_0(zero1__save_job *job) {
  char *part = NULL;
  size_t bytes = 0;
  zero1__error why;
  zero1__error_clear(&why);
  if (!job->error.status)
    (void)zero1__part_write(&job->writer.index, &job->rank_metadata, &part, &bytes, &job->error);
  if (job->error.status) remove_files(job);
  if (zero1__save_work_done(&job->work, &job->error, part, part ? bytes : 0, &why)) {
    remove_files(job);
    zero1__fail(&job->error, why.status, "%s", why.text);
    zero1__error_clear(&why);
    job->unheard = zero1__save_work_done(&job->work, &job->error, NULL, 0, &why) != ZERO1_OK;
  }
  free(part);
}

/* ---- the end ---- */

static zero1_status name_params(zero1__save_job *job, zero1__error *error) {
  const zero1__registry *registry = &job->optimizer->registry;
  zero1_param_spec *specs = calloc((size_t)registry->count + 1, sizeof *specs);
  if (!specs) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a manifest");
  for (int64_t i = 0; i < registry->count; ++i)
    specs[i] = (zero1_param_spec){.name = registry->names[i],
                                  .shape = registry->shapes[i],
                                  .ndim = registry->ndim[i],
                                  .group = registry->group[i],
                                  .flags = registry->flags[i]};
  const zero1_status status =
      zero1__registry_begin(&job->manifest.params, specs, sizeof *specs, registry->count,
                            job->manifest.group_count, error);
  free(specs);
  return status;
}

static void meet(zero1__save_job *job) {
  zero1__error outcome;
  zero1__error_clear(&outcome);
  if (job->unheard) {
    if (!job->work.rank)
      (void)zero1__remove_tree(job->work.path, NULL); /* which tells the others */
    return;
  }
  if (job->work.rank) {
    (void)zero1__save_work_outcome(&job->work, &outcome);
  } else {
    const zero1__save_commit commit = {&job->manifest, job->keep_last, job->keep_every};
    (void)name_params(job, &outcome);
    (void)zero1__save_work_commit(&job->work, &commit, &outcome);
  }
  zero1__save_work_leave(&job->work);
  if (outcome.status) job->error = outcome; /* as it is told to every rank */
}

void zero1__save_job_commit(zero1__save_job *job) {
  zero1__save_job_write(job, -1);
  if (!job->error.status) (void)zero1__flush_folder(job->work.folder, &job->error);
  job->written_ns = zero1__now_ns();
  tell_rank_0(job);
  meet(job);
  const int64_t end_ns = zero1__now_ns();
  zero1_save_report *report = &job->report;
  report->size = sizeof *report;
  report->count = job->manifest.count;
  report->bytes = (uint64_t)job->writer.bytes;
  report->snapshot_bytes = job->snapshot ? job->snapshot->bytes : 0;
  report->write_ms = (double)(job->written_ns - job->begin_ns) * 1e-6;
  report->hash_ms = (double)job->writer.hash_ns * 1e-6;
  report->commit_ms = (double)(end_ns - job->written_ns) * 1e-6;
  atomic_store(&job->ended, 1);
}
