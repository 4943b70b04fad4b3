/* zero1 ckpt prune: removes old checkpoints of a root. */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_lock.h"
#include "checkpoint_root.h"
#include "command.h"
#include "size.h"

typedef struct pruning {
  const char *root;
  int64_t keep_last, keep_every;
  int dry_run, no_lock;
} pruning;

/* What `latest` leads to stays, too: after a run went back it is not the highest step. */
static zero1_status keep_latest(const pruning *how, const int64_t *steps, int64_t count,
                                uint8_t *goes, zero1__error *error) {
  char path[PATH_MAX];
  int64_t latest;
  if (!count) return ZERO1_OK;
  const zero1_status status = zero1__root_latest(how->root, path, sizeof path, error);
  if (status) return status;
  const char *const slash = strrchr(path, '/');
  if (!zero1__step_parse(slash ? slash + 1 : path, &latest)) return ZERO1_OK;
  for (int64_t i = 0; i < count; ++i)
    if (steps[i] == latest) goes[i] = 0;
  return ZERO1_OK;
}

/* "9.2 MiB", or why that is not known. */
static const char *size_of(const char *path, char text[SIZE_TEXT_BYTES]) {
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  snprintf(text, SIZE_TEXT_BYTES, "damaged");
  if (zero1_checkpoint_open(path, &checkpoint, NULL, 0)) return text;
  if (!zero1_checkpoint_get_info(checkpoint, &info, sizeof info))
    size_text((double)info.bytes, text);
  zero1_checkpoint_close(&checkpoint);
  return text;
}

static zero1_status remove_one(const pruning *how, int64_t step, zero1__error *error) {
  char name[ZERO1__STEP_NAME_BYTES], path[PATH_MAX], size[SIZE_TEXT_BYTES];
  zero1__step_name(step, name);
  snprintf(path, sizeof path, "%s/%s", how->root, name);
  size_of(path, size);
  const zero1_status status = how->dry_run ? ZERO1_OK : zero1__root_remove(how->root, step, error);
  if (!status) printf("%s %s (%s)\n", how->dry_run ? "would remove" : "removed", path, size);
  return status;
}

static zero1_status prune(const pruning *how, zero1__error *error) {
  int64_t *steps, count, going = 0;
  zero1_status status = zero1__root_list(how->root, &steps, &count, error);
  if (status) return status;
  uint8_t *const goes = calloc((size_t)count + 1, sizeof *goes);
  if (!goes) status = zero1__fail(error, ZERO1_ERR_MEMORY, "a list of checkpoints");
  if (!status) {
    zero1__root_choose(steps, count, how->keep_last, how->keep_every, goes);
    status = keep_latest(how, steps, count, goes, error);
  }
  for (int64_t i = 0; i < count && !status; ++i) {
    if (!goes[i]) continue;
    ++going;
    status = remove_one(how, steps[i], error);
  }
  if (!status)
    printf("%lld of %lld checkpoints %s\n", (long long)(count - going), (long long)count,
           how->dry_run ? "would stay" : "stay");
  free(goes);
  free(steps);
  return status;
}

static int prune_locked(const pruning *how) {
  zero1__root_lock *lock = NULL;
  zero1__error error = {0};
  zero1_status status = ZERO1_OK;
  if (!how->dry_run && !how->no_lock) status = zero1__root_lock_take(how->root, &lock, &error);
  if (!status) status = prune(how, &error);
  zero1__root_unlock(lock);
  return status ? command_fail(status, error.text) : COMMAND_FINE;
}

static int run(int argc, char **argv) {
  static const struct option options[] = {{"keep-last", required_argument, NULL, 'l'},
                                          {"keep-every", required_argument, NULL, 'e'},
                                          {"dry-run", no_argument, NULL, 'n'},
                                          {"no-lock", no_argument, NULL, 'u'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
  int option;
  pruning how = {0};
  while ((option = getopt_long(argc, argv, "nh", options, NULL)) != -1) {
    if (option == 'h') return command_help(&ckpt_prune);
    if (option == '?') return command_usage(&ckpt_prune, NULL);
    if (option == 'n') how.dry_run = 1;
    if (option == 'u') how.no_lock = 1;
    if (option == 'l' && !command_int64(optarg, 1, &how.keep_last))
      return command_usage(&ckpt_prune, "--keep-last %s: a number from 1 is needed", optarg);
    if (option == 'e' && !command_int64(optarg, 1, &how.keep_every))
      return command_usage(&ckpt_prune, "--keep-every %s: a number from 1 is needed", optarg);
  }
  if (argc - optind != 1) return command_usage(&ckpt_prune, "one root is needed");
  if (!how.keep_last) return command_usage(&ckpt_prune, "--keep-last is needed");
  how.root = argv[optind];
  return prune_locked(&how);
}

const command_verb ckpt_prune = {
    .name = "prune",
    .summary = "removes old checkpoints of a root",
    .help =
        "usage: zero1 ckpt prune ROOT --keep-last N [--keep-every K] [--dry-run] [--no-lock]\n"
        "\n"
        "Removes the checkpoints of ROOT but the N of the highest steps, those whose step is a\n"
        "multiple of K, and the one that `latest` leads to; tells which. ROOT is locked\n"
        "meanwhile: nothing is removed while a job saves there.\n"
        "\n"
        "  --keep-last N    1 or more\n"
        "  --keep-every K   1 or more (default: none stays for that)\n"
        "  -n, --dry-run    only tells what would go; takes no lock\n"
        "  --no-lock        for filesystems that have no locks, while no job saves there\n"
        "\n"
        "Exits with 0: fine; 2: wrong usage; 3: no such folder, ROOT is in use, or removing\n"
        "failed.\n",
    .run = run};
