#include "bench_overlap_options.h"

#include <inttypes.h>

#include "bench_arguments.h"

#define FIELD(name) offsetof(bench_overlap_options, name)

static const bench_argument rows[] = {
    {"numel", "N", BENCH_WHOLE, FIELD(subject.numel), "16Mi", 1, 1e12,
     "elements of all tensors together"},
    {"tensors", "N", BENCH_WHOLE, FIELD(subject.tensors), "64", 1, 1e6,
     "tensors, as equal as can be: as many parts of backward and of forward"},
    {"param-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(subject.param_dtype), "bf16", 0, 0,
     "parameters; masters are fp32"},
    {"grad-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(subject.grad_dtype), "bf16", 0, 0, "gradients"},
    {"param-wire", "fp32|bf16", BENCH_DTYPE, FIELD(subject.param_wire), "bf16", 0, 0,
     "parameters between ranks"},
    {"grad-wire", "fp32|bf16", BENCH_DTYPE, FIELD(subject.grad_wire), "bf16", 0, 0,
     "gradients between ranks, and the sums of a host's ranks between hosts"},
    {"clip", "X", BENCH_REAL, FIELD(subject.clip), "1", 0, 1e30,
     "highest gradient norm; 0: neither clipping nor guard"},
    {"steps", "N", BENCH_WHOLE, FIELD(subject.steps), "9", 1, 1e6, "repetitions that count"},
    {"warmup", "N", BENCH_WHOLE, FIELD(subject.warmup), "3", 1, 1e6,
     "steps before them, of which the computation's length comes"},
    {"threads", "N", BENCH_WHOLE, FIELD(subject.threads), "0", 0, 1024,
     "threads per rank; 0: the cores that it is bound to, or its part of the node's"},
    {"bucket-numel", "N", BENCH_WHOLE, FIELD(subject.bucket_numel), "0", 0, 1e12,
     "most elements in a bucket; 0: the library's default"},
    {"ranks-per-node", "N", BENCH_WHOLE, FIELD(subject.ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: all apart"},
    {"private-params", NULL, BENCH_OFF, FIELD(subject.share_params), NULL, 0, 0,
     "a copy of the parameters for each rank of a node"},
    {"no-overlap", NULL, BENCH_OFF, FIELD(subject.overlap), NULL, 0, 0,
     "reduce in step, not from grad_ready on"},
    {"length", "X", BENCH_REAL, FIELD(length), "1", 1e-3, 1e3,
     "backward and forward together, in communications"},
    {"no-timers", NULL, BENCH_OFF, FIELD(timers), NULL, 0, 0, "no computation by timers"},
    {"no-busy", NULL, BENCH_OFF, FIELD(busy), NULL, 0, 0, "no busy computation"},
    {"label", "TEXT", BENCH_TEXT, FIELD(label), NULL, 0, 0, "what the results are of: the network"},
    {"json", "FILE", BENCH_TEXT, FIELD(subject.json), NULL, 0, 0,
     "writes the results there, as one object"},
    {"help", NULL, BENCH_ON, FIELD(subject.help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

static bool check_together(const bench_overlap_options *options, char *error, size_t error_bytes) {
  const bench_options *subject = &options->subject;
  if (subject->help) return true;
  if (subject->tensors > subject->numel)
    snprintf(error, error_bytes,
             "--tensors: %" PRId64 " tensors are more than the elements of --numel %" PRId64,
             subject->tensors, subject->numel);
  else if (!options->timers && !options->busy)
    snprintf(error, error_bytes, "--no-timers and --no-busy leave nothing to measure");
  else
    return true;
  return false;
}

bool bench_overlap_options_parse(bench_overlap_options *options, int argc, char **argv, char *error,
                                 size_t error_bytes) {
  *options =
      (bench_overlap_options){.subject = {.share_params = 1, .overlap = 1}, .timers = 1, .busy = 1};
  return bench_arguments_parse(rows, ROW_COUNT, options, argc, argv, error, error_bytes) &&
         check_together(options, error, error_bytes);
}

void bench_overlap_options_help(FILE *out) {
  fputs(
      "usage: mpirun -n RANKS bench_overlap [options]\n\n"
      "Says how much of a step's communication backward and forward hide, and which buckets the "
      "rest\n"
      "is of. First steps without computation: the time of their exchange and gathers is the\n"
      "communication's. Then, in turn, steps between whose gradients, and before whose parameters "
      "are\n"
      "used, the rank sleeps (timers: a device computes) or keeps all of its cores busy: backward "
      "for as\n"
      "long as the exchange takes, forward as the gathers; and the same computation without a "
      "step.\n\n"
      "  hidden = 1 - (step with computation - computation alone) / communication alone\n\n"
      "Every step's result is checked against AdamW in double; exits with 1 where one is "
      "wrong.\n\n",
      out);
  bench_arguments_help(rows, ROW_COUNT, out);
}
