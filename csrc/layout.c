#include "layout.h"

#include <stdlib.h>
#include <string.h>

/* So that bytes of any array of so many elements fit an int64_t. */
#define ZERO1__NUMEL_MAX (INT64_MAX / 8)

static int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* 600 elements -> 3 blocks. */
static int64_t blocks_of(int64_t numel) {
  return (numel + ZERO1__BLOCK - 1) / ZERO1__BLOCK;
}

zero1_status zero1__shape_numel(const int64_t *shape, int32_t ndim, int64_t *numel) {
  int64_t product = 1;
  int empty = 0, too_many = 0; /* a 0 anywhere makes up for any other sizes */
  *numel = 0;
  for (int32_t i = 0; i < ndim; ++i) {
    if (shape[i] < 0) return ZERO1_ERR_INVALID;
    if (shape[i] == 0) {
      empty = 1;
    } else if (product > ZERO1__NUMEL_MAX / shape[i]) {
      too_many = 1;
    } else {
      product *= shape[i];
    }
  }
  if (empty) return ZERO1_OK;
  if (too_many) return ZERO1_ERR_INVALID;
  *numel = product;
  return ZERO1_OK;
}

/* Worked example: bucket_numel 1000, world_size 2: 3 whole blocks fit, 2 of them divide among the
 * ranks, so a bucket has 2. With bucket_numel 300 one block fits: still 2, one per rank. */
static int64_t blocks_per_bucket(int64_t bucket_numel, int32_t world_size) {
  const int64_t fit = bucket_numel / ZERO1__BLOCK;
  return fit < world_size ? world_size : fit - fit % world_size;
}

static zero1_status place_params(zero1__layout *layout, const int32_t *group, const uint32_t *flags,
                                 zero1__error *error) {
  int64_t next = 0;
  for (int64_t i = layout->param_count - 1; i >= 0; --i) {
    layout->slot_of_param[i] = -1;
    if (flags[i] & ZERO1_PARAM_FROZEN) continue;
    layout->place_begin[i] = next;
    if (layout->numel[i] == 0) continue;
    layout->slot_of_param[i] = layout->slot_count;
    layout->slots[layout->slot_count++] =
        (zero1__slot){next, layout->numel[i], i, group[i], flags[i]};
    next += blocks_of(layout->numel[i]);
    layout->trainable_numel += layout->numel[i];
    if (next > ZERO1__NUMEL_MAX / ZERO1__BLOCK) goto overflow;
  }
  layout->slots[layout->slot_count].block_begin = next;
  layout->used_blocks = next;
  const int64_t world = layout->world_size;
  layout->trainable_blocks = (next + world - 1) / world * world;
  next = layout->trainable_blocks;
  for (int64_t i = layout->param_count - 1; i >= 0; --i) {
    if (!(flags[i] & ZERO1_PARAM_FROZEN)) continue;
    layout->place_begin[i] = next;
    next += blocks_of(layout->numel[i]);
    layout->frozen_numel += layout->numel[i];
    if (next > ZERO1__NUMEL_MAX / ZERO1__BLOCK) goto overflow;
  }
  layout->block_count = next;
  return ZERO1_OK;
overflow:
  return zero1__fail(error, ZERO1_ERR_INVALID,
                     "the parameters have more than %lld elements together",
                     (long long)ZERO1__NUMEL_MAX);
}

