#include "bench_checkpoint_options.h"

#include <inttypes.h>

#include "bench_arguments.h"

#define FIELD(name) offsetof(bench_checkpoint_options, name)

static const bench_argument rows[] = {
    {"numel", "N", BENCH_WHOLE, FIELD(subject.numel), "64Mi", 1, 1e12,
     "elements of all tensors together; a checkpoint has 12 bytes for each"},
    {"tensors", "N", BENCH_WHOLE, FIELD(subject.tensors), "64", 1, 1e6,
     "tensors, as equal as can be"},
    {"param-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(subject.param_dtype), "fp32", 0, 0,
     "parameters; masters are fp32"},
    {"clip", "X", BENCH_REAL, FIELD(subject.clip), "1", 0, 1e30,
     "highest gradient norm; 0: neither clipping nor guard, so that updates begin in backward"},
    {"dir", "FOLDER", BENCH_TEXT, FIELD(dir), NULL, 0, 0,
     "where to write, in a folder that is removed in the end; on a real disk [$TMPDIR, or /tmp]"},
    {"rounds", "N", BENCH_WHOLE, FIELD(subject.steps), "5", 1, 1000, "repetitions that count"},
    {"length", "X", BENCH_REAL, FIELD(length), "1.5", 0, 1e3,
     "forward and backward of a step that covers a save, in synchronous saves"},
    {"threads", "N", BENCH_WHOLE, FIELD(subject.threads), "0", 0, 1024,
     "threads per rank; 0: the cores that it is bound to, or its part of the node's"},
    {"bucket-numel", "N", BENCH_WHOLE, FIELD(subject.bucket_numel), "0", 0, 1e12,
     "most elements in a bucket; 0: the library's default"},
    {"ranks-per-node", "N", BENCH_WHOLE, FIELD(subject.ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: all apart"},
    {"json", "FILE", BENCH_TEXT, FIELD(subject.json), NULL, 0, 0,
     "writes the results there, as one object"},
    {"help", NULL, BENCH_ON, FIELD(subject.help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

static bool check_together(const bench_checkpoint_options *options, char *error,
                           size_t error_bytes) {
  const bench_options *subject = &options->subject;
  if (subject->help || subject->tensors <= subject->numel) return true;
  snprintf(error, error_bytes,
           "--tensors: %" PRId64 " tensors are more than the elements of --numel %" PRId64,
           subject->tensors, subject->numel);
  return false;
}

bool bench_checkpoint_options_parse(bench_checkpoint_options *options, int argc, char **argv,
                                    char *error, size_t error_bytes) {
  *options = (bench_checkpoint_options){.subject = {.share_params = 1, .overlap = 1, .warmup = 1}};
  return bench_arguments_parse(rows, ROW_COUNT, options, argc, argv, error, error_bytes) &&
         check_together(options, error, error_bytes);
}

void bench_checkpoint_options_help(FILE *out) {
  fputs(
      "usage: mpirun -n RANKS bench_checkpoint [options]\n\n"
      "Says what checkpoints cost. In turns with a plain writer of the same bytes (8 MiB a write, "
      "fsync of\n"
      "file and folder) zero1_checkpoint_save; in turns with a plain reader, the page cache "
      "dropped "
      "before\n"
      "both, zero1_checkpoint_load; then steps whose forward and backward sleep, without a save "
      "and "
      "with an\n"
      "asynchronous one, of both kinds; the memory that each takes, and what checksums cost.\n\n"
      "After each save training goes on, and then what was saved is loaded: exits with 1 where one "
      "bit is\n"
      "not as it was at the call.\n\n",
      out);
  bench_arguments_help(rows, ROW_COUNT, out);
}
