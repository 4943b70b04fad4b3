/* A checkpoint without an optimizer: the public calls. */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_reader.h"
#include "checkpoint_root.h"
#include "checkpoint_state.h"
#include "export.h"
#include "struct_size.h"
#include "zero1/checkpoint.h"

struct zero1_checkpoint {
  zero1__reader reader;
  pthread_mutex_t mutex; /* of error: calls of read may fail at once */
  zero1__error error;    /* of the last failure */
};

/* ---- errors ---- */

/* Keeps a failure as the handle's last one. */
static zero1_status keep(zero1_checkpoint *checkpoint, zero1_status status,
                         const zero1__error *error) {
  if (!status) return ZERO1_OK;
  pthread_mutex_lock(&checkpoint->mutex);
  checkpoint->error = *error;
  pthread_mutex_unlock(&checkpoint->mutex);
  return status;
}

/* Fails with "<path of the folder>: <what>". */
static zero1_status fail(zero1_checkpoint *checkpoint, zero1_status status, const char *what) {
  zero1__error error = {0};
  return keep(checkpoint, zero1__fail(&error, status, "%.200s: %s", checkpoint->reader.path, what),
              &error);
}

static zero1_status fail_index(zero1_checkpoint *checkpoint, const char *what, int64_t index,
                               int64_t count) {
  zero1__error error = {0};
  zero1__fail(&error, ZERO1_ERR_INVALID, "%.200s: there is no %s %lld: it has %lld",
              checkpoint->reader.path, what, (long long)index, (long long)count);
  return keep(checkpoint, ZERO1_ERR_INVALID, &error);
}

static zero1_status fail_size(zero1_checkpoint *checkpoint, zero1_status status, const char *what,
                              const void *given, size_t bytes, size_t known) {
  zero1__error error = {0};
  zero1__fail(&error, status, "%.200s: %s is %s, with %zu bytes of %zu", checkpoint->reader.path,
              what, given ? "given" : "NULL", bytes, known);
  return keep(checkpoint, status, &error);
}

/* For calls without a handle. */
static zero1_status tell(zero1_status status, const zero1__error *error, char *text, size_t bytes) {
  if (text && bytes > 0) snprintf(text, bytes, "%s", status ? error->text : "");
  return status;
}

const char *zero1_checkpoint_last_error(const zero1_checkpoint *checkpoint) {
  return checkpoint ? checkpoint->error.text : "checkpoint is NULL";
}

/* ---- opening ---- */

zero1_status zero1_checkpoint_latest(const char *root, char *path, size_t path_bytes,
                                     char *error_text, size_t error_bytes) {
  zero1__error error = {0};
  zero1_status status = ZERO1_OK;
  if (path && path_bytes > 0) path[0] = 0;
  if (!root || !path || path_bytes == 0)
    status = zero1__fail(&error, ZERO1_ERR_INVALID, "%s",
                         !root ? "root is NULL" : "path is NULL, or path_bytes is 0");
  if (!status) status = zero1__root_latest(root, path, path_bytes, &error);
  return tell(status, &error, error_text, error_bytes);
}

static zero1_status open_folder(const char *dir, zero1_checkpoint *checkpoint,
                                zero1__error *error) {
  char *const path = malloc(PATH_MAX);
  if (!path) return zero1__fail(error, ZERO1_ERR_MEMORY, "%.200s: no memory for its path", dir);
  zero1_status status = zero1__root_resolve(dir, path, PATH_MAX, error);
  if (!status) status = zero1__reader_begin(&checkpoint->reader, path, error);
  free(path);
  return status;
}

zero1_status zero1_checkpoint_open(const char *dir, zero1_checkpoint **checkpoint, char *error_text,
                                   size_t error_bytes) {
  zero1__error error = {0};
  if (checkpoint) *checkpoint = NULL;
  if (!dir || !checkpoint) {
    zero1__fail(&error, ZERO1_ERR_INVALID, "%s is NULL", dir ? "checkpoint" : "dir");
    return tell(ZERO1_ERR_INVALID, &error, error_text, error_bytes);
  }
  zero1_checkpoint *made = calloc(1, sizeof *made);
  if (!made) {
    zero1__fail(&error, ZERO1_ERR_MEMORY, "%.200s: no memory to open it", dir);
    return tell(ZERO1_ERR_MEMORY, &error, error_text, error_bytes);
  }
  pthread_mutex_init(&made->mutex, NULL);
  const zero1_status status = open_folder(dir, made, &error);
  if (status) zero1_checkpoint_close(&made);
  *checkpoint = made;
  return tell(status, &error, error_text, error_bytes);
}

