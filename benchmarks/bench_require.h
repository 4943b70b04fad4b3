/* What a benchmark cannot go on without. A failure ends the program, with a text. */
#ifndef BENCH_REQUIRE_H
#define BENCH_REQUIRE_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/** Ends the program, all of its ranks, with exit code 1; programs of ranks have that of bench_world.c. */
_Noreturn void bench_end(void);

/** Ends the program, with a text, where `good` is 0. */
__attribute__((format(printf, 2, 3))) static inline void bench_require(int good, const char *format,
                                                                       ...) {
  char text[512];
  va_list arguments;
  if (good) return;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "%s: %s\n", program_invocation_short_name, text); /* at once: other ranks may
                                                                        speak, too */
  bench_end();
}

/** [count] zeroed elements; ends the program where there is no memory. */
static inline void *bench_alloc(size_t count, size_t each) {
  void *memory = calloc(count ? count : 1, each);
  bench_require(memory != NULL, "no memory for %zu times %zu bytes", count, each);
  return memory;
}

#endif
