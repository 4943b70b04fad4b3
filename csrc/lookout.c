#include "lookout.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "flag.h"

struct zero1__lookout {
  pthread_t thread;
  zero1__flag stopped;
  int64_t period_ns;
  zero1__look_fn look;
  void *context;
};

static void *lookout_main(void *argument) {
  zero1__lookout *self = argument;
  while (!zero1__flag_wait(&self->stopped, 1, self->period_ns))
    if (self->look(self->context)) break;
  return NULL;
}

zero1_status zero1__lookout_start(int64_t period_ns, zero1__look_fn look, void *context,
                                  zero1__lookout **out, zero1__error *error) {
  *out = NULL;
  zero1__lookout *lookout = calloc(1, sizeof *lookout);
  if (!lookout) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a thread");
  lookout->period_ns = period_ns;
  lookout->look = look;
  lookout->context = context;
  const int failure = pthread_create(&lookout->thread, NULL, lookout_main, lookout);
  if (failure) {
    free(lookout);
    return zero1__fail(error, ZERO1_ERR_DEVICE, "a thread cannot be started: %s",
                       strerror(failure));
  }
  *out = lookout;
  return ZERO1_OK;
}

void zero1__lookout_stop(zero1__lookout *lookout) {
  if (!lookout) return;
  zero1__flag_post(&lookout->stopped, 1);
  pthread_join(lookout->thread, NULL);
  free(lookout);
}
