/* The textbook way, in buffers of its own: MPI_Reduce_scatter_block of the fp32 gradients, the same
 * AdamW kernel on this rank's shard, MPI_Allgather of the parameters.
 *
 * With clipping: between the two, a pass of the reduce kernel for the norm, and MPI_Allreduce. bf16
 * gradients are converted to fp32 first, for MPI has no type to sum them in; bf16 parameters are
 * gathered as they are. With `narrow_sums` they are summed as they are, too, by an operation that
 * MPI is given, rounded after each addition: half the bytes, and other sums. */
#ifndef BENCH_BASELINE_H
#define BENCH_BASELINE_H

#include <mpi.h>

#include "bench_subject.h"
#include "kernels_host.h"
#include "pool.h"

typedef struct bench_baseline {
  const bench_subject *subject;
  const zero1__kernels *kernels;
  zero1__pool *pool;
  zero1__stats *stats;  /* [threads] */
  zero1__layout layout; /* one parameter in one bucket */
  zero1__range shard;   /* blocks of this rank */
  int shard_numel;      /* padding included */
  double clip;
  uint16_t *narrow;                         /* [world_size * shard_numel] bf16 gradients; or NULL */
  float *grads;                             /* [world_size * shard_numel] */
  void *params;                             /* [world_size * shard_numel] */
  float *master_param;                      /* [shard_numel] part of params at fp32 */
  float *grad_shard, *exp_avg, *exp_avg_sq; /* [shard_numel] */
  int64_t count;
  int narrow_sums;  /* the caller's, where gradients are bf16: 0 (as opened) or 1 */
  MPI_Op narrow_op; /* of two arrays of bf16 as MPI_UINT16_T */
} bench_baseline;

/** Times of one repetition, each the slowest rank's. */
typedef struct bench_baseline_times {
  double total_ms, reduce_ms, update_ms, gather_ms;
} bench_baseline_times;

/** Collective; so are the others. Returns false, and opens nothing, where a shard has more elements
 *  than an MPI count. */
bool bench_baseline_open(bench_baseline *baseline, const bench_subject *subject,
                         const bench_options *options);
void bench_baseline_close(bench_baseline *baseline);

bench_baseline_times bench_baseline_run(bench_baseline *baseline);

#endif
