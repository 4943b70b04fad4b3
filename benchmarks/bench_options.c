#include "bench_options.h"

#include <inttypes.h>

#include "bench_arguments.h"

#define FIELD(name) offsetof(bench_options, name)

static const bench_argument rows[] = {
    {"numel", "N", BENCH_WHOLE, FIELD(numel), "32Mi", 1, 1e12, "elements of all tensors together"},
    {"tensors", "N", BENCH_WHOLE, FIELD(tensors), "1", 1, 1e8, "tensors, as equal as can be"},
    {"param-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(param_dtype), "fp32", 0, 0,
     "parameters; masters are fp32"},
    {"grad-dtype", "fp32|bf16", BENCH_DTYPE, FIELD(grad_dtype), "fp32", 0, 0, "gradients"},
    {"param-wire", "fp32|bf16", BENCH_DTYPE, FIELD(param_wire), "fp32", 0, 0,
     "parameters on their way between ranks; bf16 with --no-baseline"},
    {"grad-wire", "fp32|bf16", BENCH_DTYPE, FIELD(grad_wire), "fp32", 0, 0,
     "gradients on their way; bf16 with --no-baseline"},
    {"clip", "X", BENCH_REAL, FIELD(clip), "1", 0, 1e30,
     "highest gradient norm; 0: neither clipping nor guard, so that reduce and update are one "
     "pass"},
    {"steps", "N", BENCH_WHOLE, FIELD(steps), "20", 1, 1e6, "repetitions that count"},
    {"warmup", "N", BENCH_WHOLE, FIELD(warmup), "3", 1, 1e6, "repetitions before them"},
    {"threads", "N", BENCH_WHOLE, FIELD(threads), "0", 0, 1024,
     "threads per rank; 0: the cores that it is bound to, or its part of the node's"},
    {"bucket-numel", "N", BENCH_WHOLE, FIELD(bucket_numel), "0", 0, 1e12,
     "most elements in a bucket; 0: the library's default"},
    {"creates", "N", BENCH_WHOLE, FIELD(creates), "1", 1, 1000,
     "times that the optimizer is created; the median is told"},
    {"ranks-per-node", "N", BENCH_WHOLE, FIELD(ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: all apart"},
    {"private-params", NULL, BENCH_OFF, FIELD(share_params), NULL, 0, 0,
     "a copy of the parameters for each rank of a node"},
    {"no-overlap", NULL, BENCH_OFF, FIELD(overlap), NULL, 0, 0,
     "reduce in step, not from grad_ready on"},
    {"no-limit", NULL, BENCH_OFF, FIELD(limit), NULL, 0, 0, "do not measure the memory's limit"},
    {"no-baseline", NULL, BENCH_OFF, FIELD(baseline), NULL, 0, 0,
     "do not measure MPI_Reduce_scatter_block, AdamW, MPI_Allgather"},
    {"json", "FILE", BENCH_TEXT, FIELD(json), NULL, 0, 0,
     "writes the results there, as one object"},
    {"help", NULL, BENCH_ON, FIELD(help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

static bool check_together(const bench_options *options, char *error, size_t error_bytes) {
  if (options->help) return true;
  if (options->baseline && (options->param_wire || options->grad_wire)) {
    snprintf(error, error_bytes,
             "--%s-wire: MPI's own sums and gathers have none: it takes --no-baseline",
             options->grad_wire ? "grad" : "param");
    return false;
  }
  if (options->tensors <= options->numel) return true;
  snprintf(error, error_bytes,
           "--tensors: %" PRId64 " tensors are more than the elements of --numel %" PRId64,
           options->tensors, options->numel);
  return false;
}

bool bench_options_parse(bench_options *options, int argc, char **argv, char *error,
                         size_t error_bytes) {
  *options = (bench_options){.share_params = 1, .overlap = 1, .limit = 1, .baseline = 1};
  return bench_arguments_parse(rows, ROW_COUNT, options, argc, argv, error, error_bytes) &&
         check_together(options, error, error_bytes);
}

void bench_options_help(FILE *out) {
  fputs(
      "usage: mpirun -n RANKS bench_step [options]\n\n"
      "Times the full step of an optimizer that is sharded over the ranks: exchange, reduce, "
      "norm,\n"
      "update, gather. Beside it, repetition by repetition, the machine's own limit (a plain loop\n"
      "over the same memory) and the textbook way (MPI_Reduce_scatter_block, AdamW, "
      "MPI_Allgather).\n"
      "Every step's result is checked against AdamW in double; exits with 1 where one is "
      "wrong.\n\n",
      out);
  bench_arguments_help(rows, ROW_COUNT, out);
}
