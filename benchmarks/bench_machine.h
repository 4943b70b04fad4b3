/* Facts of the machine that a result depends on. None of them names it. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdint.h>

#include "bench_json.h"

typedef struct bench_machine {
  char cpu[128];
  int64_t cores;
  double memory_gib;
  char kernel[128];
  char compiler[128];
  char mpi[128];
  char huge_pages[128], shared_huge_pages[128]; /* transparent ones: the setting in effect */
} bench_machine;

/** "unknown" where something cannot be told. After MPI_Init. */
void bench_machine_find(bench_machine *machine);

void bench_machine_json(bench_json *object, const bench_machine *machine);

#endif
