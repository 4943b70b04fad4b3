#include "export_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dtype.h"
#include "safetensors.h"

#define FILES_MAX 99999 /* five digits */

static zero1_status fail_memory(zero1__error *error) {
  return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the list of files");
}

int32_t zero1__export_has(const zero1__export_plan *plan, int64_t index) {
  return plan->state <= ZERO1_STATE_MASTER_PARAM ||
         !(plan->reader->manifest.params.flags[index] & ZERO1_PARAM_FROZEN);
}

/* At most what the header says of a parameter: a character of its name is escaped in 6. */
static int64_t header_bytes(const zero1__registry *params, int64_t index) {
  return 6 * (int64_t)strlen(params->names[index]) + 21 * (int64_t)params->ndim[index] + 100;
}

static zero1_status add_file(zero1__export_plan *plan, int64_t begin, int64_t max_bytes,
                             zero1__error *error) {
  if (plan->file_count == FILES_MAX)
    return zero1__fail(error, ZERO1_ERR_INVALID,
                       "more than %d files: %lld bytes a file are too few", FILES_MAX,
                       (long long)max_bytes);
  zero1__export_file *const files =
      realloc(plan->files, ((size_t)plan->file_count + 1) * sizeof *plan->files);
  if (!files) return fail_memory(error);
  plan->files = files;
  files[plan->file_count++] = (zero1__export_file){.begin = begin, .end = begin};
  return ZERO1_OK;
}

/* Example: tensors of 4, 4, 9 and 2 bytes, 8 at most: {4, 4}, {9}, {2}. */
zero1_status zero1__export_plan_begin(zero1__export_plan *plan, int64_t max_bytes,
                                      zero1__error *error) {
  const zero1__registry *const params = &plan->reader->manifest.params;
  int64_t header = 0;
  zero1_status status = add_file(plan, 0, max_bytes, error);
  for (int64_t i = 0; i < params->count && !status; ++i) {
    if (!zero1__export_has(plan, i)) continue;
    const int64_t bytes = params->numel[i] * (int64_t)zero1__dtype_bytes(plan->dtype);
    const zero1__export_file *const last = &plan->files[plan->file_count - 1];
    header += header_bytes(params, i);
    if (last->end > last->begin &&
        (bytes > max_bytes - last->bytes || header > (int64_t)ZERO1__HEADER_BYTES)) {
      status = add_file(plan, i, max_bytes, error);
      header = header_bytes(params, i);
    }
    if (status) break;
    zero1__export_file *const file = &plan->files[plan->file_count - 1];
    file->end = i + 1;
    file->bytes += bytes;
    plan->total_bytes += bytes;
  }
  return status;
}

void zero1__export_plan_end(zero1__export_plan *plan) {
  for (int64_t i = 0; i < plan->file_count; ++i) {
    free(plan->files[i].path);
    free(plan->files[i].part);
  }
  free(plan->files);
  plan->files = NULL;
  plan->file_count = 0;
}

/* ---- names ---- */

/* Exports of several states share a folder, each under its own name. */
static void name_stem(zero1__export_plan *plan) {
  if (plan->state <= ZERO1_STATE_MASTER_PARAM)
    snprintf(plan->stem, sizeof plan->stem, "model");
  else if (plan->state == ZERO1_STATE_RESIDUAL)
    snprintf(plan->stem, sizeof plan->stem, "residual-rank-%05d", plan->rank);
  else
    snprintf(plan->stem, sizeof plan->stem, "%s", zero1__state_name(plan->state));
}

/* "a/b/model.safetensors" is written as "a/b/.model.safetensors.part-<process>". */
static int name_part(zero1__export_file *file) {
  const char *const slash = strrchr(file->path, '/');
  const char *const name = slash ? slash + 1 : file->path;
  const int bytes = asprintf(&file->part, "%.*s.%s.part-%ld", (int)(name - file->path), file->path,
                             name, (long)getpid());
  if (bytes < 0) file->part = NULL;
  return bytes < 0;
}

zero1_status zero1__export_plan_name(zero1__export_plan *plan, const char *out,
                                     zero1__error *error) {
  const long long count = plan->file_count;
  name_stem(plan);
  for (int64_t i = 0; i < plan->file_count; ++i) {
    zero1__export_file *const file = &plan->files[i];
    int bytes;
    if (!plan->folder)
      bytes = asprintf(&file->path, "%s", out);
    else if (count == 1)
      bytes = asprintf(&file->path, "%s/%s.safetensors", plan->folder, plan->stem);
    else
      bytes = asprintf(&file->path, "%s/%s-%05lld-of-%05lld.safetensors", plan->folder, plan->stem,
                       (long long)i + 1, count);
    if (bytes < 0) {
      file->path = NULL;
      return fail_memory(error);
    }
    if (name_part(file)) return fail_memory(error);
  }
  return ZERO1_OK;
}
