/* zero1 ckpt diff: what two checkpoints do not have in common. */
#include <getopt.h>
#include <stdio.h>

#include "command.h"
#include "diff_state.h"
#include "diff_text.h"

static int run(int argc, char **argv) {
  static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
  diff_pair pair = {0};
  const int option = getopt_long(argc, argv, "h", options, NULL);
  if (option == 'h') return command_help(&ckpt_diff);
  if (option != -1) return command_usage(&ckpt_diff, NULL);
  if (argc - optind != 2) return command_usage(&ckpt_diff, "two checkpoints or roots are needed");
  int code = COMMAND_FINE;
  for (int i = 0; i < 2 && !code; ++i)
    code = command_open(argv[optind + i], &pair.side[i], &pair.info[i]);
  if (!code) {
    const int text_code = diff_text(&pair);
    const int state_code = text_code > COMMAND_DIFFERS ? COMMAND_FINE : diff_state(&pair);
    /* Here a failure tells more than a difference: it may hide one. */
    code = text_code > state_code ? text_code : state_code;
    if (code == COMMAND_FINE) puts("the same");
  }
  zero1_checkpoint_close(&pair.side[0]);
  zero1_checkpoint_close(&pair.side[1]);
  return code;
}

const command_verb ckpt_diff = {
    .name = "diff",
    .summary = "what two checkpoints do not have in common",
    .help =
        "usage: zero1 ckpt diff A B\n"
        "\n"
        "Compares two checkpoints, or roots' latest: counts, hyper-parameters, metadata, lists\n"
        "of parameters, and, bit for bit, the states (master_param, exp_avg, exp_avg_sq,\n"
        "residual) of the parameters that both have in the same shape: how many elements differ,\n"
        "and by how much at most. Parameters go by their names.\n"
        "\n"
        "The same state saved by another number of ranks is the same: that is told, and not\n"
        "counted; metadata of ranks, and residuals, are then not compared.\n"
        "\n"
        "Exits with 0: the same; 1: they differ, or one is damaged; 2: wrong usage; 3: not found,\n"
        "or reading failed.\n",
    .run = run};
