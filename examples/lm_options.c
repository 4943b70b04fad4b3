#include "lm_options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "zero1/zero1.h"

typedef enum kind { TEXT, WHOLE, REAL, CHOICE, ON, OFF } kind;

typedef struct option_row {
  const char *name;
  kind kind;
  size_t offset;       /* of the field in lm_options */
  const char *initial; /* as it would be given; NULL: none, or a switch not given */
  double lowest, highest;
  const char *help; /* CHOICE: begins with the words, separated by |, in order of value */
} option_row;

#define FIELD(name) offsetof(lm_options, name)

static const option_row rows[] = {
    {"data", TEXT, FIELD(data), NULL, 0, 0, "FILE: any text; its last twentieth is held out"},
    {"layers", WHOLE, FIELD(layers), "4", 1, 1000, "transformer layers"},
    {"dim", WHOLE, FIELD(dim), "192", 2, 65536, "width of the model"},
    {"heads", WHOLE, FIELD(heads), "6", 1, 1024, "attention heads; 2 * heads divides dim"},
    {"hidden", WHOLE, FIELD(hidden), "0", 0, 262144, "width of the MLP; 0: 8/3 of dim"},
    {"context", WHOLE, FIELD(context), "128", 1, 16384, "bytes that the model sees at once"},
    {"batch", WHOLE, FIELD(batch), "8", 1, 65536, "sequences per rank and pass"},
    {"accumulate", WHOLE, FIELD(accumulate), "1", 1, 65536, "passes per step"},
    {"steps", WHOLE, FIELD(steps), "1000", 0, 1e12, "optimizer steps"},
    {"time-limit", REAL, FIELD(time_limit), "0", 0, 1e9,
     "seconds after which training ends; the learning rate follows; 0: none"},
    {"lr", REAL, FIELD(lr), "0.003", 0, 1e3, "highest learning rate"},
    {"min-lr", REAL, FIELD(min_lr), "0.0001", 0, 1e3, "last learning rate, after a cosine"},
    {"warmup", WHOLE, FIELD(warmup), "50", 0, 1e12, "steps of linear warm-up"},
    {"weight-decay", REAL, FIELD(weight_decay), "0.1", 0, 1e3, "decay of matrices"},
    {"beta1", REAL, FIELD(beta1), "0.9", 0, 0.99999999, "decay of the first moment"},
    {"beta2", REAL, FIELD(beta2), "0.98", 0, 0.99999999, "decay of the second moment"},
    {"clip", REAL, FIELD(clip), "1", 0, 1e9, "highest gradient norm; 0: no clipping"},
    {"seed", WHOLE, FIELD(seed), "1", 0, 9e15, "of initial weights and drawn windows"},
    {"param-dtype", CHOICE, FIELD(param_dtype), "fp32", 0, 0,
     "fp32|bf16: parameters (masters are fp32)"},
    {"grad-dtype", CHOICE, FIELD(grad_dtype), "fp32", 0, 0, "fp32|bf16: gradients between ranks"},
    {"threads", WHOLE, FIELD(threads), "0", 0, 1024,
     "threads per rank; 0: the node's cores over its ranks"},
    {"bucket-numel", WHOLE, FIELD(bucket_numel), "262144", 256, 4e9, "most elements in a bucket"},
    {"no-overlap", OFF, FIELD(overlap), NULL, 0, 0, "reduce in step, not during backward"},
    {"private-params", OFF, FIELD(share_params), NULL, 0, 0,
     "a copy of the parameters for each rank of a node"},
    {"ranks-per-node", WHOLE, FIELD(ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: messages between all"},
    {"val-every", WHOLE, FIELD(val_every), "100", 0, 1e12,
     "steps between validations; 0: at the end only"},
    {"val-batches", WHOLE, FIELD(val_batches), "16", 1, 1e9,
     "batches per validation, over all ranks; the last one takes all held-out text"},
    {"sample-bytes", WHOLE, FIELD(sample_bytes), "400", 0, 1e6, "text to write at the end"},
    {"temperature", REAL, FIELD(temperature), "0.8", 0, 100, "of that text; 0: most likely bytes"},
    {"prompt", TEXT, FIELD(prompt), "\n", 0, 0, "TEXT that the sample goes on from"},
    {"log", TEXT, FIELD(log), "train_log.csv", 0, 0, "FILE: one CSV row per step"},
    {"log-every", WHOLE, FIELD(log_every), "20", 1, 1e12, "steps between lines of progress"},
    {"progress", CHOICE, FIELD(progress), "auto", 0, 0,
     "auto|line|log: one line in place, or line by line"},
    {"help", ON, FIELD(help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

static bool is_switch(const option_row *row) {
  return row->kind == ON || row->kind == OFF;
}

/* ---- values ---- */

static bool bad_value(const option_row *row, const char *value, const char *wanted, char *error,
                      size_t error_bytes) {
  snprintf(error, error_bytes, "--%s: '%s' is not %s", row->name, value, wanted);
  return false;
}

static bool out_of_range(const option_row *row, const char *value, char *error,
                         size_t error_bytes) {
  char wanted[96];
  snprintf(wanted, sizeof wanted, "a %snumber from %.15g to %.15g",
           row->kind == WHOLE ? "whole " : "", row->lowest, row->highest);
  return bad_value(row, value, wanted, error, error_bytes);
}

/* Index of `value` among the words that row->help begins with, or -1. */
static int64_t choice_of(const option_row *row, const char *value) {
  const size_t value_bytes = strlen(value);
  const char *word = row->help;
  for (int64_t index = 0;; ++index) {
    const size_t bytes = strcspn(word, "|:");
    if (bytes == value_bytes && memcmp(word, value, bytes) == 0) return index;
    if (word[bytes] != '|') return -1;
    word += bytes + 1;
  }
}

static bool set_value(lm_options *options, const option_row *row, const char *value, char *error,
                      size_t error_bytes) {
  void *const field = (char *)options + row->offset;
  char *end = NULL;
  errno = 0;
  if (row->kind == TEXT) {
    *(const char **)field = value;
  } else if (row->kind == CHOICE) {
    *(int64_t *)field = choice_of(row, value);
    if (*(int64_t *)field < 0) {
      char wanted[32];
      snprintf(wanted, sizeof wanted, "one of %.*s", (int)strcspn(row->help, ":"), row->help);
      return bad_value(row, value, wanted, error, error_bytes);
    }
  } else if (row->kind == WHOLE) {
    const long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || (double)number < row->lowest ||
        (double)number > row->highest) {
      return out_of_range(row, value, error, error_bytes);
    }
    *(int64_t *)field = number;
  } else if (row->kind == REAL) {
    const double number = strtod(value, &end);
    if (end == value || *end || !(number >= row->lowest && number <= row->highest)) {
      return out_of_range(row, value, error, error_bytes);
    }
    *(double *)field = number;
  } else {
    *(int64_t *)field = row->kind == ON;
  }
  return true;
}

/* ---- options that must fit each other ---- */

static bool check_together(lm_options *options, char *error, size_t error_bytes) {
  if (options->help) return true;
  if (!options->data) {
    snprintf(error, error_bytes, "--data FILE is missing; --help tells about the options");
    return false;
  }
  if (options->dim % (2 * options->heads)) {
    snprintf(error, error_bytes,
             "--heads: %" PRId64 " heads of even width do not fit --dim %" PRId64, options->heads,
             options->dim);
    return false;
  }
  if (options->min_lr > options->lr) {
    snprintf(error, error_bytes, "--min-lr: %g is above --lr %g", options->min_lr, options->lr);
    return false;
  }
  if (options->sample_bytes > 0 && !*options->prompt) {
    snprintf(error, error_bytes, "--prompt: it must not be empty");
    return false;
  }
  if (options->batch * options->context * options->dim > INT32_MAX) { /* what BLAS can index */
    snprintf(error, error_bytes,
             "--batch: %" PRId64 " sequences are too many for --context %" PRId64 " --dim %" PRId64,
             options->batch, options->context, options->dim);
    return false;
  }
  if (!options->hidden) options->hidden = (options->dim * 8 / 3 + 31) / 32 * 32;
  return true;
}

bool lm_options_parse(lm_options *options, int argc, char **argv, char *error, size_t error_bytes) {
  struct option known[ROW_COUNT + 1] = {0};
  *options = (lm_options){.overlap = 1, .share_params = 1};
  for (int i = 0; i < ROW_COUNT; ++i) {
    known[i].name = rows[i].name;
    known[i].has_arg = is_switch(&rows[i]) ? no_argument : required_argument;
    if (rows[i].initial && !set_value(options, &rows[i], rows[i].initial, error, error_bytes)) {
      return false;
    }
  }
  opterr = 0; /* every rank parses; one of them speaks */
  optind = 1;
  for (;;) {
    int index = -1;
    const int found = getopt_long(argc, argv, ":", known, &index);
    if (found == -1) break;
    if (found != 0) {
      snprintf(error, error_bytes, "%s: %s", argv[optind - 1],
               found == ':' ? "a value is missing" : "no such option; --help lists them");
      return false;
    }
    if (!set_value(options, &rows[index], optarg, error, error_bytes)) return false;
  }
  if (optind < argc) {
    snprintf(error, error_bytes, "'%s' belongs to no option; --help lists them", argv[optind]);
    return false;
  }
  return check_together(options, error, error_bytes);
}

void lm_options_help(FILE *out) {
  fputs(
      "usage: mpirun -n RANKS train_lm --data FILE [options]\n\n"
      "Trains a transformer language model on the bytes of a text, the optimizer's state\n"
      "sharded over the ranks by zero1.\n\n",
      out);
  for (int i = 0; i < ROW_COUNT; ++i) {
    const option_row *const row = &rows[i];
    char left[32];
    const char *const value = is_switch(row)                             ? ""
                              : row->kind == TEXT || row->kind == CHOICE ? ""
                                                                         : " N";
    snprintf(left, sizeof left, "--%s%s", row->name, value);
    fprintf(out, "  %-18s %s", left, row->help);
    if (row->initial) fprintf(out, " [%s]", strcmp(row->initial, "\n") ? row->initial : "\\n");
    fputc('\n', out);
  }
}
