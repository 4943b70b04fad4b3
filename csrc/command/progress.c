#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "size.h"

#define BAR_WIDTH 24
#define BETWEEN_NS ((int64_t)100000000)

void progress_begin(progress *self) {
  self->is_shown = isatty(STDERR_FILENO);
  self->begin_ns = zero1__now_ns();
  self->last_ns = self->begin_ns;
}

int32_t progress_show(void *context, uint64_t bytes, uint64_t total_bytes) {
  progress *const self = context;
  char done[SIZE_TEXT_BYTES], total[SIZE_TEXT_BYTES], rate[SIZE_TEXT_BYTES], bar[BAR_WIDTH + 1];
  const int64_t now_ns = zero1__now_ns();
  if (!self->is_shown || !total_bytes || now_ns - self->last_ns < BETWEEN_NS) return 0;
  self->last_ns = now_ns;
  const double part = (double)bytes / (double)total_bytes;
  const double seconds = (double)(now_ns - self->begin_ns) * 1e-9;
  const int filled = (int)(part * BAR_WIDTH);
  memset(bar, ' ', BAR_WIDTH);
  memset(bar, '#', (size_t)(filled < BAR_WIDTH ? filled : BAR_WIDTH));
  bar[BAR_WIDTH] = 0;
  fprintf(stderr, "\r[%s] %3.0f%%  %s of %s  %s/s\033[K", bar, 100 * part,
          size_text((double)bytes, done), size_text((double)total_bytes, total),
          size_text((double)bytes / seconds, rate));
  fflush(stderr);
  return 0;
}

double progress_end(progress *self) {
  if (self->is_shown) fputs("\r\033[K", stderr);
  return (double)(zero1__now_ns() - self->begin_ns) * 1e-9;
}
