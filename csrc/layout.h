/* Where every element lives: parameters -> blocks -> buckets -> shards. Pure arithmetic.
 *
 * Worked example: world_size 2, bucket_numel 1024 (4 blocks), registered in this order:
 *
 *   parameter   numel   flags      blocks
 *   0 "embed"     600              3   (256 + 256 + 88)
 *   1 "scale"       1              1   (1)
 *   2 "head"      512              2   (256 + 256)
 *   3 "mask"      300   frozen     2
 *
 * Flat order is the reverse of registration, frozen parameters last:
 *
 *   block    0      1      2      3    | 4      5      | 6     7
 *   param    head   head   scale  embed| embed  embed  | mask  mask
 *   bucket   0      0      0      0    | 1      1      | (frozen: no bucket, no gradient, no state)
 *   owner    rank 0 rank 0 rank 1 rank 1 rank 0 rank 1
 *
 * Element e of parameter p is at place_begin(p) * ZERO1__BLOCK + e of the parameter buffer:
 * contiguous although the parameter spans buckets, because only the last bucket is padded. So every
 * bucket but the last holds the same number of blocks, a multiple of world_size. */
#ifndef ZERO1__LAYOUT_H
#define ZERO1__LAYOUT_H

#include <stdint.h>

#include "error.h"
#include "zero1/zero1.h"

/** Elements of a block: the unit that is never cut and that holds one parameter alone. */
#define ZERO1__BLOCK 256

/** Half-open. */
typedef struct zero1__range {
  int64_t begin, end;
} zero1__range;

/** A trainable parameter with at least one element, in flat order. */
typedef struct zero1__slot {
  int64_t block_begin;
  int64_t numel;
  int64_t param; /* index of registration */
  int32_t group;
  uint32_t flags; /* ZERO1_PARAM_ */
} zero1__slot;

typedef struct zero1__layout {
  int32_t world_size;
  int64_t param_count;
  zero1__slot *slots; /* [slot_count + 1] the last one ends the table: block_begin = used_blocks */
  int64_t slot_count;
  int64_t *place_begin;     /* [param_count] first block in the parameter buffer */
  int64_t *numel;           /* [param_count] */
  int64_t *slot_of_param;   /* [param_count] -1: frozen or without elements */
  int64_t used_blocks;      /* trainable, before padding */
  int64_t trainable_blocks; /* in buckets: padded to a multiple of world_size */
  int64_t block_count;      /* of the parameter buffer: trainable_blocks and the frozen ones */
  int64_t bucket_blocks;    /* of every bucket but the last */
  int64_t bucket_count;     /* 0 where nothing is trainable */
  int64_t trainable_numel;  /* true elements, without padding */
  int64_t frozen_numel;
} zero1__layout;

/** Number of elements of a shape. ZERO1_ERR_INVALID: negative, or more than INT64_MAX / 8. */
zero1_status zero1__shape_numel(const int64_t *shape, int32_t ndim, int64_t *numel);

/** Lays out [param_count] parameters. numel, group, flags: [param_count].
 *  ZERO1_ERR_INVALID: the total overflows. ZERO1_ERR_MEMORY. */
zero1_status zero1__layout_create(int32_t world_size, int64_t bucket_numel, int64_t param_count,
                                  const int64_t *numel, const int32_t *group, const uint32_t *flags,
                                  zero1__layout *layout, zero1__error *error);
void zero1__layout_destroy(zero1__layout *layout);

/** Blocks of bucket `bucket`. */
zero1__range zero1__layout_bucket(const zero1__layout *layout, int64_t bucket);

/** Blocks of bucket `bucket` that `rank` owns; may lie in the padding, and then hold no element. */
zero1__range zero1__layout_shard(const zero1__layout *layout, int64_t bucket, int32_t rank);

/** Blocks that a rank's state arrays hold, and where bucket `bucket` starts in them. */
int64_t zero1__layout_state_blocks(const zero1__layout *layout);
int64_t zero1__layout_state_begin(const zero1__layout *layout, int64_t bucket);

/** Buckets that parameter `param` has elements in; empty for a frozen or empty one. */
zero1__range zero1__layout_buckets_of(const zero1__layout *layout, int64_t param);

/** The slot that holds `block`, or slot_count for a block of padding. */
int64_t zero1__layout_slot_at(const zero1__layout *layout, int64_t block);

/** A run of elements without holes: of one slot, inside a range of blocks. */
typedef struct zero1__segment {
  int64_t slot;
  int64_t block;       /* where it starts */
  int64_t numel;       /* true elements; the blocks after it up to the next segment are padding */
  int64_t param_begin; /* element of the parameter that it starts with: a multiple of a block */
} zero1__segment;

/** Walks the segments of a range of blocks:
 *    zero1__walk walk = zero1__walk_begin(layout, range);
 *    for (zero1__segment s; zero1__walk_next(&walk, &s);) ... */
typedef struct zero1__walk {
  const zero1__layout *layout;
  zero1__range blocks;
  int64_t slot;
} zero1__walk;

zero1__walk zero1__walk_begin(const zero1__layout *layout, zero1__range blocks);
int zero1__walk_next(zero1__walk *walk, zero1__segment *segment);

/** True elements in a range of blocks, padding left out. */
int64_t zero1__layout_numel(const zero1__layout *layout, zero1__range blocks);

#endif
