/* The runs of elements of a job in order, and those that come soon, so that they can be fetched.
 *
 * Worked example: parameters of 320 elements stand 512 apart, so of every 2048 bytes of an fp32
 * array 1280 are true and 768 are a hole:
 *
 *   run      0           1              2
 *   bytes    0..1279     2048..3327     4096..5375
 *
 * Hardware prefetchers follow neighbouring lines. They lose their track at every hole, and have
 * fetched some of the hole for nothing: 100,000 such parameters took 2.2 times (update) and 2.9
 * times (reduce) as long as one of 32,000,000. So lines are asked for in software, around holes
 * alone: the first blocks of each run; from there the hardware goes on. Requests for the
 * second-level cache are dropped while its queue is full, so a run is asked for again as it comes
 * closer, when the queue has moved on: with 1.5 and 1.7 times, three requests did better than two
 * or than six, which take too many instructions themselves. */
#ifndef ZERO1__RUN_WALK_H
#define ZERO1__RUN_WALK_H

#include "layout.h"

#define ZERO1__RUNS_AHEAD 3
#define ZERO1__RUN_RING 4                     /* more than ZERO1__RUNS_AHEAD; a power of two */
#define ZERO1__RUN_LEADING (4 * ZERO1__BLOCK) /* elements after which the hardware is on track */

/** A segment as elements [at, at + numel) of the job's arrays. */
typedef struct zero1__run {
  int64_t slot, at, numel;
  int64_t leading_numel; /* of them, the first ones, to be fetched in software */
} zero1__run;

typedef struct zero1__run_walk {
  zero1__walk walk;
  int64_t job_begin;   /* first block of the job: element 0 of its arrays */
  int64_t next, known; /* runs handed out; runs found so far */
  zero1__run ring[ZERO1__RUN_RING];
} zero1__run_walk;

static inline zero1__run_walk zero1__run_walk_begin(const zero1__layout *layout, int64_t job_begin,
                                                    zero1__range blocks) {
  return (zero1__run_walk){.walk = zero1__walk_begin(layout, blocks), .job_begin = job_begin};
}

/** The next run, or NULL after the last. Valid until the next call. */
static inline const zero1__run *zero1__run_walk_next(zero1__run_walk *walk) {
  zero1__segment s;
  while (walk->known <= walk->next + ZERO1__RUNS_AHEAD && zero1__walk_next(&walk->walk, &s))
    walk->ring[walk->known++ % ZERO1__RUN_RING] =
        (zero1__run){s.slot, (s.block - walk->job_begin) * ZERO1__BLOCK, s.numel,
                     s.numel < ZERO1__RUN_LEADING ? s.numel : ZERO1__RUN_LEADING};
  return walk->next < walk->known ? &walk->ring[walk->next++ % ZERO1__RUN_RING] : NULL;
}

/** The run `ahead` after the one handed out last, or NULL. 1 <= ahead <= ZERO1__RUNS_AHEAD. */
static inline const zero1__run *zero1__run_walk_peek(const zero1__run_walk *walk, int ahead) {
  const int64_t k = walk->next - 1 + ahead;
  return k < walk->known ? &walk->ring[k % ZERO1__RUN_RING] : NULL;
}

/** With `left` elements of a run to go: how far ahead the runs to ask for begin; every second one
 *  from there on. At the last block but one that is run 3, at the last one runs 1 and 3. */
static inline int zero1__run_walk_fetch(int64_t left) {
  if (left > 2 * ZERO1__BLOCK) return ZERO1__RUNS_AHEAD + 1; /* none yet */
  return left > ZERO1__BLOCK ? 3 : 1;
}

#endif
