/* zero1 ckpt verify: every byte against its checksum. */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint_root.h"
#include "command.h"
#include "progress.h"
#include "size.h"

#define THREADS_MAX 1024
#define THREADS_DEFAULT_MAX 8

static int verify_one(const char *dir, int32_t threads) {
  char size[SIZE_TEXT_BYTES], rate[SIZE_TEXT_BYTES];
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  progress bar;
  int code = command_open(dir, &checkpoint, &info);
  if (code) return code;
  progress_begin(&bar);
  const zero1_status status = zero1_checkpoint_verify(checkpoint, threads, progress_show, &bar);
  const double seconds = progress_end(&bar);
  if (status) {
    code = command_fail(status, zero1_checkpoint_last_error(checkpoint));
  } else {
    printf("%s: fine: %s in %.2f s, %s/s\n", info.path, size_text((double)info.bytes, size),
           seconds, size_text((double)info.bytes / (seconds > 1e-9 ? seconds : 1e-9), rate));
    fflush(stdout);
  }
  zero1_checkpoint_close(&checkpoint);
  return code;
}

static int verify_all(const char *root, int32_t threads) {
  int64_t *steps, count;
  int code = COMMAND_FINE;
  zero1__error error = {0};
  const zero1_status status = zero1__root_list(root, &steps, &count, &error);
  if (status) return command_fail(status, error.text);
  if (!count) {
    fprintf(stderr, "zero1: %s: no checkpoint in it\n", root);
    code = COMMAND_FAILED;
  }
  for (int64_t i = 0; i < count; ++i) {
    char name[ZERO1__STEP_NAME_BYTES], path[PATH_MAX];
    zero1__step_name(steps[i], name);
    snprintf(path, sizeof path, "%s/%s", root, name);
    code = command_worse(code, verify_one(path, threads));
  }
  free(steps);
  return code;
}

static int64_t default_threads(void) {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return cores < 1 ? 1 : cores < THREADS_DEFAULT_MAX ? cores : THREADS_DEFAULT_MAX;
}

static int run(int argc, char **argv) {
  static const struct option options[] = {{"all", no_argument, NULL, 'a'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
  int all = 0, option, code = COMMAND_FINE;
  int64_t threads = default_threads();
  while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
    if (option == 'h') return command_help(&ckpt_verify);
    if (option != 'a' && option != 't') return command_usage(&ckpt_verify, NULL);
    if (option == 'a') all = 1;
    if (option == 't' && (!command_int64(optarg, 1, &threads) || threads > THREADS_MAX))
      return command_usage(&ckpt_verify, "--threads %s: a number from 1 to %d is needed", optarg,
                           THREADS_MAX);
  }
  if (argc == optind) return command_usage(&ckpt_verify, "a checkpoint or a root is needed");
  for (int i = optind; i < argc; ++i) {
    const int one =
        all ? verify_all(argv[i], (int32_t)threads) : verify_one(argv[i], (int32_t)threads);
    code = command_worse(code, one);
  }
  return code;
}

const command_verb ckpt_verify = {
    .name = "verify",
    .summary = "every byte of checkpoints against its checksum",
    .help =
        "usage: zero1 ckpt verify DIR... [--threads N] [--all]\n"
        "\n"
        "Reads every file of each checkpoint, or of a root's latest, compares all checksums, and\n"
        "what each file says of itself with the manifest. The first file that is damaged,\n"
        "missing, or of another length is named; the next checkpoint is looked at all the same.\n"
        "\n"
        "  --threads N   that many read at a time (default: the cores, at most 8)\n"
        "  --all         each DIR is a root: all of its checkpoints\n"
        "\n"
        "Exits with 0: all are fine; 1: one is damaged; 2: wrong usage; 3: not found, or\n"
        "reading failed.\n",
    .run = run};
