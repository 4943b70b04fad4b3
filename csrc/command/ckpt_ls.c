/* zero1 ckpt ls: the checkpoints of a root. */
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "checkpoint_root.h"
#include "command.h"
#include "json_out.h"
#include "manifest.h"
#include "size.h"
#include "table.h"

/* One checkpoint; `error` in place of the numbers where it could not be opened. */
typedef struct listed {
  int64_t step;
  char path[PATH_MAX];
  zero1_status status;
  char error[ZERO1__ERROR_TEXT];
  int64_t files;
  int32_t ranks;
  uint64_t bytes;
  time_t modified; /* its manifest */
  int is_latest;
} listed;

typedef struct listing {
  const char *root;
  int64_t *steps;
  int64_t count;
  struct stat latest; /* the folder that `latest` leads to */
  int has_latest;
} listing;

static int begin(listing *list, const char *root) {
  zero1__error error = {0};
  char path[PATH_MAX];
  *list = (listing){.root = root};
  zero1_status status = zero1__root_list(root, &list->steps, &list->count, &error);
  if (!status && list->count) {
    status = zero1__root_latest(root, path, sizeof path, &error);
    list->has_latest = !status && !stat(path, &list->latest);
  }
  if (!status) return COMMAND_FINE;
  free(list->steps);
  return command_fail(status, error.text);
}

static void look_at(const listing *list, int64_t step, listed *one) {
  char name[ZERO1__STEP_NAME_BYTES], manifest[PATH_MAX + 16];
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  struct stat folder, file;
  *one = (listed){.step = step};
  zero1__step_name(step, name);
  snprintf(one->path, sizeof one->path, "%s/%s", list->root, name);
  one->is_latest = list->has_latest && !stat(one->path, &folder) &&
                   folder.st_dev == list->latest.st_dev && folder.st_ino == list->latest.st_ino;
  snprintf(manifest, sizeof manifest, "%s/" ZERO1__MANIFEST_NAME, one->path);
  if (!stat(manifest, &file)) one->modified = file.st_mtime;
  one->status = zero1_checkpoint_open(one->path, &checkpoint, one->error, sizeof one->error);
  if (one->status) return;
  one->status = zero1_checkpoint_get_info(checkpoint, &info, sizeof info);
  if (one->status)
    snprintf(one->error, sizeof one->error, "%s", zero1_checkpoint_last_error(checkpoint));
  else
    one->files = info.file_count, one->bytes = info.bytes, one->ranks = info.world_size;
  zero1_checkpoint_close(&checkpoint);
}

static void add_row(table *rows, const listed *one) {
  char size[SIZE_TEXT_BYTES], age[SIZE_TEXT_BYTES];
  table_add(rows, "%lld", (long long)one->step);
  if (one->status) {
    for (int i = 0; i < 3; ++i) table_add(rows, "?");
  } else {
    table_add(rows, "%d", (int)one->ranks);
    table_add(rows, "%lld", (long long)one->files);
    table_add(rows, "%s", size_text((double)one->bytes, size));
  }
  table_add(rows, "%s", age_text((int64_t)(time(NULL) - one->modified), age));
  table_add(rows, "%s%s%s", one->is_latest ? "latest" : "",
            one->is_latest && one->status ? ", " : "",
            !one->status                       ? ""
            : one->status == ZERO1_ERR_CORRUPT ? "damaged"
                                               : "cannot be opened");
}

static json_t *object_of(const listed *one) {
  json_t *const object = json_object();
  json_out_integer(object, "step", one->step);
  json_out_string(object, "path", one->path);
  json_object_set_new(object, "latest", json_boolean(one->is_latest));
  json_out_integer(object, "modified", (int64_t)one->modified);
  if (one->status) {
    json_out_string(object, "error", one->error);
  } else {
    json_out_integer(object, "ranks", one->ranks);
    json_out_integer(object, "files", one->files);
    json_out_integer(object, "bytes", (int64_t)one->bytes);
  }
  return object;
}

static int print_table(const listing *list) {
  static const char *const titles[] = {"STEP", "RANKS", "FILES", "SIZE", "AGE", ""};
  int code = COMMAND_FINE;
  table rows;
  listed one;
  table_begin(&rows, 6, 0x1f);
  for (int i = 0; i < 6; ++i) table_add(&rows, "%s", titles[i]);
  for (int64_t i = 0; i < list->count; ++i) {
    look_at(list, list->steps[i], &one);
    if (one.status) code = command_worse(code, command_fail(one.status, one.error));
    add_row(&rows, &one);
  }
  if (!list->count)
    fprintf(stderr, "zero1: %s: no checkpoint in it\n", list->root);
  else if (table_print(&rows, "", stdout))
    code = command_worse(code, COMMAND_FAILED);
  table_end(&rows);
  return code;
}

static int print_json(const listing *list) {
  int code = COMMAND_FINE;
  json_t *const all = json_object(), *const checkpoints = json_array();
  listed one;
  json_out_string(all, "root", list->root);
  for (int64_t i = 0; i < list->count; ++i) {
    look_at(list, list->steps[i], &one);
    if (one.status) code = command_worse(code, command_fail(one.status, one.error));
    json_array_append_new(checkpoints, object_of(&one));
  }
  json_object_set_new(all, "checkpoints", checkpoints);
  return command_worse(code, json_out_print(all));
}

static int run(int argc, char **argv) {
  static const struct option options[] = {
      {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
  int json = 0, option;
  listing list;
  while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
    if (option == 'h') return command_help(&ckpt_ls);
    if (option != 'j') return command_usage(&ckpt_ls, NULL);
    json = 1;
  }
  if (argc - optind != 1) return command_usage(&ckpt_ls, "one root is needed");
  int code = begin(&list, argv[optind]);
  if (code) return code;
  code = json ? print_json(&list) : print_table(&list);
  free(list.steps);
  return code;
}

const command_verb ckpt_ls = {
    .name = "ls",
    .summary = "the checkpoints of a root: steps, sizes, ages",
    .help =
        "usage: zero1 ckpt ls ROOT [--json]\n"
        "\n"
        "Lists the checkpoints of ROOT, the oldest step first: how many ranks saved it, its\n"
        "files and their bytes, the age of its manifest, and which one `latest` leads to.\n"
        "\n"
        "  --json   an object: root, checkpoints (step, path, latest, modified in seconds\n"
        "           since 1970, and ranks, files, bytes, or an error)\n"
        "\n"
        "Exits with 0: fine; 1: a manifest is damaged; 2: wrong usage; 3: no such folder, or\n"
        "reading failed.\n",
    .run = run};
