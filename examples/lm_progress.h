/* What train_lm tells while it runs: a line on the terminal, a row in the CSV file. Used by one
 * rank alone. */
#ifndef LM_PROGRESS_H
#define LM_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lm_data.h"
#include "lm_device.h"
#include "lm_options.h"
#include "zero1/zero1.h"

/** Seconds of a clock that only goes forward. */
double lm_seconds(void);

/** One step: what it began with, what it took. NaN where a number is not there. */
typedef struct lm_record {
  int64_t step;    /* counted from 1; 0 is before training */
  double loss;     /* mean over ranks, nats per byte */
  double val_loss; /* after the step */
  double grad_norm, lr;
  double tokens_per_s;    /* of all ranks */
  double exposed_percent; /* of the time, spent waiting for the library */
  double seconds, seconds_left;
  int64_t sent_bytes; /* by this rank, to other nodes */
  bool skipped;       /* the gradients were not finite */
} lm_record;

typedef struct lm_progress {
  FILE *csv;
  bool in_place;
  int64_t log_every;
  double last_drawn;
  double tokens_per_s, exposed_percent; /* running means, for the line */
} lm_progress;

/** Opens the CSV file; with --resume what it holds stays for lm_progress_resume. Returns false with
 *  errno. */
bool lm_progress_open(lm_progress *progress, const lm_options *options);
/** Of what the CSV file holds, rows up to `step` stay; -1: none.
 *  [out] seconds  of the last of them; 0 where there is none
 *  Returns false with errno. */
bool lm_progress_resume(lm_progress *progress, int64_t step, double *seconds);
/** What the CSV file was given is in the file. */
void lm_progress_flush(lm_progress *progress);
/** Whatever is printed next begins on a line of its own. */
void lm_progress_break(const lm_progress *progress);
/** A row of the CSV file, and a line where one is due. */
void lm_progress_record(lm_progress *progress, const lm_record *record);
/** The validation before training. */
void lm_progress_begin(lm_progress *progress, double val_loss);
/** Closes the CSV file; false where it could not be written. Safe after a failed open. */
bool lm_progress_close(lm_progress *progress);

/** What the header tells about the run. */
typedef struct lm_setting {
  const lm_options *options;
  const lm_data *data;
  const lm_device *device;
  const zero1_comm *comm;
  zero1_optimizer *optimizer;
  int64_t param_numel;
  uint64_t activation_bytes;
  int threads;
} lm_setting;

void lm_print_header(const lm_setting *setting);

#endif