void zero1_checkpoint_close(zero1_checkpoint **checkpoint) {
  if (!checkpoint || !*checkpoint) return;
  zero1__reader_end(&(*checkpoint)->reader);
  pthread_mutex_destroy(&(*checkpoint)->mutex);
  free(*checkpoint);
  *checkpoint = NULL;
}

/* ---- what it holds ---- */

zero1_status zero1_checkpoint_get_info(zero1_checkpoint *checkpoint, zero1_checkpoint_info *info,
                                       size_t info_bytes) {
  if (!checkpoint) return ZERO1_ERR_INVALID;
  const zero1__manifest *const manifest = &checkpoint->reader.manifest;
  zero1_checkpoint_info known = {
      .size = sizeof known,
      .path = checkpoint->reader.path,
      .count = manifest->count,
      .attempts = manifest->attempts,
      .world_size = manifest->world_size,
      .param_dtype = manifest->param_dtype,
      .format_version = ZERO1__MANIFEST_VERSION,
      .has_residual = checkpoint->reader.has_residual,
      .param_count = manifest->params.count,
      .group_count = manifest->group_count,
      .file_count = manifest->index.file_count,
      .metadata_count = manifest->metadata.count,
      .bytes = (uint64_t)checkpoint->reader.manifest_bytes,
      .grad_scale = manifest->grad_scale,
      .max_grad_norm = manifest->max_grad_norm,
      .skip_grad_norm = manifest->skip_grad_norm,
  };
  for (int64_t i = 0; i < manifest->index.file_count; ++i)
    known.bytes += (uint64_t)manifest->index.files[i].bytes;
  const zero1_status status = zero1__struct_put(info, info_bytes, &known, sizeof known);
  return status ? fail_size(checkpoint, status, "info", info, info_bytes, sizeof known) : ZERO1_OK;
}

zero1_status zero1_checkpoint_param(zero1_checkpoint *checkpoint, int64_t index,
                                    zero1_param_spec *spec, size_t spec_bytes) {
  if (!checkpoint) return ZERO1_ERR_INVALID;
  const zero1__registry *const params = &checkpoint->reader.manifest.params;
  if (index < 0 || index >= params->count)
    return fail_index(checkpoint, "parameter", index, params->count);
  if (!spec || spec_bytes != sizeof *spec)
    return fail_size(checkpoint, spec ? ZERO1_ERR_VERSION : ZERO1_ERR_INVALID, "spec", spec,
                     spec_bytes, sizeof *spec);
  *spec = (zero1_param_spec){.name = params->names[index],
                             .shape = params->ndim[index] ? params->shapes[index] : NULL,
                             .ndim = params->ndim[index],
                             .group = params->group[index],
                             .flags = params->flags[index]};
  return ZERO1_OK;
}

zero1_status zero1_checkpoint_find(zero1_checkpoint *checkpoint, const char *name, int64_t *index) {
  zero1__error error = {0};
  if (index) *index = -1;
  if (!checkpoint) return ZERO1_ERR_INVALID;
  if (!name || !index)
    return fail(checkpoint, ZERO1_ERR_INVALID, name ? "index is NULL" : "name is NULL");
  *index = zero1__registry_find(&checkpoint->reader.manifest.params, name);
  if (*index >= 0) return ZERO1_OK;
  zero1__fail(&error, ZERO1_ERR_INVALID, "%.200s: there is no parameter '%.100s'",
              checkpoint->reader.path, name);
  return keep(checkpoint, ZERO1_ERR_INVALID, &error);
}

zero1_status zero1_checkpoint_group(zero1_checkpoint *checkpoint, int64_t index, zero1_group *group,
                                    size_t group_bytes) {
  if (!checkpoint) return ZERO1_ERR_INVALID;
  const zero1__manifest *const manifest = &checkpoint->reader.manifest;
  if (index < 0 || index >= manifest->group_count)
    return fail_index(checkpoint, "group", index, manifest->group_count);
  const zero1_status status =
      zero1__struct_put(group, group_bytes, &manifest->groups[index], sizeof *group);
  if (!status) return ZERO1_OK;
  return fail_size(checkpoint, status, "group", group, group_bytes, sizeof *group);
}

