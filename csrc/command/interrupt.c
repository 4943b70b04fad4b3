#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
#define SIGNAL_COUNT (sizeof signals / sizeof *signals)

static volatile sig_atomic_t seen;
static struct sigaction before[SIGNAL_COUNT];

static void note(int number) {
  seen = number;
}

void interrupt_begin(void) {
  struct sigaction noting = {.sa_handler = note, .sa_flags = SA_RESTART};
  sigemptyset(&noting.sa_mask);
  for (size_t i = 0; i < SIGNAL_COUNT; ++i) {
    sigaction(signals[i], NULL, &before[i]);
    if (before[i].sa_handler != SIG_IGN) sigaction(signals[i], &noting, NULL); /* nohup */
  }
}

int interrupt_seen(void) {
  return seen;
}

void interrupt_end(void) {
  for (size_t i = 0; i < SIGNAL_COUNT; ++i) sigaction(signals[i], &before[i], NULL);
  if (seen) raise(seen);
}
