#include "bench_memory.h"

#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench_require.h"

/* A field of /proc/self/status, in MiB. Without stdio: its buffers are memory, too. */
static double status_mib(const char *field) {
  char text[4096];
  const int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  const ssize_t bytes = file >= 0 ? read(file, text, sizeof text - 1) : -1;
  if (file >= 0) close(file);
  bench_require(bytes > 0, "/proc/self/status: %m");
  text[bytes] = 0;
  const char *found = strstr(text, field);
  bench_require(found != NULL, "/proc/self/status: it has no %s", field);
  return strtod(found + strlen(field), NULL) / 1024;
}

static int reset_most(void) {
  const int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  const int good = file >= 0 && write(file, "5", 1) == 1;
  if (file >= 0) close(file);
  return good;
}

static void *look(void *argument) {
  bench_memory *const memory = argument;
  const struct timespec pause = {.tv_nsec = 1000000};
  while (!atomic_load(&memory->ends)) {
    const double now = status_mib("RssAnon:");
    if (now > memory->most_mib) memory->most_mib = now;
    nanosleep(&pause, NULL);
  }
  return NULL;
}

void bench_memory_begin(bench_memory *memory) {
  malloc_trim(0);
  atomic_init(&memory->ends, 0);
  memory->resident_mib = reset_most() ? status_mib("VmRSS:") : NAN;
  memory->before_mib = memory->most_mib = status_mib("RssAnon:");
  bench_require(!pthread_create(&memory->thread, NULL, look, memory), "no thread: %m");
}

double bench_memory_end(bench_memory *memory, double *resident_mib) {
  atomic_store(&memory->ends, 1);
  pthread_join(memory->thread, NULL);
  *resident_mib = status_mib("VmHWM:") - memory->resident_mib;
  return memory->most_mib - memory->before_mib;
}
