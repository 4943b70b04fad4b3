/* zero1 ckpt export: the parameters alone, for other programs. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "dtype.h"
#include "interrupt.h"
#include "progress.h"
#include "size.h"

typedef struct exporting {
  const char *dir;
  const char *out;
  zero1_export_options options;
} exporting;

/* A zero1_progress_fn that also looks for signals; context: a progress. */
static int32_t show_until_interrupted(void *context, uint64_t bytes, uint64_t total_bytes) {
  progress_show(context, bytes, total_bytes);
  return interrupt_seen() != 0;
}

static int export(exporting *how) {
  char size[SIZE_TEXT_BYTES];
  zero1_checkpoint *checkpoint;
  zero1_checkpoint_info info;
  progress bar;
  int64_t file_count;
  uint64_t bytes;
  int code = command_open(how->dir, &checkpoint, &info);
  if (code) return code;
  if (how->options.dtype < 0) how->options.dtype = info.param_dtype;
  interrupt_begin();
  progress_begin(&bar);
  const zero1_status status = zero1_checkpoint_export(
      checkpoint, how->out, &how->options, show_until_interrupted, &bar, &file_count, &bytes);
  progress_end(&bar);
  interrupt_end();
  if (status)
    code = command_fail(status, zero1_checkpoint_last_error(checkpoint));
  else
    printf("%s: %lld parameters, %s of %s in %lld file%s\n", how->out, (long long)info.param_count,
           size_text((double)bytes, size), zero1__dtype_name(how->options.dtype),
           (long long)file_count, file_count == 1 ? "" : "s");
  zero1_checkpoint_close(&checkpoint);
  return code;
}

/* Returns COMMAND_FINE, or COMMAND_USAGE and has said why. */
static int take_option(exporting *how, int option) {
  switch (option) {
    case 'o':
      how->out = optarg;
      return COMMAND_FINE;
    case 'f':
      how->options.force = 1;
      return COMMAND_FINE;
    case 'd':
      if (!strcmp(optarg, "fp32"))
        how->options.state = ZERO1_STATE_MASTER_PARAM;
      else if (!strcmp(optarg, "bf16"))
        how->options.state = ZERO1_STATE_PARAM;
      else
        return command_usage(&ckpt_export, "--dtype %s: fp32 or bf16 is needed", optarg);
      how->options.dtype =
          how->options.state == ZERO1_STATE_PARAM ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
      return COMMAND_FINE;
    case 'm':
      if (size_parse(optarg, &how->options.max_bytes)) return COMMAND_FINE;
      return command_usage(&ckpt_export, "--max-size %s: a size is needed, like 5GB or 512MiB",
                           optarg);
    default:
      return command_usage(&ckpt_export, NULL);
  }
}

static int run(int argc, char **argv) {
  static const struct option options[] = {
      {"output", required_argument, NULL, 'o'},   {"dtype", required_argument, NULL, 'd'},
      {"max-size", required_argument, NULL, 'm'}, {"force", no_argument, NULL, 'f'},
      {"help", no_argument, NULL, 'h'},           {0}};
  exporting how = {0};
  int option;
  (void)zero1_export_options_init(&how.options, sizeof how.options);
  while ((option = getopt_long(argc, argv, "o:fh", options, NULL)) != -1) {
    if (option == 'h') return command_help(&ckpt_export);
    const int code = take_option(&how, option);
    if (code) return code;
  }
  if (argc - optind != 1) return command_usage(&ckpt_export, "one checkpoint or root is needed");
  if (!how.out || !*how.out) return command_usage(&ckpt_export, "-o is needed");
  how.dir = argv[optind];
  return export(&how);
}

const command_verb ckpt_export = {
    .name = "export",
    .summary = "the parameters as safetensors files, for PyTorch and Hugging Face",
    .help =
        "usage: zero1 ckpt export DIR -o FILE.safetensors [--dtype fp32|bf16] [--force]\n"
        "       zero1 ckpt export DIR -o FOLDER [--dtype fp32|bf16] [--max-size SIZE] [--force]\n"
        "\n"
        "Writes the parameters of a checkpoint, or of a root's latest, with their names and\n"
        "shapes. In a FOLDER, which is made where its parent is there, they are\n"
        "model.safetensors, or, beyond SIZE, model-00001-of-0000N.safetensors and\n"
        "model.safetensors.index.json. All is written under other names and flushed, and only\n"
        "then put in place; checksums of what is read are verified.\n"
        "\n"
        "  -o, --output OUT   a name that ends in .safetensors is a file's, any other a folder's\n"
        "  --dtype TYPE       fp32: the masters, all bits; bf16: rounded to nearest even\n"
        "                     (default: as the parameters were in training)\n"
        "  --max-size SIZE    bytes of tensors in a file, like 5GB or 512MiB (default 5GB; of\n"
        "                     a FILE: none); a larger tensor has a file to itself\n"
        "  -f, --force        replaces an earlier export\n"
        "\n"
        "Exits with 0: fine; 1: the checkpoint is damaged; 2: wrong usage; 3: not found, a file\n"
        "is there already, or reading or writing failed.\n",
    .run = run};
