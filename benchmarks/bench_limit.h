/* The limit: a plain loop over the same memory as the step, with its streams.
 *
 * Bytes per parameter, d ranks on one node, g bytes per gradient (4: fp32, 2: bf16). The update
 * reads and rewrites master_param, exp_avg and exp_avg_sq, 24 bytes, and writes a bf16 param, 2:
 *
 *                              first pass             second pass
 *   one pass                   d*g + 24 (+ 2)
 *   two, fp32 gradients        d*4 + 4 (d > 1)        4 + 24 (+ 2)     sums: in the own gradients
 *   two, bf16, d*g <= 8        d*g                    d*g + 24 (+ 2)   contributions read again
 *   two, bf16, d*g > 8         d*g + 4                4 + 24 (+ 2)     sums: in grad_shard
 *
 * Memory alone counts. Copies of private parameters, and messages between nodes, have no streams in
 * the limit: there the ratio also says what those cost. Between nodes the slices of the rank's own
 * gradients stand for the contributions of its peers. Padding is left out: of a shard with holes
 * the loop takes as many elements, without holes. */
#ifndef BENCH_LIMIT_H
#define BENCH_LIMIT_H

#include "bench_loops.h"
#include "bench_subject.h"
#include "layout.h"
#include "pool.h"

typedef struct bench_bucket {
  bench_streams first, second; /* second alone in one pass */
  int64_t blocks;
} bench_bucket;

typedef struct bench_limit {
  const bench_loops *loops;
  zero1__pool *pool; /* as many threads as the optimizer has */
  int64_t bucket_count;
  bench_bucket *buckets; /* [bucket_count] this rank's shard of each */
  const void **grads;    /* [2 * bucket_count * world_size] of their streams */
  int two_passes;
  int bytes_per_param;
  int staged; /* in effect: see bench_loops */
  int whole;  /* in effect: a thread goes through its part of all buckets, unwaited for */
  uint32_t zero;
  volatile uint32_t sink;
} bench_limit;

/** Collective; so are the others. Borrows the subject's buffers. */
void bench_limit_open(bench_limit *limit, const bench_subject *subject,
                      const bench_options *options);
void bench_limit_close(bench_limit *limit);

/** Tries all ways to run the loop and keeps the fastest. */
void bench_limit_tune(bench_limit *limit);

/** Milliseconds of the slowest rank. Parameters, gradients and state are what they were; a bf16
 *  parameter, which the step writes and never reads, is left truncated instead of rounded. */
double bench_limit_run(bench_limit *limit);

/** Its way, in words. */
const char *bench_limit_way(const bench_limit *limit);

#endif
