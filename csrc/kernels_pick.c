#include <stdlib.h>
#include <string.h>

#include "kernels_host.h"

extern const zero1__kernels zero1__kernels_baseline;
#ifndef ZERO1__ISA_BASELINE_ONLY
extern const zero1__kernels zero1__kernels_avx2, zero1__kernels_avx512;
#endif

typedef struct candidate {
  const char *isa;
  const zero1__kernels *kernels; /* NULL: not in this build, or beyond this processor */
} candidate;

/* Widest first. */
#define CANDIDATES 3
static void list_candidates(candidate candidates[CANDIDATES]) {
  candidates[0] = (candidate){"avx512", NULL};
  candidates[1] = (candidate){"avx2", NULL};
  candidates[2] = (candidate){"baseline", &zero1__kernels_baseline};
#ifndef ZERO1__ISA_BASELINE_ONLY
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    candidates[0].kernels = &zero1__kernels_avx512;
  if (__builtin_cpu_supports("avx2")) candidates[1].kernels = &zero1__kernels_avx2;
#endif
}

zero1_status zero1__kernels_pick(const zero1__kernels **kernels, zero1__error *error) {
  candidate candidates[CANDIDATES];
  list_candidates(candidates);
  *kernels = NULL;
  const char *wanted = getenv("ZERO1_ISA");
  for (int i = 0; i < CANDIDATES; ++i) {
    if (wanted && *wanted && strcmp(wanted, candidates[i].isa) != 0) continue;
    if (candidates[i].kernels) {
      *kernels = candidates[i].kernels;
      return ZERO1_OK;
    }
    if (wanted && *wanted)
      return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                         "ZERO1_ISA is \"%s\", which this processor or build has not", wanted);
  }
  return zero1__fail(error, ZERO1_ERR_INVALID,
                     "ZERO1_ISA is \"%s\": not one of baseline, avx2, avx512", wanted);
}
