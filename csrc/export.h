/* A state of a checkpoint as safetensors files for other programs. */
#ifndef ZERO1__EXPORT_H
#define ZERO1__EXPORT_H

#include "checkpoint_reader.h"
#include "error.h"
#include "zero1/checkpoint.h"

/** As zero1_checkpoint_export. */
typedef struct zero1__export_job {
  const zero1__reader *reader; /* borrowed, as all of it */
  const char *out;             /* not empty */
  zero1_progress_fn progress;
  void *context;
  int64_t file_count, total_bytes; /* set where it has succeeded */
} zero1__export_job;

/** options: as the caller gave them, or NULL. */
zero1_status zero1__export(zero1__export_job *job, const zero1_export_options *options,
                           zero1__error *error);

#endif
