/* Plain loops over the memory of a step: its reads and its writes, and next to no arithmetic. One
 * source, built once per instruction set, as the kernels are. */
#ifndef BENCH_LOOPS_H
#define BENCH_LOOPS_H

#include <stdint.h>

/** Arrays of one run of blocks of ZERO1__BLOCK elements, from its first one on. Data types do not
 *  matter here: elements are bits. */
typedef struct bench_streams {
  const void *const *grads; /* [grad_count] read */
  int32_t grad_count;
  int32_t grad_bytes; /* of an element: 4 or 2 */
  uint32_t *sum;      /* reduce: rewritten where it is one of grads, else written; or NULL */
  uint32_t *master_param, *exp_avg,
      *exp_avg_sq; /* update: read and rewritten with what they held */
  uint16_t *param; /* update: written with master_param's upper halves; or NULL */
} bench_streams;

typedef struct bench_loops {
  const char *isa;
  /** zero: 0, unknown to the compiler. staged: 1: gradients are folded into a block in the cache
   *  first; 0: all streams in one loop, for up to 4 of them. */
  uint32_t (*reduce)(const bench_streams *streams, int64_t blocks, uint32_t zero, int staged);
  uint32_t (*update)(const bench_streams *streams, int64_t blocks, uint32_t zero, int staged);
} bench_loops;

/** Of that name; ends all ranks where this build has it not. */
const bench_loops *bench_loops_find(const char *isa);

#endif
