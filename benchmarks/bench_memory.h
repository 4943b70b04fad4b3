/* How much memory of its own a process takes while something goes on: a thread looks, every
 * millisecond, at what the kernel counts. */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <stdatomic.h>
#include <pthread.h>

typedef struct bench_memory {
  pthread_t thread;
  atomic_int ends;
  double before_mib; /* RssAnon of /proc/self/status */
  double most_mib;   /* the largest of it; of the thread, until the end */
  double resident_mib;
} bench_memory;

/** Returns to the kernel what the allocator holds and begins to look. A failure ends the program. */
void bench_memory_begin(bench_memory *memory);

/** Ends it.
 *  [out] resident_mib  VmHWM since the begin above VmRSS then: shared memory and files that were
 *                      touched the first time count, too; NaN where the kernel lets no one reset it
 *  Returns how much private memory there was, at the most, above that at the begin, in MiB. */
double bench_memory_end(bench_memory *memory, double *resident_mib);

#endif