/* The pairs of a rank, -1: of the run; NULL: no such rank. */
static const zero1__pairs *pairs_of(const zero1_checkpoint *checkpoint, int32_t rank) {
  const zero1__manifest *const manifest = &checkpoint->reader.manifest;
  if (rank == -1) return &manifest->metadata;
  return rank >= 0 && rank < manifest->world_size ? &manifest->rank_metadata[rank] : NULL;
}

zero1_status zero1_checkpoint_metadata(zero1_checkpoint *checkpoint, int32_t rank, int64_t index,
                                       zero1_pair *pair) {
  if (!checkpoint) return ZERO1_ERR_INVALID;
  const zero1__pairs *const pairs = pairs_of(checkpoint, rank);
  if (!pairs) return fail_index(checkpoint, "rank", rank, checkpoint->reader.manifest.world_size);
  if (index < 0 || index >= pairs->count)
    return fail_index(checkpoint, "pair", index, pairs->count);
  if (!pair) return fail(checkpoint, ZERO1_ERR_INVALID, "pair is NULL");
  *pair = pairs->pairs[index];
  return ZERO1_OK;
}

const char *zero1_checkpoint_value(zero1_checkpoint *checkpoint, int32_t rank, const char *key) {
  const zero1__pairs *const pairs = checkpoint ? pairs_of(checkpoint, rank) : NULL;
  for (int64_t i = 0; pairs && key && i < pairs->count; ++i)
    if (!strcmp(pairs->pairs[i].key, key)) return pairs->pairs[i].value;
  return NULL;
}

zero1_status zero1_checkpoint_file(zero1_checkpoint *checkpoint, int64_t index, const char **name,
                                   uint64_t *bytes) {
  if (name) *name = NULL;
  if (!checkpoint) return ZERO1_ERR_INVALID;
  const zero1__index *const saved = &checkpoint->reader.manifest.index;
  if (index < 0 || index >= saved->file_count)
    return fail_index(checkpoint, "file", index, saved->file_count);
  if (!name || !bytes)
    return fail(checkpoint, ZERO1_ERR_INVALID, name ? "bytes is NULL" : "name is NULL");
  *name = saved->files[index].name;
  *bytes = (uint64_t)saved->files[index].bytes;
  return ZERO1_OK;
}

/* ---- its files ---- */

zero1_status zero1_checkpoint_read(zero1_checkpoint *checkpoint, int64_t param, int32_t state,
                                   int32_t rank, int64_t begin, int64_t end, int32_t dtype,
                                   void *out) {
  zero1__error error = {0};
  if (!checkpoint) return ZERO1_ERR_INVALID;
  const zero1__state_request request = {param, state, rank, begin, end, dtype, out};
  return keep(checkpoint, zero1__state_read(&checkpoint->reader, &request, &error), &error);
}

zero1_status zero1_checkpoint_verify(zero1_checkpoint *checkpoint, int32_t threads,
                                     zero1_progress_fn progress, void *context) {
  zero1__error error = {0};
  if (!checkpoint) return ZERO1_ERR_INVALID;
  return keep(checkpoint,
              zero1__reader_verify(&checkpoint->reader, threads, progress, context, &error),
              &error);
}

zero1_status zero1_checkpoint_export(zero1_checkpoint *checkpoint, const char *out,
                                     const zero1_export_options *options,
                                     zero1_progress_fn progress, void *context, int64_t *file_count,
                                     uint64_t *bytes) {
  zero1__error error = {0};
  if (file_count) *file_count = 0;
  if (bytes) *bytes = 0;
  if (!checkpoint) return ZERO1_ERR_INVALID;
  if (!out || !*out)
    return fail(checkpoint, ZERO1_ERR_INVALID, out ? "out is empty" : "out is NULL");
  zero1__export_job job = {
      .reader = &checkpoint->reader, .out = out, .progress = progress, .context = context};
  const zero1_status status = keep(checkpoint, zero1__export(&job, options, &error), &error);
  if (status) return status;
  if (file_count) *file_count = job.file_count;
  if (bytes) *bytes = (uint64_t)job.total_bytes;
  return ZERO1_OK;
}
