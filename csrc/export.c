#include "export.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "checkpoint_state.h"
#include "export_plan.h"
#include "export_write.h"
#include "safetensors.h"
#include "struct_size.h"

#define SUFFIX ".safetensors"
#define MAX_BYTES 5000000000 /* of a file, in a folder */

zero1_status zero1_export_options_init(zero1_export_options *options, size_t options_bytes) {
  const zero1_export_options defaults = {
      .size = sizeof defaults, .state = ZERO1_STATE_PARAM, .dtype = -1};
  return zero1__struct_put(options, options_bytes, &defaults, sizeof defaults);
}

/* ---- what is asked for ---- */

static zero1_status take_options(const zero1__export_job *job, const zero1_export_options *given,
                                 zero1_export_options *options, zero1__error *error) {
  (void)zero1_export_options_init(options, sizeof *options);
  const zero1_status status = given
                                  ? zero1__struct_get(given, given->size, options, sizeof *options,
                                                      "zero1_export_options", error)
                                  : ZERO1_OK;
  if (status) return status;
  if (options->max_bytes < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.max_bytes is %lld, which is below 0",
                       (long long)options->max_bytes);
  if (options->dtype == -1)
    options->dtype =
        options->state == ZERO1_STATE_PARAM ? job->reader->manifest.param_dtype : ZERO1_DTYPE_FP32;
  return ZERO1_OK;
}

/* Whether state, rank and data type are such that can be read: reads nothing of the first parameter
 * that has the state. */
static zero1_status check_state(const zero1__export_plan *plan, zero1__error *error) {
  const int64_t count = plan->reader->manifest.params.count;
  int64_t first = 0;
  while (first < count && !zero1__export_has(plan, first)) first += 1;
  const zero1__state_request nothing = {.param = first < count ? first : 0,
                                        .state = plan->state,
                                        .rank = plan->rank,
                                        .dtype = plan->dtype};
  return zero1__state_read(plan->reader, &nothing, error);
}

static int is_folder(const char *path) {
  struct stat info;
  return !stat(path, &info) && S_ISDIR(info.st_mode);
}

static int is_file_name(const char *path) {
  const size_t length = strlen(path), suffix = sizeof SUFFIX - 1;
  return length > suffix && !strcmp(path + length - suffix, SUFFIX) && !is_folder(path);
}

/* ---- the files ---- */

static zero1_status make_plan(zero1__export_plan *plan, const zero1__export_job *job,
                              int64_t max_bytes, zero1__error *error) {
  if (!max_bytes) max_bytes = plan->folder ? MAX_BYTES : INT64_MAX;
  const zero1_status status = zero1__export_plan_begin(plan, max_bytes, error);
  if (status) return status;
  if (!plan->folder && plan->file_count > 1)
    return zero1__fail_at(error, ZERO1_ERR_UNSUPPORTED, job->out,
                          "%lld files are needed, one is named: give a folder",
                          (long long)plan->file_count);
  return zero1__export_plan_name(plan, job->out, error);
}

static zero1_status make_files(zero1__export_plan *plan, const zero1__export_job *job,
                               const zero1_export_options *options, zero1__error *error) {
  const int made = plan->folder && !mkdir(plan->folder, 0777);
  zero1_status status = ZERO1_OK;
  if (plan->folder && !made) status = zero1__make_folder(plan->folder, 1, error);
  if (!status) status = make_plan(plan, job, options->max_bytes, error);
  if (!status && !options->force) status = zero1__export_check_free(plan, error);
  if (!status) status = zero1__export_write(plan, job->progress, job->context, error);
  if (!status) status = zero1__export_commit(plan, options->force, error);
  if (status) zero1__export_remove_parts(plan);
  if (status && made) rmdir(plan->folder);
  return status;
}

zero1_status zero1__export(zero1__export_job *job, const zero1_export_options *given,
                           zero1__error *error) {
  zero1_export_options options;
  zero1_status status = take_options(job, given, &options, error);
  if (status) return status;
  zero1__export_plan plan = {.reader = job->reader,
                             .state = options.state,
                             .rank = options.rank,
                             .dtype = options.dtype,
                             .folder = is_file_name(job->out) ? NULL : job->out};
  status = check_state(&plan, error);
  if (!status) status = make_files(&plan, job, &options, error);
  job->file_count = plan.file_count;
  job->total_bytes = plan.total_bytes;
  zero1__export_plan_end(&plan);
  return status;
}
