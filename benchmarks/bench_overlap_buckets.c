#include "bench_overlap_buckets.h"

#include <string.h>

#include "bench_world.h"

void bench_buckets_open(bench_buckets *buckets, const zero1_optimizer *optimizer,
                        int64_t most_waits) {
  const int64_t count = optimizer->layout.bucket_count;
  *buckets = (bench_buckets){
      .count = count,
      .buckets = bench_alloc((size_t)count, sizeof *buckets->buckets),
      .wait_room = most_waits,
      .waits = bench_alloc(2 * (size_t)most_waits, sizeof *buckets->waits),
  };
}

void bench_buckets_close(bench_buckets *buckets) {
  free(buckets->buckets);
  free(buckets->waits);
}

void bench_buckets_wait(bench_buckets *buckets, int64_t begin_ns, int64_t end_ns) {
  bench_require(buckets->wait_count < buckets->wait_room, "more calls than there is room for");
  buckets->waits[2 * buckets->wait_count] = begin_ns;
  buckets->waits[2 * buckets->wait_count + 1] = end_ns;
  buckets->wait_count += 1;
}

/* Waits [10, 20) and [30, 40): 15 of [5, 35). */
static double waited_within(const bench_buckets *buckets, int64_t begin_ns, int64_t end_ns) {
  int64_t sum = 0;
  for (int64_t i = 0; i < buckets->wait_count; ++i) {
    const int64_t *wait = &buckets->waits[2 * i];
    const int64_t begin = wait[0] > begin_ns ? wait[0] : begin_ns;
    const int64_t end = wait[1] < end_ns ? wait[1] : end_ns;
    if (end > begin) sum += end - begin;
  }
  return (double)sum * 1e-6;
}

/* Adds the time from *before_ns, or from begin_ns where that is later, to end_ns. */
static void add(const bench_buckets *buckets, int64_t begin_ns, int64_t end_ns, int64_t *before_ns,
                double *all_ms, double *exposed_ms) {
  if (begin_ns < *before_ns) begin_ns = *before_ns;
  if (end_ns <= begin_ns) return;
  *all_ms += (double)(end_ns - begin_ns) * 1e-6;
  *exposed_ms += waited_within(buckets, begin_ns, end_ns);
  *before_ns = end_ns;
}

void bench_buckets_end_step(bench_buckets *buckets, const zero1_optimizer *optimizer, int counts) {
  const zero1__bucket_times *times = optimizer->channel->times;
  int64_t before_ns = 0;
  for (int64_t b = 0; b < buckets->count && counts; ++b) /* in the order of the exchange */
    add(buckets, times[b].exchange_begin_ns, times[b].exchange_end_ns, &before_ns,
        &buckets->buckets[b].exchange_ms, &buckets->buckets[b].exchange_exposed_ms);
  for (int64_t b = buckets->count - 1; b >= 0 && counts; --b) /* in that of the gathers */
    add(buckets, times[b].gather_begin_ns, times[b].gather_end_ns, &before_ns,
        &buckets->buckets[b].gather_ms, &buckets->buckets[b].gather_exposed_ms);
  for (int64_t i = 0; i < buckets->wait_count && counts; ++i)
    buckets->waited_ms += (double)(buckets->waits[2 * i + 1] - buckets->waits[2 * i]) * 1e-6;
  buckets->steps += counts;
  buckets->wait_count = 0;
}

void bench_buckets_mean(bench_buckets *buckets) {
  int world_size;
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  const double part = 1.0 / ((double)buckets->steps * world_size);
  enum { EACH = sizeof *buckets->buckets / sizeof(double) };
  for (int64_t b = 0; b < buckets->count; ++b) { /* few at a time: counts are ints */
    double mine[EACH], all[EACH];
    memcpy(mine, &buckets->buckets[b], sizeof mine);
    MPI_Allreduce(mine, all, EACH, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < EACH; ++i) all[i] *= part;
    memcpy(&buckets->buckets[b], all, sizeof all);
  }
  double waited_ms;
  MPI_Allreduce(&buckets->waited_ms, &waited_ms, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  buckets->waited_ms = waited_ms * part;
}
