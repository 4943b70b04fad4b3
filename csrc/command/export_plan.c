#include "export_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "dtype.h"
#include "safetensors.h"

#define FILES_MAX 99999 /* five digits */

static zero1_status fail_memory(zero1__error *error) {
  return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the list of files");
}

/* At most what the header says of a parameter: a character of its name is escaped in 6. */
static int64_t header_bytes(const zero1_param_spec *spec) {
  return 6 * (int64_t)strlen(spec->name) + 21 * (int64_t)spec->ndim + 100;
}

static zero1_status add_file(export_plan *plan, int64_t begin, zero1__error *error) {
  if (plan->file_count == FILES_MAX)
    return zero1__fail(error, ZERO1_ERR_INVALID, "more than %d files: --max-size is too small",
                       FILES_MAX);
  export_file *const files =
      realloc(plan->files, ((size_t)plan->file_count + 1) * sizeof *plan->files);
  if (!files) return fail_memory(error);
  plan->files = files;
  files[plan->file_count++] = (export_file){.begin = begin, .end = begin};
  return ZERO1_OK;
}

/* Example: tensors of 4, 4, 9 and 2 bytes, 8 at most: {4, 4}, {9}, {2}. */
zero1_status export_plan_begin(export_plan *plan, int64_t max_bytes, zero1__error *error) {
  zero1_param_spec spec;
  int64_t header = 0;
  zero1_status status = add_file(plan, 0, error);
  for (int64_t i = 0; i < plan->param_count && !status; ++i) {
    status = zero1_checkpoint_param(plan->checkpoint, i, &spec, sizeof spec);
    if (status) return zero1__fail(error, status, "parameter %lld cannot be read", (long long)i);
    const int64_t bytes = command_numel(&spec) * (int64_t)zero1__dtype_bytes(plan->dtype);
    const export_file *const last = &plan->files[plan->file_count - 1];
    header += header_bytes(&spec);
    if (last->end > last->begin &&
        (bytes > max_bytes - last->bytes || header > (int64_t)ZERO1__HEADER_BYTES)) {
      status = add_file(plan, i, error);
      header = header_bytes(&spec);
    }
    if (status) break;
    export_file *const file = &plan->files[plan->file_count - 1];
    file->end = i + 1;
    file->bytes += bytes;
    plan->total_bytes += bytes;
  }
  return status;
}

void export_plan_end(export_plan *plan) {
  for (int64_t i = 0; i < plan->file_count; ++i) {
    free(plan->files[i].path);
    free(plan->files[i].part);
  }
  free(plan->files);
  plan->files = NULL;
  plan->file_count = 0;
}

/* "a/b/model.safetensors" is written as "a/b/.model.safetensors.part-<process>". */
static int name_part(export_file *file) {
  const char *const slash = strrchr(file->path, '/');
  const char *const name = slash ? slash + 1 : file->path;
  const int bytes = asprintf(&file->part, "%.*s.%s.part-%ld", (int)(name - file->path), file->path,
                             name, (long)getpid());
  if (bytes < 0) file->part = NULL;
  return bytes < 0;
}

zero1_status export_plan_name(export_plan *plan, const char *out, int is_file,
                              zero1__error *error) {
  const long long count = plan->file_count;
  for (int64_t i = 0; i < plan->file_count; ++i) {
    export_file *const file = &plan->files[i];
    int bytes;
    if (is_file)
      bytes = asprintf(&file->path, "%s", out);
    else if (count == 1)
      bytes = asprintf(&file->path, "%s/" EXPORT_NAME, out);
    else
      bytes = asprintf(&file->path, "%s/model-%05lld-of-%05lld.safetensors", out, (long long)i + 1,
                       count);
    if (bytes < 0) {
      file->path = NULL;
      return fail_memory(error);
    }
    if (name_part(file)) return fail_memory(error);
  }
  return ZERO1_OK;
}
