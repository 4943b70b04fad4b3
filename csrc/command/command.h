/* The program `zero1`: what its verbs share. */
#ifndef ZERO1_COMMAND_H
#define ZERO1_COMMAND_H

#include <stdint.h>

#include "zero1/checkpoint.h"

/** What the program exits with. */
enum {
  COMMAND_FINE = 0,
  COMMAND_DIFFERS = 1, /* a checkpoint is damaged; two differ */
  COMMAND_USAGE = 2,   /* the arguments are wrong */
  COMMAND_FAILED = 3   /* there is no such thing, input or output failed, the root is in use */
};

/** One of `zero1 ckpt`. run: argv[0] is its full name; returns what the program exits with. */
typedef struct command_verb {
  const char *name;
  const char *summary; /* one line, for the list of verbs */
  const char *help;    /* all of --help */
  int (*run)(int argc, char **argv);
} command_verb;

extern const command_verb ckpt_ls, ckpt_show, ckpt_verify, ckpt_diff, ckpt_export, ckpt_prune;

/** Prints --help. Returns COMMAND_FINE. */
int command_help(const command_verb *verb);

/** Says what is wrong with the arguments, where getopt has not (NULL), and where help is. Returns
 *  COMMAND_USAGE. */
int command_usage(const command_verb *verb, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** Prints a failure of the library. Returns what the program exits with. */
int command_fail(zero1_status status, const char *text);

/** A number of at least `least`; 0 where the text is none. */
int command_int64(const char *text, int64_t least, int64_t *value);

/** Opens a checkpoint, or a root's latest, and tells of a failure. Returns what the program exits
 *  with: COMMAND_FINE, and then the caller closes it. */
int command_open(const char *dir, zero1_checkpoint **checkpoint, zero1_checkpoint_info *info);

/** Elements of a parameter, whose shape the manifest has checked. */
int64_t command_numel(const zero1_param_spec *spec);

/** "[300, 7]"; of very many sizes the first ones. */
#define COMMAND_SHAPE_BYTES 256
const char *command_shape(const zero1_param_spec *spec, char text[COMMAND_SHAPE_BYTES]);

/** Whether two parameters have the same shape. */
int command_same_shape(const zero1_param_spec *a, const zero1_param_spec *b);

/** The more telling of two exit codes: damage, then failure, then fine. */
int command_worse(int left, int right);

#endif
