/* The blocks of a job in order, each with the one after the next, so that it can be fetched.
 *
 * Worked example: parameters of 320 elements stand 512 apart, so of every 2048 bytes of an fp32
 * array 1280 are true and 768 are a hole. What is fetched while a block is worked on:
 *
 *   block    0      1     2          3           4
 *   bytes    0..    1024..1279       2048..      3072..3327     4096..
 *   numel    256    64    256        64          256
 *   fetches  2      3     4          5           6
 *
 * A block of 64 elements works on 64, and fetches 64: the loop's pace is memory's, and nothing of a
 * hole is asked for. */
#ifndef ZERO1__BLOCK_WALK_H
#define ZERO1__BLOCK_WALK_H

#include "layout.h"

/** A block as elements [at, at + numel) of the job's arrays; numel 0: there is none. */
typedef struct zero1__block {
  int64_t slot, at, numel;
} zero1__block;

typedef struct zero1__block_walk {
  zero1__walk walk;
  int64_t job_begin; /* first block of the job: element 0 of its arrays */
  zero1__block rest; /* of the segment, what follows the block found last */
  zero1__block ahead[2];
} zero1__block_walk;

static inline zero1__block zero1__block_walk_find(zero1__block_walk *walk) {
  zero1__segment s;
  if (!walk->rest.numel && zero1__walk_next(&walk->walk, &s))
    walk->rest = (zero1__block){s.slot, (s.block - walk->job_begin) * ZERO1__BLOCK, s.numel};
  zero1__block found = walk->rest;
  if (found.numel > ZERO1__BLOCK) found.numel = ZERO1__BLOCK;
  walk->rest.at += found.numel;
  walk->rest.numel -= found.numel;
  return found;
}

static inline zero1__block_walk zero1__block_walk_begin(const zero1__layout *layout,
                                                        int64_t job_begin, zero1__range blocks) {
  zero1__block_walk walk = {.walk = zero1__walk_begin(layout, blocks), .job_begin = job_begin};
  walk.ahead[0] = zero1__block_walk_find(&walk);
  walk.ahead[1] = zero1__block_walk_find(&walk);
  return walk;
}

/** The next block, and the one that comes after the one after it. 0: there is none. */
static inline int zero1__block_walk_next(zero1__block_walk *walk, zero1__block *block,
                                         zero1__block *soon) {
  *block = walk->ahead[0];
  walk->ahead[0] = walk->ahead[1];
  *soon = walk->ahead[1] = zero1__block_walk_find(walk);
  return block->numel > 0;
}

#endif
