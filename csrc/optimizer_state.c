/* State that comes from elsewhere, or goes there: of an optimizer of another library, say. */
#include <stdlib.h>
#include <string.h>

#include "optimizer.h"

/* Bytes of all ranks that travel at once. */
#define GATHER_BYTES ((int64_t)8 << 20)

/* Steps add to it. */
#define COUNT_MAX (INT64_MAX / 2)

/* Nothing is under way that reads or writes state: neither a step nor a save. */
static zero1_status begin(zero1_optimizer *optimizer, const char *call) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_usable(optimizer);
  if (!status) status = zero1__optimizer_may_wait(optimizer, call);
  if (!status) status = zero1__optimizer_check_idle(optimizer);
  if (status) return status;
  zero1__schedule_finish(&optimizer->schedule);
  zero1__hold_sync(optimizer->schedule.hold);
  return zero1__optimizer_outcome(optimizer);
}

static zero1_status check(zero1_optimizer *optimizer, int64_t index, int32_t state) {
  zero1__error *error = &optimizer->error;
  const zero1_status status = zero1__optimizer_index(optimizer, index);
  if (status) return status;
  if (optimizer->registry.flags[index] & ZERO1_PARAM_FROZEN)
    return zero1__fail(error, ZERO1_ERR_INVALID, "parameter '%.100s' is frozen: it has no state",
                       optimizer->registry.names[index]);
  if (state < ZERO1_STATE_MASTER_PARAM || state > ZERO1_STATE_EXP_AVG_SQ)
    return zero1__fail(error, ZERO1_ERR_INVALID, "state is %d: neither a master nor a moment",
                       state);
  return ZERO1_OK;
}

/* Of offloaded buckets an fp32 parameter has a master beside it, too, but one without bits of its
 * own. */
static zero1_status check_own_master(zero1_optimizer *optimizer, int64_t index, int32_t state) {
  if (state != ZERO1_STATE_MASTER_PARAM ||
      optimizer->channel->config.param_dtype != ZERO1_DTYPE_FP32)
    return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID,
                     "parameter '%.100s' is its own master: it is written instead",
                     optimizer->registry.names[index]);
}

/* ---- the parts of ranks ---- */

static int64_t clamp(int64_t element, int64_t numel) {
  if (element < 0) return 0;
  return element < numel ? element : numel;
}

/* What a rank owns of a parameter, which has elements, in one bucket: a run of these, in the state
 * as in the parameter. Empty: nothing.
 *
 * Worked example: 600 elements from block 2 on, 2 ranks, buckets of 4 blocks. In bucket 0 rank 0 has
 * blocks 0 and 1, elements [-512, 0): none; rank 1 has blocks 2 and 3, elements [0, 512). In bucket 1
 * rank 0 has blocks 4 and 5, elements [512, 1024), of which 88 are there. */
static zero1__range owned(const zero1_optimizer *optimizer, int64_t index, int64_t bucket,
                          int32_t rank) {
  const int64_t place = optimizer->layout.place_begin[index];
  const int64_t numel = optimizer->registry.numel[index];
  const zero1__range blocks = zero1__layout_shard(&optimizer->layout, bucket, rank);
  return (zero1__range){clamp((blocks.begin - place) * ZERO1__BLOCK, numel),
                        clamp((blocks.end - place) * ZERO1__BLOCK, numel)};
}

/* Elements of the parameter's state, which this rank owns: from `values`, or to them. */
static void copy_state(const zero1_optimizer *optimizer, int64_t index, int32_t state,
                       zero1__range elements, const float *from, float *to) {
  zero1__device *device = optimizer->device;
  const size_t bytes = (size_t)(elements.end - elements.begin) * sizeof(float);
  const int64_t block = optimizer->layout.place_begin[index] + elements.begin / ZERO1__BLOCK;
  int32_t on_host;
  if (!bytes) return;
  float *place = zero1__buffers_state_at(&optimizer->buffers, state, block, &on_host) +
                 elements.begin % ZERO1__BLOCK;
  if (on_host)
    memcpy(from ? place : to, from ? from : place, bytes);
  else
    device->ops->transfer(device, from ? place : to, from ? from : place, bytes);
}

zero1_status zero1_optimizer_set_state(zero1_optimizer *optimizer, int64_t index, int32_t state,
                                       const float *values) {
  zero1_status status = begin(optimizer, "set_state");
  if (!status) status = check(optimizer, index, state);
  if (!status) status = check_own_master(optimizer, index, state);
  if (!status && !values && optimizer->registry.numel[index])
    status = zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "values is NULL");
  if (status) return status;
  const zero1__range buckets = zero1__layout_buckets_of(&optimizer->layout, index);
  for (int64_t bucket = buckets.begin; bucket < buckets.end; ++bucket) {
    const zero1__range elements = owned(optimizer, index, bucket, optimizer->comm->rank);
    copy_state(optimizer, index, state, elements, values + elements.begin, NULL);
  }
  return zero1__optimizer_check_device(optimizer);
}

/* ---- from all ranks ---- */

