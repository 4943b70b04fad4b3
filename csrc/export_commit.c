/* Puts the files of an export in place. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "export_write.h"
#include "save_file.h"

/* ---- what is there already ---- */

/* Whether a folder's file belongs to an export of the same state. */
static int is_exported(const char *name, const char *stem) {
  static const char *const ends[] = {
      ".safetensors", ".safetensors.index.json",
      "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors"};
  const size_t length = strlen(stem);
  if (strncmp(name, stem, length) != 0) return 0;
  for (size_t i = 0; i < sizeof ends / sizeof *ends; ++i)
    if (!fnmatch(ends[i], name + length, 0)) return 1;
  return 0;
}

typedef zero1_status (*visit_fn)(const zero1__export_plan *plan, const char *path,
                                 zero1__error *error);

/* Every file of an earlier export of the folder. */
static zero1_status visit_exported(const zero1__export_plan *plan, visit_fn visit,
                                   zero1__error *error) {
  const char *const folder = plan->folder;
  DIR *const listing = opendir(folder);
  if (!listing) return zero1__fail_io(error, folder, "opening", errno);
  zero1_status status = ZERO1_OK;
  while (!status) {
    char path[PATH_MAX];
    errno = 0;
    const struct dirent *const entry = readdir(listing);
    if (!entry) {
      if (errno) status = zero1__fail_io(error, folder, "reading", errno);
      break;
    }
    if (!is_exported(entry->d_name, plan->stem)) continue;
    const int bytes = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    status = bytes < 0 || (size_t)bytes >= sizeof path
                 ? zero1__fail_io(error, folder, "reading", ENAMETOOLONG)
                 : visit(plan, path, error);
  }
  closedir(listing);
  return status;
}

static zero1_status refuse(const zero1__export_plan *plan, const char *path, zero1__error *error) {
  (void)plan;
  return zero1__fail_at(error, ZERO1_ERR_IO, path, "is there already: force replaces it");
}

static zero1_status remove_one(const zero1__export_plan *plan, const char *path,
                               zero1__error *error) {
  if (plan->file_count == 1 && !strcmp(path, plan->files[0].path))
    return ZERO1_OK; /* replaced at once */
  if (unlink(path) && errno != ENOENT) return zero1__fail_io(error, path, "removing", errno);
  return ZERO1_OK;
}

zero1_status zero1__export_check_free(const zero1__export_plan *plan, zero1__error *error) {
  struct stat info;
  if (plan->folder) return visit_exported(plan, refuse, error);
  return lstat(plan->files[0].path, &info) ? ZERO1_OK : refuse(plan, plan->files[0].path, error);
}

/* ---- in place ---- */

static zero1_status put(const zero1__export_plan *plan, zero1__export_file *file, int32_t force,
                        zero1__error *error) {
  int result = renameat2(AT_FDCWD, file->part, AT_FDCWD, file->path, force ? 0 : RENAME_NOREPLACE);
  if (result && !force && (errno == EINVAL || errno == ENOSYS)) /* a filesystem without it */
    result = access(file->path, F_OK) ? rename(file->part, file->path) : (errno = EEXIST, -1);
  if (result && errno == EEXIST) return refuse(plan, file->path, error);
  if (result) return zero1__fail_io(error, file->path, "putting it in place", errno);
  file->is_written = 0; /* under that name */
  return ZERO1_OK;
}

/* NULL: no memory. */
static json_t *index_of(const zero1__export_plan *plan) {
  json_t *const weights = json_object();
  int failed = 0;
  for (int64_t f = 0; f < plan->file_count; ++f) {
    const zero1__export_file *const file = &plan->files[f];
    const char *const name = strrchr(file->path, '/') + 1;
    for (int64_t i = file->begin; i < file->end; ++i)
      if (zero1__export_has(plan, i))
        failed |=
            json_object_set_new(weights, plan->reader->manifest.params.names[i], json_string(name));
  }
  if (failed) {
    json_decref(weights);
    return NULL;
  }
  return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)plan->total_bytes,
                   "weight_map", weights);
}

static zero1_status write_index(const zero1__export_plan *plan, const char *path,
                                zero1__error *error) {
  json_t *const index = index_of(plan);
  char *const text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
  json_decref(index);
  if (!text) return zero1__fail_at(error, ZERO1_ERR_MEMORY, path, "no memory for it");
  const zero1_status status = zero1__save_file(path, text, strlen(text), "\n", 1, error);
  free(text);
  return status;
}

/* The index goes first, and is gone for good before one of its files is. */
static zero1_status remove_earlier(const zero1__export_plan *plan, const char *index_path,
                                   zero1__error *error) {
  zero1_status status = remove_one(plan, index_path, error);
  if (!status) status = zero1__flush_folder(plan->folder, error);
  if (!status) status = visit_exported(plan, remove_one, error);
  return status;
}

static zero1_status flush_parent(const char *path, zero1__error *error) {
  char *const copy = strdup(path); /* dirname writes into it */
  if (!copy) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a path");
  const zero1_status status = zero1__flush_folder(dirname(copy), error);
  free(copy);
  return status;
}

static zero1_status commit(zero1__export_plan *plan, const char *index_path, int32_t force,
                           zero1__error *error) {
  zero1_status status = ZERO1_OK;
  if (index_path && force) status = remove_earlier(plan, index_path, error);
  for (int64_t i = 0; i < plan->file_count && !status; ++i)
    status = put(plan, &plan->files[i], force, error);
  if (!status && plan->file_count > 1) {
    status = zero1__flush_folder(plan->folder, error);
    if (!status) status = write_index(plan, index_path, error);
  }
  return status ? status : flush_parent(plan->files[0].path, error);
}

zero1_status zero1__export_commit(zero1__export_plan *plan, int32_t force, zero1__error *error) {
  char *index_path = NULL;
  if (plan->folder &&
      asprintf(&index_path, "%s/%s.safetensors.index.json", plan->folder, plan->stem) < 0)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a path");
  const zero1_status status = commit(plan, index_path, force, error);
  free(index_path);
  return status;
}