zero1_status zero1__layout_create(int32_t world_size, int64_t bucket_numel, int64_t param_count,
                                  const int64_t *numel, const int32_t *group, const uint32_t *flags,
                                  zero1__layout *layout, zero1__error *error) {
  memset(layout, 0, sizeof *layout);
  layout->world_size = world_size;
  layout->param_count = param_count;
  const size_t count = (size_t)param_count;
  layout->slots = calloc(count + 1, sizeof *layout->slots);
  layout->place_begin = calloc(count + 1, sizeof *layout->place_begin);
  layout->numel = calloc(count + 1, sizeof *layout->numel);
  layout->slot_of_param = calloc(count + 1, sizeof *layout->slot_of_param);
  zero1_status status = ZERO1_OK;
  if (!layout->slots || !layout->place_begin || !layout->numel || !layout->slot_of_param) {
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the layout of %lld parameters",
                         (long long)param_count);
    goto fail;
  }
  if (param_count) memcpy(layout->numel, numel, count * sizeof *numel);
  status = place_params(layout, group, flags, error);
  if (status) goto fail;
  layout->bucket_blocks =
      min64(blocks_per_bucket(bucket_numel, world_size), layout->trainable_blocks);
  if (layout->bucket_blocks)
    layout->bucket_count =
        (layout->trainable_blocks + layout->bucket_blocks - 1) / layout->bucket_blocks;
  return ZERO1_OK;
fail:
  zero1__layout_destroy(layout);
  return status;
}

void zero1__layout_destroy(zero1__layout *layout) {
  free(layout->slots);
  free(layout->place_begin);
  free(layout->numel);
  free(layout->slot_of_param);
  memset(layout, 0, sizeof *layout);
}

zero1__range zero1__layout_bucket(const zero1__layout *layout, int64_t bucket) {
  const int64_t begin = bucket * layout->bucket_blocks;
  return (zero1__range){begin, min64(begin + layout->bucket_blocks, layout->trainable_blocks)};
}

/* A bucket of 4 blocks, 2 ranks: rank 0 owns [0, 2), rank 1 owns [2, 4). */
zero1__range zero1__layout_shard(const zero1__layout *layout, int64_t bucket, int32_t rank) {
  const zero1__range blocks = zero1__layout_bucket(layout, bucket);
  const int64_t each = (blocks.end - blocks.begin) / layout->world_size;
  const int64_t begin = blocks.begin + rank * each;
  return (zero1__range){begin, begin + each};
}

int64_t zero1__layout_state_blocks(const zero1__layout *layout) {
  return layout->trainable_blocks / layout->world_size;
}

int64_t zero1__layout_state_begin(const zero1__layout *layout, int64_t bucket) {
  return bucket * (layout->bucket_blocks / layout->world_size);
}

zero1__range zero1__layout_buckets_of(const zero1__layout *layout, int64_t param) {
  const int64_t slot = layout->slot_of_param[param];
  if (slot < 0) return (zero1__range){0, 0};
  return (zero1__range){layout->slots[slot].block_begin / layout->bucket_blocks,
                        (layout->slots[slot + 1].block_begin - 1) / layout->bucket_blocks + 1};
}

int64_t zero1__layout_slot_at(const zero1__layout *layout, int64_t block) {
  int64_t low = 0, high = layout->slot_count; /* the answer is in [low, high] */
  if (block >= layout->used_blocks) return layout->slot_count;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (layout->slots[middle].block_begin <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

zero1__walk zero1__walk_begin(const zero1__layout *layout, zero1__range blocks) {
  return (zero1__walk){layout, blocks, zero1__layout_slot_at(layout, blocks.begin)};
}

int zero1__walk_next(zero1__walk *walk, zero1__segment *segment) {
  const zero1__layout *layout = walk->layout;
  if (walk->slot >= layout->slot_count || walk->blocks.begin >= walk->blocks.end) return 0;
  const zero1__slot *slot = &layout->slots[walk->slot];
  const int64_t end = min64(slot[1].block_begin, walk->blocks.end);
  segment->slot = walk->slot;
  segment->block = walk->blocks.begin;
  segment->param_begin = (walk->blocks.begin - slot->block_begin) * ZERO1__BLOCK;
  segment->numel =
      min64(slot->numel - segment->param_begin, (end - walk->blocks.begin) * ZERO1__BLOCK);
  walk->blocks.begin = end;
  walk->slot += 1;
  return 1;
}

int64_t zero1__layout_numel(const zero1__layout *layout, zero1__range blocks) {
  int64_t numel = 0;
  zero1__walk walk = zero1__walk_begin(layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) numel += segment.numel;
  return numel;
}
