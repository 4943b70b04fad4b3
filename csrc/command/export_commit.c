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

/* Whether a folder's file belongs to an export. */
static int is_exported(const char *name) {
  return !strcmp(name, EXPORT_NAME) || !strcmp(name, EXPORT_INDEX_NAME) ||
         !fnmatch("model-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors", name,
                  0);
}

typedef zero1_status (*visit_fn)(const char *path, const char *name, zero1__error *error);

/* Every file of an earlier export of a folder. */
static zero1_status visit_exported(const char *folder, visit_fn visit, zero1__error *error) {
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
    if (!is_exported(entry->d_name)) continue;
    const int bytes = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    status = bytes < 0 || (size_t)bytes >= sizeof path
                 ? zero1__fail_io(error, folder, "reading", ENAMETOOLONG)
                 : visit(path, entry->d_name, error);
  }
  closedir(listing);
  return status;
}

static zero1_status refuse(const char *path, const char *name, zero1__error *error) {
  (void)name;
  return zero1__fail(error, ZERO1_ERR_IO, "%s: is there already: --force replaces it", path);
}

static zero1_status remove_one(const char *path, const char *name, zero1__error *error) {
  if (!strcmp(name, EXPORT_NAME)) return ZERO1_OK; /* replaced at once, or removed later */
  if (unlink(path) && errno != ENOENT) return zero1__fail_io(error, path, "removing", errno);
  return ZERO1_OK;
}

zero1_status export_check_free(const export_plan *plan, const char *folder, zero1__error *error) {
  struct stat info;
  if (folder) return visit_exported(folder, refuse, error);
  return lstat(plan->files[0].path, &info) ? ZERO1_OK : refuse(plan->files[0].path, NULL, error);
}

/* ---- in place ---- */

static zero1_status put(export_file *file, int force, zero1__error *error) {
  int result = renameat2(AT_FDCWD, file->part, AT_FDCWD, file->path, force ? 0 : RENAME_NOREPLACE);
  if (result && !force && (errno == EINVAL || errno == ENOSYS)) /* a filesystem without it */
    result = access(file->path, F_OK) ? rename(file->part, file->path) : (errno = EEXIST, -1);
  if (result && errno == EEXIST) return refuse(file->path, NULL, error);
  if (result) return zero1__fail_io(error, file->path, "putting it in place", errno);
  file->is_written = 0; /* under that name */
  return ZERO1_OK;
}

static json_t *index_of(const export_plan *plan) {
  json_t *const weights = json_object();
  zero1_param_spec spec;
  for (int64_t f = 0; f < plan->file_count; ++f) {
    const char *const name = strrchr(plan->files[f].path, '/') + 1;
    for (int64_t i = plan->files[f].begin; i < plan->files[f].end; ++i)
      if (!zero1_checkpoint_param(plan->checkpoint, i, &spec, sizeof spec))
        json_object_set_new(weights, spec.name, json_string(name));
  }
  return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)plan->total_bytes,
                   "weight_map", weights);
}

static zero1_status write_index(const export_plan *plan, const char *folder, zero1__error *error) {
  char *path = NULL;
  json_t *const index = index_of(plan);
  char *const text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
  json_decref(index);
  zero1_status status = ZERO1_OK;
  if (!text || asprintf(&path, "%s/" EXPORT_INDEX_NAME, folder) < 0) {
    path = NULL;
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for " EXPORT_INDEX_NAME);
  }
  if (!status) status = zero1__save_file(path, text, strlen(text), "\n", 1, error);
  free(path);
  free(text);
  return status;
}

/* The index goes first, and is gone for good before one of its files is. */
static zero1_status remove_earlier(const export_plan *plan, const char *folder,
                                   zero1__error *error) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/" EXPORT_INDEX_NAME, folder);
  zero1_status status = zero1__remove_tree(path, error);
  if (!status) status = zero1__flush_folder(folder, error);
  if (!status) status = visit_exported(folder, remove_one, error);
  snprintf(path, sizeof path, "%s/" EXPORT_NAME, folder);
  if (!status && plan->file_count > 1) status = zero1__remove_tree(path, error);
  return status;
}

static zero1_status flush_parent(const char *path, zero1__error *error) {
  char *const copy = strdup(path); /* dirname writes into it */
  if (!copy) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a path");
  const zero1_status status = zero1__flush_folder(dirname(copy), error);
  free(copy);
  return status;
}

zero1_status export_commit(export_plan *plan, const char *folder, int force, zero1__error *error) {
  zero1_status status = ZERO1_OK;
  if (folder && force) status = remove_earlier(plan, folder, error);
  for (int64_t i = 0; i < plan->file_count && !status; ++i)
    status = put(&plan->files[i], force, error);
  if (!status && plan->file_count > 1) {
    status = zero1__flush_folder(folder, error);
    if (!status) status = write_index(plan, folder, error);
  }
  return status ? status : flush_parent(plan->files[0].path, error);
}
