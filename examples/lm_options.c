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
  const char
      *value; /* what it is called in the help; CHOICE: the words, in order; NULL: a switch */
  kind kind;
  size_t offset;       /* of the field in lm_options */
  const char *initial; /* as it would be given; NULL: none */
  double lowest, highest;
  const char *help;
} option_row;

#define FIELD(name) offsetof(lm_options, name)

static const option_row rows[] = {
    {"data", "FILE", TEXT, FIELD(data), NULL, 0, 0, "any text; its last twentieth is held out"},
    {"layers", "N", WHOLE, FIELD(layers), "4", 1, 1000, "transformer layers"},
    {"dim", "N", WHOLE, FIELD(dim), "128", 2, 65536, "width of the model"},
    {"heads", "N", WHOLE, FIELD(heads), "4", 1, 1024, "attention heads; 2 * heads divides dim"},
    {"hidden", "N", WHOLE, FIELD(hidden), "0", 0, 262144, "width of the MLP; 0: 8/3 of dim"},
    {"context", "N", WHOLE, FIELD(context), "128", 1, 16384, "bytes that the model sees at once"},
    {"batch", "N", WHOLE, FIELD(batch), "4", 1, 65536, "sequences per rank and pass"},
    {"accumulate", "N", WHOLE, FIELD(accumulate), "1", 1, 65536, "passes per step"},
    {"steps", "N", WHOLE, FIELD(steps), "1000", 0, 1e12, "optimizer steps"},
    {"time-limit", "SECONDS", REAL, FIELD(time_limit), "0", 0, 1e9,
     "end of training; the learning rate follows; 0: none"},
    {"lr", "X", REAL, FIELD(lr), "0.002", 0, 1e3, "highest learning rate"},
    {"min-lr", "X", REAL, FIELD(min_lr), "0.0001", 0, 1e3, "last learning rate, after a cosine"},
    {"warmup", "N", WHOLE, FIELD(warmup), "50", 0, 1e12, "steps of linear warm-up"},
    {"weight-decay", "X", REAL, FIELD(weight_decay), "0.1", 0, 1e3, "decay of matrices"},
    {"beta1", "X", REAL, FIELD(beta1), "0.9", 0, 0.99999999, "decay of the first moment"},
    {"beta2", "X", REAL, FIELD(beta2), "0.99", 0, 0.99999999, "decay of the second moment"},
    {"clip", "X", REAL, FIELD(clip), "1", 0, 1e9, "highest gradient norm; 0: no clipping"},
    {"seed", "N", WHOLE, FIELD(seed), "1", 0, 9e15,
     "of initial weights, drawn windows and the sample"},
    {"device", "host,cuda", CHOICE, FIELD(device), "host", 0, 0,
     "what computes; cuda: rank r of a machine on its GPU r modulo their number"},
    {"param-dtype", "fp32,bf16", CHOICE, FIELD(param_dtype), "fp32", 0, 0,
     "parameters; masters are fp32"},
    {"grad-dtype", "fp32,bf16", CHOICE, FIELD(grad_dtype), "fp32", 0, 0, "gradients between ranks"},
    {"param-wire", "memory,fp32,bf16", CHOICE, FIELD(param_wire), "memory", 0, 0,
     "parameters on their way between ranks; memory: as they are there"},
    {"grad-wire", "memory,fp32,bf16,int8", CHOICE, FIELD(grad_wire), "memory", 0, 0,
     "gradients on their way; int8: with error feedback"},
    {"threads", "N", WHOLE, FIELD(threads), "0", 0, 1024,
     "threads per rank; 0: the node's cores over its ranks"},
    {"bucket-numel", "N", WHOLE, FIELD(bucket_numel), "262144", 256, 4e9,
     "most elements in a bucket"},
    {"no-overlap", NULL, OFF, FIELD(overlap), NULL, 0, 0, "reduce in step, not during backward"},
    {"private-params", NULL, OFF, FIELD(share_params), NULL, 0, 0,
     "a copy of the parameters for each rank of a node"},
    {"ranks-per-node", "N", WHOLE, FIELD(ranks_per_node), "0", 0, 1e6,
     "ranks taken for one node; 0: as it is; 1: all apart"},
    {"val-every", "N", WHOLE, FIELD(val_every), "100", 0, 1e12,
     "steps between validations; 0: at the end only"},
    {"val-batches", "N", WHOLE, FIELD(val_batches), "32", 1, 1e9,
     "batches per validation; the last takes all that is held out"},
    {"sample-bytes", "N", WHOLE, FIELD(sample_bytes), "400", 0, 1e6, "text to write at the end"},
    {"temperature", "X", REAL, FIELD(temperature), "0.8", 0, 100,
     "of that text; 0: most likely bytes"},
    {"prompt", "TEXT", TEXT, FIELD(prompt), "\n", 0, 0,
     "what that text goes on from; default a line end"},
    {"checkpoint", "ROOT", TEXT, FIELD(checkpoint), NULL, 0, 0,
     "folder for checkpoints; one is saved at the end and when asked to stop, too"},
    {"save-every", "N", WHOLE, FIELD(save_every), "100", 0, 1e12,
     "steps between checkpoints; 0: none between"},
    {"save-async", "pinned,snapshot,off", CHOICE, FIELD(save_async), "pinned", 0, 0,
     "written while training goes on, from where it is or from a copy; off: training waits"},
    {"keep-last", "N", WHOLE, FIELD(keep_last), "0", 0, 1e9,
     "checkpoints that stay when one is saved; 0: all"},
    {"resume", NULL, ON, FIELD(resume), NULL, 0, 0,
     "go on from ROOT's latest checkpoint; from the start where there is none"},
    {"log", "FILE", TEXT, FIELD(log), "train_log.csv", 0, 0,
     "CSV, one row per step; --resume goes on in it"},
    {"log-every", "N", WHOLE, FIELD(log_every), "20", 1, 1e12, "steps between lines of progress"},
    {"progress", "auto,line,log", CHOICE, FIELD(progress), "auto", 0, 0,
     "one line in place, or line by line"},
    {"list-gpus", NULL, ON, FIELD(list_gpus), NULL, 0, 0, "print the GPUs there are; no training"},
    {"help", NULL, ON, FIELD(help), NULL, 0, 0, "this text"},
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

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

/* Index of `value` among the row's words, or -1. */
static int64_t choice_of(const option_row *row, const char *value) {
  const size_t value_bytes = strlen(value);
  const char *word = row->value;
  for (int64_t index = 0;; ++index) {
    const size_t bytes = strcspn(word, ",");
    if (bytes == value_bytes && memcmp(word, value, bytes) == 0) return index;
    if (word[bytes] != ',') return -1;
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
      snprintf(wanted, sizeof wanted, "one of %s", row->value);
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
  if (options->help || options->list_gpus) return true;
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
  if (options->resume && !options->checkpoint) {
    snprintf(error, error_bytes, "--resume: --checkpoint ROOT is missing");
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
    known[i].has_arg = rows[i].value ? required_argument : no_argument;
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

/* The value that the row's field has, as it would be given. */
static void value_text(const lm_options *options, const option_row *row, char *text,
                       size_t text_bytes) {
  const void *const field = (const char *)options + row->offset;
  if (row->kind == REAL) {
    const double number = *(const double *)field;
    int digits = 15; /* 17 are always enough, and 0.1 takes no more than these */
    do {
      snprintf(text, text_bytes, "%.*g", digits, number);
    } while (strtod(text, NULL) != number && ++digits <= 17);
  } else if (row->kind == CHOICE) {
    const char *word = row->value;
    for (int64_t i = *(const int64_t *)field; i > 0; --i) word += strcspn(word, ",") + 1;
    snprintf(text, text_bytes, "%.*s", (int)strcspn(word, ","), word);
  } else {
    snprintf(text, text_bytes, "%" PRId64, *(const int64_t *)field);
  }
}

static const char *const shaping[] = {
    "layers", "dim",  "heads",       "hidden",     "context",      "batch",    "accumulate",
    "steps",  "lr",   "min-lr",      "warmup",     "weight-decay", "beta1",    "beta2",
    "clip",   "seed", "param-dtype", "grad-dtype", "param-wire",   "grad-wire"};
_Static_assert(sizeof shaping / sizeof *shaping == LM_SHAPING_COUNT, "as many as the header says");

void lm_options_shaping(const lm_options *options, lm_option_text texts[LM_SHAPING_COUNT]) {
  for (int i = 0; i < LM_SHAPING_COUNT; ++i) {
    const option_row *row = rows;
    while (strcmp(row->name, shaping[i]) != 0) ++row;
    texts[i].name = row->name;
    value_text(options, row, texts[i].value, sizeof texts[i].value);
  }
}

void lm_options_help(FILE *out) {
  fputs(
      "usage: mpirun -n RANKS train_lm --data FILE [options]\n\n"
      "Trains a transformer language model on the bytes of a text, the optimizer's state\n"
      "sharded over the ranks by zero1.\n\n",
      out);
  for (int i = 0; i < ROW_COUNT; ++i) {
    const option_row *const row = &rows[i];
    const bool told = row->initial && *row->initial != '\n';
    fprintf(out, "  --%-14s %-13s  %s%s%s%s\n", row->name, row->value ? row->value : "", row->help,
            told ? " [" : "", told ? row->initial : "", told ? "]" : "");
  }
  fputs(
      "\nWith --checkpoint, SIGTERM, SIGINT or SIGUSR1 to any rank ends the run after the step at\n"
      "hand, with a checkpoint. mpirun itself gives its ranks a second when it gets SIGTERM or "
      "SIGINT\n"
      "(--mca odls_base_sigkill_timeout says how many), and SIGUSR1 it hands on: send that.\n"
      "\nExit codes: 0 done; 1 failed; 2 this build has no --device cuda; 3 --resume: the "
      "checkpoint\n"
      "is damaged; 143 stopped by a signal, with a checkpoint.\n",
      out);
}
