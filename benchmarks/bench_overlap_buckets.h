/* Where the time of a bucket's messages went: hidden by the caller's computation, or exposed. */
#ifndef BENCH_OVERLAP_BUCKETS_H
#define BENCH_OVERLAP_BUCKETS_H

#include <stdint.h>

#include "optimizer.h"

/** Sums over steps, in milliseconds, of one bucket on this rank. Messages of a bucket take from the
 *  end of those of the bucket before, or from their own begin where that is later, to their end;
 *  what of that the caller stood waiting in calls of the library is exposed. */
typedef struct bench_bucket {
  double exchange_ms, exchange_exposed_ms;
  double gather_ms, gather_exposed_ms;
} bench_bucket;

typedef struct bench_buckets {
  int64_t count;
  bench_bucket *buckets; /* [count] */
  int64_t steps;         /* that are summed */
  double waited_ms;      /* the caller, for whatever */
  /* of the step under way */
  int64_t wait_count, wait_room;
  int64_t *waits; /* [2 * wait_room] begin and end of each, in order */
} bench_buckets;

/** Room for `most_waits` calls a step. */
void bench_buckets_open(bench_buckets *buckets, const zero1_optimizer *optimizer,
                        int64_t most_waits);
void bench_buckets_close(bench_buckets *buckets);

/** The caller was in a call of the library. */
void bench_buckets_wait(bench_buckets *buckets, int64_t begin_ns, int64_t end_ns);

/** The step is over, info too: adds it where it counts. */
void bench_buckets_end_step(bench_buckets *buckets, const zero1_optimizer *optimizer, int counts);

/** Mean over steps and ranks, on every rank. Collective; once. */
void bench_buckets_mean(bench_buckets *buckets);

#endif
