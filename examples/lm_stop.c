#include "lm_stop.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t asked;

static void note(int number) {
  (void)number;
  asked = 1;
}

void lm_stop_catch(void) {
  struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  action.sa_flags |= (int)SA_RESETHAND; /* whoever presses Ctrl-C twice means it */
  sigaction(SIGINT, &action, NULL);
}

bool lm_stop_asked(void) {
  return asked != 0;
}
