/* What bench_kernels measures: one rank's shard on a device, with the arrays of every case, and the
 * passes over it.
 *
 * Element e of an array of random values is bench_shard_value(array, e): the host knows gradients
 * without reading them back. */
#ifndef BENCH_SHARD_H
#define BENCH_SHARD_H

#include <stdbool.h>

#include "device_ops.h"
#include "kernels_host.h"

#define BENCH_SOURCES 4 /* contributions at most: 1, 2 or 4 */

typedef enum bench_pass {
  BENCH_REDUCE,    /* stats; of several contributions, the sum, too */
  BENCH_UPDATE,    /* without stats: the second of two passes */
  BENCH_ONE_PASS,  /* update with stats: neither clipping nor guard */
  BENCH_TWO_PASSES /* reduce, then update, which reads the contributions again */
} bench_pass;

typedef struct bench_case {
  const char *name;
  bench_pass pass;
  zero1__dtype param_dtype, grad_dtype;
  int32_t contributions;
} bench_case;

/** Bytes that a case reads and writes per parameter. g: bytes of all its contributions.
 *    reduce       g read; of several contributions, 4 written
 *    update       g, master_param, exp_avg, exp_avg_sq read: g + 12; the three written: 12; a bf16
 *                 parameter written: 2
 *    one pass     as update
 *    two passes   reduce and update: one more g */
int bench_case_bytes(const bench_case *which);

typedef struct bench_shard_options {
  int32_t device;  /* ZERO1_DEVICE_ */
  int32_t threads; /* of the host */
  int64_t numel, tensors;
  int64_t bucket_numel;     /* one launch per bucket and kernel; 0: all in one */
  int32_t contributions[2]; /* by dtype: how many arrays of gradients */
} bench_shard_options;

typedef struct bench_shard {
  zero1__device *device;
  zero1__stream *stream;
  zero1__layout layout;
  int64_t numel;                 /* of every array, padding included */
  void *grads[2][BENCH_SOURCES]; /* by dtype */
  const void *
      *tables[2]; /* [bucket_count][BENCH_SOURCES] where each bucket's contributions begin */
  const void **visible[2]; /* the same, in memory of the device */
  float *sum, *master_param, *exp_avg, *exp_avg_sq;
  uint16_t *param;
  zero1__stats *stats;
  zero1__verdict *verdict;
  zero1__adam_scalars *group;
  struct {
    void *memory;
    size_t bytes;
  } owned[20];
  int owned_count;
  /* the host's */
  const zero1__kernels *kernels;
  zero1__verdict verdict_value;
  zero1__adam_scalars group_value;
  zero1__stats expected[2][BENCH_SOURCES + 1]; /* by dtype and contributions */
} bench_shard;

/** Returns false where the device is not to be had, with the reason in error. Any other failure
 *  ends the program. */
bool bench_shard_open(bench_shard *shard, const bench_shard_options *options, zero1__error *error);
void bench_shard_close(bench_shard *shard);

/** Arrays of random values. */
enum {
  BENCH_GRADS_FP32 = 0, /* + contribution */
  BENCH_GRADS_BF16 = BENCH_SOURCES,
  BENCH_MASTER_PARAM = 2 * BENCH_SOURCES,
  BENCH_EXP_AVG,
  BENCH_EXP_AVG_SQ
};
float bench_shard_value(int array, int64_t element);

/** First array of gradients of a dtype. */
int bench_shard_grads(zero1__dtype dtype);

/** Kernels that a case launches. */
int64_t bench_shard_launches(const bench_shard *shard, const bench_case *which);

/** Milliseconds of a case, by the device's own events where it has such. */
double bench_shard_run(bench_shard *shard, const bench_case *which);

/** Milliseconds of copying every fp32 array of gradients, all BENCH_SOURCES of them, to another
 *  place, one after the other; on the host, with one thread's memcpy. */
double bench_shard_copy(bench_shard *shard);

/** Bytes that it reads and writes. */
int64_t bench_shard_copy_bytes(const bench_shard *shard);

#endif
