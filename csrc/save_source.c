#include "save_source.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

size_t zero1__saved_each(const zero1_optimizer *optimizer, int32_t state) {
  return (size_t)zero1__saved_element_bytes(state, optimizer->settings.config.param_dtype);
}

/* ---- the order ---- */

/* Frozen blocks that are for this rank to save. */
static zero1__range frozen_blocks(const zero1_optimizer *optimizer) {
  const zero1__layout *layout = &optimizer->layout;
  const int64_t rank = optimizer->comm->rank, world = layout->world_size;
  const int64_t count = layout->block_count - layout->trainable_blocks;
  const int64_t each = count / world, more = count % world;
  const int64_t begin = layout->trainable_blocks + rank * each + (rank < more ? rank : more);
  return (zero1__range){begin, begin + each + (rank < more)};
}

static int next_frozen(zero1__save_walk *walk, zero1__saved_range *range) {
  const zero1_optimizer *optimizer = walk->optimizer;
  const zero1__layout *layout = &optimizer->layout;
  const zero1__range mine = frozen_blocks(optimizer);
  for (; walk->param < layout->param_count; ++walk->param) {
    const int64_t numel = layout->numel[walk->param];
    if (!(optimizer->registry.flags[walk->param] & ZERO1_PARAM_FROZEN)) continue;
    const int64_t place = layout->place_begin[walk->param];
    int64_t begin = (mine.begin - place) * ZERO1__BLOCK, end = (mine.end - place) * ZERO1__BLOCK;
    if (begin < 0) begin = 0;
    if (end > numel) end = numel;
    if (begin >= end) continue;
    *range = (zero1__saved_range){
        .param = walk->param++, .state = ZERO1_STATE_PARAM, .begin = begin, .end = end};
    return 1;
  }
  return 0;
}

/* Blocks of a bucket whose state `which` is this rank's to save. */
static zero1__range blocks_of(const zero1_optimizer *optimizer, int32_t which, int64_t bucket) {
  if (which == ZERO1_STATE_RESIDUAL) return zero1__layout_bucket(&optimizer->layout, bucket);
  return zero1__layout_shard(&optimizer->layout, bucket, optimizer->comm->rank);
}

int zero1__save_walk_next(zero1__save_walk *walk, zero1__saved_range *range) {
  const zero1_optimizer *optimizer = walk->optimizer;
  const zero1__layout *layout = &optimizer->layout;
  const int32_t stages = optimizer->buffers.residual ? 4 : 3;
  while (walk->done < layout->bucket_count) {
    const int32_t which = walk->stage + 1;
    zero1__segment segment;
    if (!walk->inside) {
      walk->blocks = zero1__walk_begin(
          layout, blocks_of(optimizer, which, layout->bucket_count - 1 - walk->done));
      walk->inside = 1;
    }
    if (zero1__walk_next(&walk->blocks, &segment)) {
      *range = (zero1__saved_range){.param = layout->slots[segment.slot].param,
                                    .state = which,
                                    .begin = segment.param_begin,
                                    .end = segment.param_begin + segment.numel};
      return 1;
    }
    walk->inside = 0;
    walk->stage = (walk->stage + 1) % stages;
    walk->done += walk->stage == 0;
  }
  return next_frozen(walk, range);
}

static int64_t block_of(const zero1_optimizer *optimizer, const zero1__saved_range *range) {
  return optimizer->layout.place_begin[range->param] + range->begin / ZERO1__BLOCK;
}

int64_t zero1__saved_bucket(const zero1_optimizer *optimizer, const zero1__saved_range *range) {
  if (range->state == ZERO1_STATE_PARAM) return -1;
  return block_of(optimizer, range) / optimizer->layout.bucket_blocks;
}

/* ---- where it is ---- */

/* As in the optimizer's own state: bucket after bucket. */
static int64_t element_in_state(const zero1_optimizer *optimizer, int64_t block) {
  const zero1__layout *layout = &optimizer->layout;
  const int64_t bucket = block / layout->bucket_blocks;
  const int64_t offset = block - zero1__layout_shard(layout, bucket, optimizer->comm->rank).begin;
  return (zero1__layout_state_begin(layout, bucket) + offset) * ZERO1__BLOCK;
}

static const void *bytes_in_snapshot(const zero1_optimizer *optimizer,
                                     const zero1__snapshot *snapshot,
                                     const zero1__saved_range *range, int64_t block) {
  switch (range->state) {
    case ZERO1_STATE_PARAM:
      return snapshot->frozen + (size_t)(block - frozen_blocks(optimizer).begin) * ZERO1__BLOCK *
                                    zero1__saved_each(optimizer, range->state);
    case ZERO1_STATE_RESIDUAL:
      return snapshot->residual + block * ZERO1__BLOCK;
    default:
      return snapshot->states[range->state - 1] + element_in_state(optimizer, block);
  }
}

