#include "nccl_guard.h"

#include <stddef.h>

#include "clock.h"
#include "fnv.h"

/* A peer that has closed its link has done its part of a collective that this rank still is in: for
 * so long. */
#define LAST_PART_NS ((int64_t)1000000000)

static uint32_t word_at(const zero1__nccl_guard *guard, int64_t at) {
  return __atomic_load_n(&guard->words[at], __ATOMIC_ACQUIRE);
}

/* Since when some collective is under way and none has come to its end; 0: that is not so. */
static int64_t stuck_since(zero1__nccl_guard *guard) {
  uint64_t hash = ZERO1__FNV_BEGIN;
  int under_way = 0;
  for (int64_t i = 0; i < guard->count; ++i) {
    const uint32_t pair[2] = {word_at(guard, i), word_at(guard, guard->count + i)};
    under_way |= pair[0] != pair[1];
    hash = zero1__fnv(hash, pair, sizeof pair);
  }
  if (hash != guard->seen || !under_way) guard->since_ns = zero1__now_ns();
  guard->seen = hash;
  return under_way ? guard->since_ns : 0;
}

static zero1_status check_progress(zero1__nccl_guard *guard, zero1__error *error) {
  const int64_t since_ns = stuck_since(guard);
  const int64_t stuck_ns = since_ns ? zero1__now_ns() - since_ns : 0;
  if (stuck_ns > zero1__seconds_ns(guard->timeout_seconds))
    return zero1__fail(error, ZERO1_ERR_TIMEOUT,
                       "no collective of NCCL came to its end within %g s: some of %d ranks did "
                       "not come (this is rank %d)",
                       guard->timeout_seconds, guard->link->world_size, guard->link->rank);
  return stuck_ns > LAST_PART_NS ? zero1__nccl_link_left(guard->link, error) : ZERO1_OK;
}

static int look(void *context) {
  zero1__nccl_guard *guard = context;
  zero1__error error;
  zero1__error_clear(&error);
  zero1_status status = zero1__nccl_link_look(guard->link, &error);
  if (!status) status = check_progress(guard, &error);
  if (!status) return 0;
  guard->fail(guard->context, &error);
  return 1;
}

zero1_status zero1__nccl_guard_start(zero1__nccl_guard *guard, zero1__error *error) {
  const zero1__device_ops *ops = guard->device->ops;
  zero1_status status = ops->pinned_alloc(guard->device, zero1__nccl_guard_bytes(guard),
                                          (void **)&guard->words, error);
  if (!status) status = ops->memory_alloc(guard->device, sizeof(void *), &guard->table, error);
  if (status) return status;
  ops->transfer(guard->device, guard->table, &guard->words, sizeof(void *));
  guard->since_ns = zero1__now_ns();
  return zero1__lookout_start(ZERO1__LOOK_NS, look, guard, &guard->lookout, error);
}

void zero1__nccl_guard_stop(zero1__nccl_guard *guard) {
  if (!guard->device) return;
  const zero1__device_ops *ops = guard->device->ops;
  zero1__lookout_stop(guard->lookout);
  ops->memory_free(guard->device, guard->table, sizeof(void *));
  ops->pinned_free(guard->device, guard->words, zero1__nccl_guard_bytes(guard));
}

static void post(zero1__nccl_guard *guard, zero1__stream *stream, int64_t at) {
  const zero1__post_job job = {
      .step = guard->step, .flags = guard->table, .offset = at, .count = 1};
  guard->device->ops->post(guard->device, stream, &job);
}

void zero1__nccl_guard_enter(zero1__nccl_guard *guard, zero1__stream *stream, int64_t place) {
  post(guard, stream, place);
}

void zero1__nccl_guard_leave(zero1__nccl_guard *guard, zero1__stream *stream, int64_t place) {
  post(guard, stream, guard->count + place);
}

void zero1__nccl_lose(zero1__device *device, zero1__step *step) {
  const int32_t nobody = -1, lost = 1;
  device->ops->transfer(device, &step->lost_peer, &nobody, sizeof nobody);
  device->ops->transfer(device, &step->lost, &lost, sizeof lost);
  device->ops->lose(device);
}