/* Ranks that ask for different things would take each other's elements. */
static zero1_status agree_what(zero1_optimizer *optimizer, int64_t index, int32_t state) {
  const int64_t mine[2] = {index, state};
  void *all;
  zero1_status status = zero1__optimizer_check_idle(optimizer);
  if (!status) status = check(optimizer, index, state);
  status = zero1__optimizer_collect(optimizer, status, mine, sizeof mine, &all);
  const int64_t(*asked)[2] = all;
  const int32_t rank = zero1__optimizer_differing(optimizer, all, sizeof mine);
  if (rank)
    status =
        zero1__fail(&optimizer->error, ZERO1_ERR_MISMATCH,
                    "ranks 0 and %d asked for states %lld and %lld of parameters %lld and %lld",
                    rank, (long long)asked[0][1], (long long)asked[rank][1], (long long)asked[0][0],
                    (long long)asked[rank][0]);
  free(all);
  return status;
}

/* Elements that a rank gives at once: no more than it owns of any bucket. */
static int64_t piece_numel(const zero1_optimizer *optimizer) {
  const int64_t world = optimizer->comm->world_size;
  const int64_t most = GATHER_BYTES / (int64_t)sizeof(float) / world + ZERO1__BLOCK;
  const int64_t owned_most = optimizer->layout.bucket_blocks / world * ZERO1__BLOCK;
  return owned_most < most ? owned_most : most;
}

/* Elements [at, at + most) of what a rank owns in a bucket. */
static zero1__range piece_of(zero1__range elements, int64_t at, int64_t most) {
  const int64_t numel = elements.end - elements.begin;
  return (zero1__range){elements.begin + clamp(at, numel),
                        elements.begin + clamp(at + most, numel)};
}

static int64_t longest_part(const zero1_optimizer *optimizer, int64_t index, int64_t bucket) {
  int64_t longest = 0;
  for (int32_t rank = 0; rank < optimizer->comm->world_size; ++rank) {
    const zero1__range elements = owned(optimizer, index, bucket, rank);
    if (elements.end - elements.begin > longest) longest = elements.end - elements.begin;
  }
  return longest;
}

/* room: [piece_numel] of this rank, then of every rank. */
static zero1_status gather_bucket(zero1_optimizer *optimizer, int64_t index, int32_t state,
                                  int64_t bucket, float *room, float *values) {
  const int64_t most = piece_numel(optimizer), longest = longest_part(optimizer, index, bucket);
  const zero1__range mine = owned(optimizer, index, bucket, optimizer->comm->rank);
  float *const gathered = room + most;
  for (int64_t at = 0; at < longest; at += most) {
    const int64_t numel = clamp(most, longest - at);
    copy_state(optimizer, index, state, piece_of(mine, at, most), NULL, room);
    const zero1_status status =
        zero1__optimizer_gather(optimizer, room, gathered, (size_t)numel * sizeof *room);
    if (status) return status;
    for (int32_t rank = 0; rank < optimizer->comm->world_size && values; ++rank) {
      const zero1__range piece = piece_of(owned(optimizer, index, bucket, rank), at, most);
      memcpy(values + piece.begin, gathered + rank * numel,
             (size_t)(piece.end - piece.begin) * sizeof *values);
    }
  }
  return ZERO1_OK;
}

zero1_status zero1_optimizer_get_state(zero1_optimizer *optimizer, int64_t index, int32_t state,
                                       float *values) {
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "get_state");
  if (!status) status = agree_what(optimizer, index, state);
  if (status) return status;
  const size_t numel = (size_t)piece_numel(optimizer) * ((size_t)optimizer->comm->world_size + 1);
  float *room = calloc(numel + 1, sizeof *room); /* of padding, what travels is zero */
  if (!room)
    status = zero1__fail(&optimizer->error, ZERO1_ERR_MEMORY, "no memory for parts of %d ranks",
                         optimizer->comm->world_size);
  status = zero1__optimizer_agree(optimizer, status);
  const zero1__range buckets = zero1__layout_buckets_of(&optimizer->layout, index);
  for (int64_t bucket = buckets.begin; bucket < buckets.end && !status; ++bucket)
    status = gather_bucket(optimizer, index, state, bucket, room, values);
  free(room);
  return status ? status
                : zero1__optimizer_agree(optimizer, zero1__optimizer_check_device(optimizer));
}

/* ---- the count ---- */

/* Every rank the same count. */
static zero1_status agree_count(zero1_optimizer *optimizer, int64_t count) {
  void *all;
  zero1_status status = zero1__optimizer_check_idle(optimizer);
  if (!status && (count < 0 || count > COUNT_MAX))
    status = zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "count is %lld, not in [0, %lld]",
                         (long long)count, (long long)COUNT_MAX);
  status = zero1__optimizer_collect(optimizer, status, &count, sizeof count, &all);
  const int64_t *counts = all;
  const int32_t rank = zero1__optimizer_differing(optimizer, all, sizeof count);
  if (rank)
    status = zero1__fail(&optimizer->error, ZERO1_ERR_MISMATCH,
                         "count is %lld on rank 0 and %lld on rank %d", (long long)counts[0],
                         (long long)counts[rank], rank);
  free(all);
  return status;
}

zero1_status zero1_optimizer_set_count(zero1_optimizer *optimizer, int64_t count) {
  zero1_status status = zero1__optimizer_begin_collective(optimizer, "set_count");
  if (!status) status = agree_count(optimizer, count);
  if (!status) zero1__schedule_set_count(&optimizer->schedule, count, count);
  return status;
}
