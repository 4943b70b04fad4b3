/* State that comes from elsewhere, or goes there: of an optimizer of another library, say. */
#include <stdlib.h>
#include <string.h>

#include "optimizer.h"

/* Elements that a rank gives at once. */
#define PIECE_NUMEL 65536

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

static zero1_status check_own_master(zero1_optimizer *optimizer, int64_t index, int32_t state) {
  if (state != ZERO1_STATE_MASTER_PARAM || zero1__buffers_have_masters(&optimizer->buffers))
    return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID,
                     "parameter '%.100s' is its own master: it is written instead",
                     optimizer->registry.names[index]);
}

/* ---- the parts of ranks ---- */

/* What a rank owns of a parameter, which has elements, in one bucket: a run of these, in the state
 * as in the parameter. Empty: nothing. */
static zero1__range owned(const zero1_optimizer *optimizer, int64_t index, int64_t bucket,
                          int32_t rank) {
  const int64_t place = optimizer->layout.place_begin[index];
  const int64_t numel = optimizer->registry.numel[index];
  const zero1__range blocks = zero1__layout_shard(&optimizer->layout, bucket, rank);
  zero1__range elements = {(blocks.begin - place) * ZERO1__BLOCK,
                           (blocks.end - place) * ZERO1__BLOCK};
  if (elements.begin < 0) elements.begin = 0;
  if (elements.end > numel) elements.end = numel;
  if (elements.end < elements.begin) elements.end = elements.begin;
  return elements;
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

static zero1_status check_device(zero1_optimizer *optimizer) {
  zero1__device *device = optimizer->device;
  return device->is_host ? ZERO1_OK : device->ops->check(device, &optimizer->error);
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
  return check_device(optimizer);
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
  for (int32_t rank = 1; rank < optimizer->comm->world_size && !status; ++rank)
    if (memcmp(asked[rank], asked[0], sizeof asked[0]))
      status = zero1__fail(&optimizer->error, ZERO1_ERR_MISMATCH,
                           "ranks 0 and %d asked for states %lld and %lld of parameters %lld and "
                           "%lld",
                           rank, (long long)asked[0][1], (long long)asked[rank][1],
                           (long long)asked[0][0], (long long)asked[rank][0]);
  free(all);
  return status;
}

/* Elements [at, at + PIECE_NUMEL) of what each rank owns in a bucket. */
static zero1__range piece_of(zero1__range elements, int64_t at) {
  zero1__range piece = {elements.begin + at, elements.begin + at + PIECE_NUMEL};
  if (piece.begin > elements.end) piece.begin = elements.end;
  if (piece.end > elements.end) piece.end = elements.end;
  return piece;
}

/* room: [PIECE_NUMEL] of this rank, then of every rank. */
static zero1_status gather_bucket(zero1_optimizer *optimizer, int64_t index, int32_t state,
                                  int64_t bucket, float *room, float *values) {
  const int32_t world = optimizer->comm->world_size;
  float *const gathered = room + PIECE_NUMEL;
  int64_t longest = 0;
  for (int32_t rank = 0; rank < world; ++rank) {
    const zero1__range elements = owned(optimizer, index, bucket, rank);
    if (elements.end - elements.begin > longest) longest = elements.end - elements.begin;
  }
  for (int64_t at = 0; at < longest; at += PIECE_NUMEL) {
    const int64_t numel = longest - at < PIECE_NUMEL ? longest - at : PIECE_NUMEL;
    const zero1__range mine = owned(optimizer, index, bucket, optimizer->comm->rank);
    copy_state(optimizer, index, state, piece_of(mine, at), NULL, room);
    const zero1_status status =
        zero1__optimizer_gather(optimizer, room, gathered, (size_t)numel * sizeof *room);
    if (status) return status;
    for (int32_t rank = 0; rank < world && values; ++rank) {
      const zero1__range piece = piece_of(owned(optimizer, index, bucket, rank), at);
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
  const size_t rooms = (size_t)optimizer->comm->world_size + 1;
  float *room = calloc(rooms * PIECE_NUMEL, sizeof *room);
  if (!room)
    status = zero1__fail(&optimizer->error, ZERO1_ERR_MEMORY, "no memory for parts of %zu ranks",
                         rooms - 1);
  status = zero1__optimizer_agree(optimizer, status);
  const zero1__range buckets = zero1__layout_buckets_of(&optimizer->layout, index);
  for (int64_t bucket = buckets.begin; bucket < buckets.end && !status; ++bucket)
    status = gather_bucket(optimizer, index, state, bucket, room, values);
  free(room);
  return status ? status : zero1__optimizer_agree(optimizer, check_device(optimizer));
}

/* ---- the count ---- */

/* Every rank the same count. */
static zero1_status agree_count(zero1_optimizer *optimizer, int64_t count) {
  void *all;
  zero1_status status = zero1__optimizer_check_idle(optimizer);
  if (!status && count < 0)
    status = zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "count is %lld", (long long)count);
  status = zero1__optimizer_collect(optimizer, status, &count, sizeof count, &all);
  const int64_t *counts = all;
  for (int32_t rank = 1; rank < optimizer->comm->world_size && !status; ++rank)
    if (counts[rank] != counts[0])
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
