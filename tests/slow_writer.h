/* A writer of checkpoints that is slower than training (`// wrap: zero1__save_job_write`), and whether two
 * saves have left the same. */
#ifndef ZERO1_TESTS_SLOW_WRITER_H
#define ZERO1_TESTS_SLOW_WRITER_H

#include <stdatomic.h>
#include <time.h>

#include "checkpoint_train.h"
#include "save_job.h"

static atomic_int writer_is_slow;

void __real_zero1__save_job_write(zero1__save_job *job, int64_t bucket);
void __wrap_zero1__save_job_write(zero1__save_job *job, int64_t bucket);
void __wrap_zero1__save_job_write(zero1__save_job *job, int64_t bucket) {
  const struct timespec time = {0, 5000000};
  if (atomic_load(&writer_is_slow)) nanosleep(&time, NULL);
  __real_zero1__save_job_write(job, bucket);
}

/* What `rank` of two has written of a step into two roots. */
static inline int rank_files_are_the_same(const char *left, const char *right, int step,
                                          int32_t rank) {
  const char *const roots[2] = {left, right};
  char *texts[2], path[1024];
  size_t bytes[2];
  for (int i = 0; i < 2; ++i) {
    zero1__error error;
    zero1__error_clear(&error);
    snprintf(path, sizeof path, "%s/step-%012d/rank-%05d-of-00002-00000.safetensors", roots[i],
             step, rank);
    CHECK_STATUS(zero1__load_file(path, &texts[i], &bytes[i], &error), ZERO1_OK);
  }
  const int same = bytes[0] == bytes[1] && !memcmp(texts[0], texts[1], bytes[0]);
  free(texts[0]);
  free(texts[1]);
  return same;
}

#endif