const void *zero1__saved_bytes(const zero1_optimizer *optimizer, const zero1__snapshot *snapshot,
                               const zero1__saved_range *range, int32_t *on_host) {
  const int64_t block = block_of(optimizer, range);
  *on_host = 1;
  if (snapshot) return bytes_in_snapshot(optimizer, snapshot, range, block);
  *on_host = optimizer->device->is_host;
  switch (range->state) {
    case ZERO1_STATE_PARAM:
      return zero1__buffers_param(&optimizer->buffers, block);
    case ZERO1_STATE_RESIDUAL:
      return optimizer->buffers.residual + block * ZERO1__BLOCK;
    default:
      return zero1__buffers_state_at(&optimizer->buffers, range->state, block, on_host);
  }
}

/* ---- a copy ---- */

static zero1_status take(zero1__snapshot *snapshot, size_t bytes, void **memory,
                         zero1__error *error) {
  if (!bytes) return ZERO1_OK;
  const size_t huge = (size_t)2 << 20;
  if (posix_memalign(memory, huge, (bytes + huge - 1) / huge * huge)) {
    *memory = NULL;
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a snapshot: %zu bytes", bytes);
  }
  (void)madvise(*memory, bytes, MADV_HUGEPAGE); /* fewer faults on the way */
  snapshot->bytes += bytes;
  return ZERO1_OK;
}

static void copy_shards(zero1__snapshot *snapshot, const zero1_optimizer *optimizer) {
  const zero1__layout *layout = &optimizer->layout;
  zero1__device *device = optimizer->device;
  for (int64_t bucket = 0; bucket < layout->bucket_count; ++bucket) {
    const zero1__range blocks = zero1__layout_shard(layout, bucket, optimizer->comm->rank);
    const size_t bytes = (size_t)(blocks.end - blocks.begin) * ZERO1__BLOCK * sizeof(float);
    for (int32_t i = 0; i < 3 && bytes; ++i) {
      int32_t on_host;
      float *to = snapshot->states[i] + element_in_state(optimizer, blocks.begin);
      const float *from =
          zero1__buffers_state_at(&optimizer->buffers, i + 1, blocks.begin, &on_host);
      if (on_host)
        memcpy(to, from, bytes);
      else
        device->ops->transfer(device, to, from, bytes);
    }
  }
}

static size_t residual_bytes(const zero1_optimizer *optimizer) {
  if (!optimizer->buffers.residual) return 0;
  return (size_t)optimizer->layout.trainable_blocks * ZERO1__BLOCK * sizeof(float);
}

static size_t frozen_bytes(const zero1_optimizer *optimizer) {
  const zero1__range blocks = frozen_blocks(optimizer);
  return (size_t)(blocks.end - blocks.begin) * ZERO1__BLOCK *
         zero1__saved_each(optimizer, ZERO1_STATE_PARAM);
}

static zero1_status make_room(zero1__snapshot *snapshot, const zero1_optimizer *optimizer,
                              zero1__error *error) {
  const size_t state =
      (size_t)zero1__layout_state_blocks(&optimizer->layout) * ZERO1__BLOCK * sizeof(float);
  void *memory[5] = {NULL, NULL, NULL, NULL, NULL};
  zero1_status status = ZERO1_OK;
  for (int i = 0; i < 3 && !status; ++i) status = take(snapshot, state, &memory[i], error);
  if (!status) status = take(snapshot, residual_bytes(optimizer), &memory[3], error);
  if (!status) status = take(snapshot, frozen_bytes(optimizer), &memory[4], error);
  for (int i = 0; i < 3; ++i) snapshot->states[i] = memory[i];
  snapshot->residual = memory[3];
  snapshot->frozen = memory[4];
  if (status) zero1__snapshot_end(snapshot);
  return status;
}

zero1_status zero1__snapshot_take(zero1__snapshot *snapshot, const zero1_optimizer *optimizer,
                                  zero1__error *error) {
  const zero1__buffers *buffers = &optimizer->buffers;
  zero1__device *device = optimizer->device;
  if (!snapshot->bytes) {
    const zero1_status status = make_room(snapshot, optimizer, error);
    if (status) return status;
  }
  copy_shards(snapshot, optimizer);
  if (snapshot->residual)
    device->ops->transfer(device, snapshot->residual, buffers->residual, residual_bytes(optimizer));
  if (snapshot->frozen)
    device->ops->transfer(device, snapshot->frozen,
                          zero1__buffers_param(buffers, frozen_blocks(optimizer).begin),
                          frozen_bytes(optimizer));
  return device->ops->check(device, error);
}

void zero1__snapshot_end(zero1__snapshot *snapshot) {
  for (int i = 0; i < 3; ++i) free(snapshot->states[i]);
  free(snapshot->residual);
  free(snapshot->frozen);
  memset(snapshot, 0, sizeof *snapshot);
}
