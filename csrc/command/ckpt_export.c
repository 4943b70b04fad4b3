/* zero1 ckpt export: the parameters alone, for other programs. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_folder.h"
#include "command.h"
#include "dtype.h"
#include "export_write.h"
#include "interrupt.h"
#include "size.h"

#define SUFFIX ".safetensors"
#define MAX_BYTES 5000000000 /* of a file, in a folder */

typedef struct exporting {
  const char *dir;
  const char *out;
  int32_t dtype;     /* ZERO1_DTYPE_, or -1: the parameters' own */
  int64_t max_bytes; /* 0: not given */
  int force;
} exporting;

static int is_folder(const char *path) {
  struct stat info;
  return !stat(path, &info) && S_ISDIR(info.st_mode);
}

static int is_file_name(const char *path) {
  const size_t length = strlen(path), suffix = sizeof SUFFIX - 1;
  return length > suffix && !strcmp(path + length - suffix, SUFFIX) && !is_folder(path);
}

/* Makes the files of a plan that has none yet. */
static zero1_status make_files(const exporting *how, export_plan *plan, zero1__error *error) {
  const int is_file = is_file_name(how->out);
  const char *const folder = is_file ? NULL : how->out;
  const int64_t max_bytes = how->max_bytes ? how->max_bytes : is_file ? INT64_MAX : MAX_BYTES;
  const int made = folder && !mkdir(folder, 0777);
  progress bar;
  zero1_status status = ZERO1_OK;
  if (folder && !made) status = zero1__make_folder(folder, 1, error);
  if (!status) status = export_plan_begin(plan, max_bytes, error);
  if (!status && is_file && plan->file_count > 1)
    status = zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                         "%s: %lld files are needed, one is named: give a folder", how->out,
                         (long long)plan->file_count);
  if (!status) status = export_plan_name(plan, how->out, is_file, error);
  if (!status && !how->force) status = export_check_free(plan, folder, error);
  interrupt_begin();
  progress_begin(&bar);
  if (!status) status = export_write(plan, &bar, error);
  progress_end(&bar);
  if (!status) status = export_commit(plan, folder, how->force, error);
  if (status) export_remove_parts(plan);
  if (status && made) rmdir(folder);
  interrupt_end();
  return status;
}

static int export(const exporting *how) {
  char size[SIZE_TEXT_BYTES];
  zero1_checkpoint_info info;
  export_plan plan = {0};
  zero1__error error = {0};
  int code = command_open(how->dir, &plan.checkpoint, &info);
  if (code) return code;
  plan.param_count = info.param_count;
  plan.dtype = how->dtype < 0 ? info.param_dtype : how->dtype;
  const zero1_status status = make_files(how, &plan, &error);
  if (status)
    code = command_fail(status, error.text);
  else
    printf("%s: %lld parameters, %s of %s in %lld file%s\n", how->out, (long long)info.param_count,
           size_text((double)plan.total_bytes, size), zero1__dtype_name(plan.dtype),
           (long long)plan.file_count, plan.file_count == 1 ? "" : "s");
  zero1_checkpoint_close(&plan.checkpoint);
  export_plan_end(&plan);
  return code;
}

/* Returns COMMAND_FINE, or COMMAND_USAGE and has said why. */
static int take_option(exporting *how, int option) {
  switch (option) {
    case 'o':
      how->out = optarg;
      return COMMAND_FINE;
    case 'f':
      how->force = 1;
      return COMMAND_FINE;
    case 'd':
      how->dtype = !strcmp(optarg, "fp32")   ? ZERO1_DTYPE_FP32
                   : !strcmp(optarg, "bf16") ? ZERO1_DTYPE_BF16
                                             : -1;
      if (how->dtype >= 0) return COMMAND_FINE;
      return command_usage(&ckpt_export, "--dtype %s: fp32 or bf16 is needed", optarg);
    case 'm':
      if (size_parse(optarg, &how->max_bytes)) return COMMAND_FINE;
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
  exporting how = {.dtype = -1};
  int option;
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
