/* The program `zero1`. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const command_verb *const verbs[] = {&ckpt_ls,   &ckpt_show,   &ckpt_verify,
                                            &ckpt_diff, &ckpt_export, &ckpt_prune};
#define VERB_COUNT (sizeof verbs / sizeof *verbs)

static int print_help(FILE *out) {
  fputs(
      "usage: zero1 ckpt VERB ...\n"
      "       zero1 --help | --version\n"
      "\n"
      "Looks at checkpoints and looks after them.\n"
      "\n",
      out);
  for (size_t i = 0; i < VERB_COUNT; ++i)
    fprintf(out, "  %-8s %s\n", verbs[i]->name, verbs[i]->summary);
  fputs(
      "\n"
      "zero1 ckpt VERB --help tells more. A root is the folder that a run saves into; where one\n"
      "checkpoint is asked for, a root stands for its latest.\n"
      "\n"
      "Exits with 0: fine; 1: a checkpoint is damaged, or (diff) two differ; 2: wrong usage;\n"
      "3: not found, input or output failed, or the root is in use.\n",
      out);
  return out == stdout ? COMMAND_FINE : COMMAND_USAGE;
}

static int is_help(const char *text) {
  return !strcmp(text, "--help") || !strcmp(text, "-h");
}

static int run_verb(int argc, char **argv) {
  if (argc < 3) return print_help(stderr);
  if (is_help(argv[2])) return print_help(stdout);
  for (size_t i = 0; i < VERB_COUNT; ++i) {
    if (strcmp(argv[2], verbs[i]->name)) continue;
    char name[32];
    snprintf(name, sizeof name, "zero1 ckpt %s", verbs[i]->name);
    argv[2] = name; /* what getopt begins its messages with */
    return verbs[i]->run(argc - 2, argv + 2);
  }
  fprintf(stderr, "zero1 ckpt: there is no %s\nzero1 --help tells what there is.\n", argv[2]);
  return COMMAND_USAGE;
}

static int run(int argc, char **argv) {
  if (argc < 2) return print_help(stderr);
  if (is_help(argv[1])) return print_help(stdout);
  if (!strcmp(argv[1], "--version")) {
    const unsigned version = zero1_version();
    printf("zero1 %u.%u.%u\n", version / 10000, version / 100 % 100, version % 100);
    return COMMAND_FINE;
  }
  if (!strcmp(argv[1], "ckpt")) return run_verb(argc, argv);
  fprintf(stderr, "zero1: there is no %s\nzero1 --help tells what there is.\n", argv[1]);
  return COMMAND_USAGE;
}

/* JSON that lacks what there was no memory for would be taken for whole. */
static void *allocate_or_exit(size_t bytes) {
  void *const memory = malloc(bytes);
  if (memory) return memory;
  fputs("zero1: out of memory\n", stderr);
  _Exit(COMMAND_FAILED);
}

int main(int argc, char **argv) {
  json_set_alloc_funcs(allocate_or_exit, free);
  const int code = run(argc, argv);
  if (!fflush(stdout) && !ferror(stdout)) return code;
  fprintf(stderr, "zero1: standard output: %s\n", strerror(errno));
  return COMMAND_FAILED;
}
