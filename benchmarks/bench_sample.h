/* Whether a pass over a bench_shard does what it should: some blocks, and all stats, against the
 * host's kernels, bit for bit. */
#ifndef BENCH_SAMPLE_H
#define BENCH_SAMPLE_H

#include "bench_shard.h"

typedef struct bench_sample_block {
  int64_t block;
  float sum[ZERO1__BLOCK], master_param[ZERO1__BLOCK], exp_avg[ZERO1__BLOCK];
  float exp_avg_sq[ZERO1__BLOCK];
  uint16_t param[ZERO1__BLOCK];
} bench_sample_block;

typedef struct bench_sample {
  bench_shard *shard;
  int64_t count;
  bench_sample_block *blocks; /* [count] what they will be after the pass */
} bench_sample;

/** The first block, the last one, and others between them at random. */
void bench_sample_open(bench_sample *sample, bench_shard *shard);
void bench_sample_close(bench_sample *sample);

/** Just before a case runs: notes what it has to make of the state as it is, poisons what it has to
 *  write, and clears stats. */
void bench_sample_before(bench_sample *sample, const bench_case *which);

/** Just after it. Ends the program, with a text, where a bit is not what it should be. */
void bench_sample_after(const bench_sample *sample, const bench_case *which);

#endif
