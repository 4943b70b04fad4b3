/* How far a long run is: a bar on standard error, where that is a terminal. */
#ifndef ZERO1_COMMAND_PROGRESS_H
#define ZERO1_COMMAND_PROGRESS_H

#include <stdint.h>

typedef struct progress {
  int is_shown;
  int64_t begin_ns, last_ns;
} progress;

void progress_begin(progress *self);

/** A zero1_progress_fn; context: a progress. Returns 0. */
int32_t progress_show(void *context, uint64_t bytes, uint64_t total_bytes);

/** Clears the bar. Returns the seconds since it began. */
double progress_end(progress *self);

#endif
