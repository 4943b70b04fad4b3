/* The options of train_lm. */
#ifndef LM_OPTIONS_H
#define LM_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/** How progress is shown. */
enum { LM_PROGRESS_AUTO, LM_PROGRESS_LINE, LM_PROGRESS_LOG };

/** How checkpoints are saved: ZERO1_SAVE_, or not while training goes on. */
enum { LM_SAVE_PINNED, LM_SAVE_SNAPSHOT, LM_SAVE_OFF };

typedef struct lm_options {
  const char *data, *log, *prompt, *checkpoint; /* checkpoint: NULL: none */
  int64_t layers, dim, heads, hidden, context;
  int64_t batch, accumulate, steps, warmup;
  double lr, min_lr, weight_decay, beta1, beta2, clip;
  int64_t seed;
  int64_t device;                  /* LM_DEVICE_ */
  int64_t param_dtype, grad_dtype; /* ZERO1_DTYPE_ */
  int64_t param_wire, grad_wire;   /* ZERO1_WIRE_ */
  int64_t threads, bucket_numel, ranks_per_node;
  int64_t overlap, share_params; /* 0 or 1 */
  int64_t val_every, val_batches, log_every, progress;
  int64_t save_every, save_async /* LM_SAVE_ */, keep_last, resume;
  double time_limit;
  int64_t sample_bytes;
  double temperature;
  int64_t list_gpus, help;
} lm_options;

/** Defaults, then what the arguments say. Strings are borrowed from argv.
 *  [out] error  text that names the option, where it returns false */
bool lm_options_parse(lm_options *options, int argc, char **argv, char *error, size_t error_bytes);

/** The options that what is learnt depends on. */
enum { LM_SHAPING_COUNT = 20 };

typedef struct lm_option_text {
  const char *name; /* without the dashes */
  char value[32];   /* as it would be given: read again, it is the same number */
} lm_option_text;

void lm_options_shaping(const lm_options *options, lm_option_text texts[LM_SHAPING_COUNT]);

void lm_options_help(FILE *out);

#endif
