/* What every comm must do, whatever carries it: the one suite that each backend passes.
 * Every function is collective: all ranks call it, each with its own comm. */
#ifndef ZERO1_TESTS_COMM_SUITE_H
#define ZERO1_TESTS_COMM_SUITE_H

#include <string.h>
#include <time.h>

#include "check.h"
#include "comm_ops.h"

static inline void suite_sleep_ms(int64_t ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static inline void suite_meet(zero1_comm *comm) {
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
}

/* ---- lanes ---- */

static inline unsigned char suite_byte(int32_t rank, size_t at, int round) {
  return (unsigned char)((size_t)rank * 31 + at * 7 + at / 251 + (size_t)round * 13);
}

static inline void suite_gather(zero1__lane *lane, size_t bytes, int round) {
  const zero1_comm *const comm = lane->comm;
  const size_t world = (size_t)comm->world_size;
  unsigned char *const in = malloc(bytes + 1), *const out = malloc(world * bytes + 1);
  zero1__error error = {0};
  CHECK(in && out);
  for (size_t i = 0; i < bytes; ++i) in[i] = suite_byte(comm->rank, i, round);
  out[world * bytes] = 77;
  CHECK_STATUS(comm->ops->lane_all_gather(lane, in, out, bytes, &error), ZERO1_OK);
  for (int32_t rank = 0; rank < comm->world_size; ++rank)
    for (size_t i = 0; i < bytes; ++i)
      CHECK_EQ(out[(size_t)rank * bytes + i], suite_byte(rank, i, round));
  CHECK_EQ(out[world * bytes], 77);
  free(in);
  free(out);
}

static inline void suite_lanes(zero1_comm *comm) {
  const size_t sizes[] = {4, 0, 1, 1023, 1024, 1025, 5000, 3};
  zero1__lane *lanes[2];
  zero1__error error = {0};
  for (int i = 0; i < 2; ++i)
    CHECK_STATUS(comm->ops->lane_open(comm, 10, &lanes[i], &error), ZERO1_OK);
  for (int round = 0; round < 3; ++round)
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
      suite_gather(lanes[0], sizes[i], round);
      suite_gather(lanes[1], sizes[i] / 2, round + 5);
      suite_gather(comm->lane, sizes[i], round + 9);
    }
  for (int i = 0; i < 2; ++i) comm->ops->lane_close(lanes[i]);
}

/* The lowest rank with a failure counts; it is told with its text, and to all alike. */
static inline void suite_agreement(zero1_comm *comm) {
  const int32_t world = comm->world_size, last = world - 1;
  zero1__error error = {0};
  CHECK_STATUS(zero1__lane_agree(comm->lane, ZERO1_OK, &error), ZERO1_OK);
  for (int32_t bad = 0; bad < world; ++bad) {
    zero1_status mine = ZERO1_OK;
    zero1__error_clear(&error);
    if (comm->rank == bad) mine = zero1__fail(&error, ZERO1_ERR_MEMORY, "no cheese");
    if (comm->rank == last && bad != last) mine = zero1__fail(&error, ZERO1_ERR_DEVICE, "no bread");
    CHECK_STATUS(zero1__lane_agree(comm->lane, mine, &error), ZERO1_ERR_MEMORY);
    CHECK(strstr(error.text, "no cheese"));
    if (comm->rank != bad) {
      char named[32];
      snprintf(named, sizeof named, "rank %d", bad);
      CHECK(strstr(error.text, named));
    }
  }
}

/* ---- channels ---- */

enum { SUITE_MAX_PARAMS = 8 };

typedef struct suite_case {
  int32_t count;
  int64_t numel[SUITE_MAX_PARAMS];
  uint32_t flags[SUITE_MAX_PARAMS];
  int64_t shard_blocks; /* of a whole bucket */
} suite_case;

static const suite_case SUITE_CASES[] = {
    {4, {600, 1, 512, 300}, {0, 0, 0, ZERO1_PARAM_FROZEN}, 2},  /* the example of layout.h */
    {7, {5000, 3, 0, 257, 256, 1023, 2048}, {0}, 7},            /* the ring goes round; holes */
    {1, {1}, {0}, 1},                                           /* more ranks than blocks */
    {2, {9, 300}, {ZERO1_PARAM_FROZEN, ZERO1_PARAM_FROZEN}, 1}, /* no bucket at all */
    {0, {0}, {0}, 1},
};
enum { SUITE_CASE_COUNT = sizeof SUITE_CASES / sizeof *SUITE_CASES };

typedef struct suite_rig {
  zero1_comm *comm;
  zero1__layout layout;
  zero1__device *device;
  zero1__channel *channel;
  zero1__dtype param_dtype, grad_dtype;
  int32_t share_params, reduce_group;
  double timeout_seconds; /* 0: 10 */
} suite_rig;

static inline float suite_read(const void *array, int64_t i, zero1__dtype dtype) {
  if (dtype == ZERO1_DTYPE_FP32) return ((const float *)array)[i];
  const uint32_t bits = (uint32_t)((const uint16_t *)array)[i] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline void suite_write(void *array, int64_t i, zero1__dtype dtype, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == ZERO1_DTYPE_FP32)
    ((float *)array)[i] = value;
  else
    ((uint16_t *)array)[i] = (uint16_t)(bits >> 16);
}

/* Small whole numbers: bf16 holds them, and they add up exactly. */
static inline float suite_value(int round, int32_t rank, int64_t element) {
  const uint32_t mixed =
      ((uint32_t)round * 977 + (uint32_t)rank * 131 + (uint32_t)element) * 2654435761u;
  return (float)((int32_t)(mixed >> 16) % 33 - 16);
}

/* rig->comm, and what else is not to be the default, is set; the rig stays where it is. */
static inline void suite_open(suite_rig *rig, const suite_case *what) {
  const int32_t groups[SUITE_MAX_PARAMS] = {0};
  const int32_t world = rig->comm->world_size;
  zero1__error error = {0};
  CHECK_STATUS(zero1__layout_create(world, what->shard_blocks * world * ZERO1__BLOCK, what->count,
                                    what->numel, groups, what->flags, &rig->layout, &error),
               ZERO1_OK);
  CHECK_STATUS(zero1__device_host_create(1, &rig->device, &error), ZERO1_OK);
  const zero1__channel_config config = {
      .device = rig->device,
      .layout = &rig->layout,
      .param_dtype = rig->param_dtype,
      .grad_dtype = rig->grad_dtype,
      .share_params = rig->share_params,
      .reduce_group = rig->reduce_group,
      .timeout_seconds = rig->timeout_seconds > 0 ? rig->timeout_seconds : 10};
  CHECK_STATUS(rig->comm->ops->channel_open(rig->comm, &config, &rig->channel, &error), ZERO1_OK);
}

static inline void suite_close(suite_rig *rig) {
  rig->channel->ops->channel_close(rig->channel);
  rig->device->ops->destroy(rig->device);
  zero1__layout_destroy(&rig->layout);
}

static inline void suite_call(suite_rig *rig, zero1__channel_fn fn, int64_t index, uint32_t epoch) {
  zero1__error error = {0};
  if (fn) CHECK_STATUS(fn(rig->channel, index, epoch, &error), ZERO1_OK);
}

/* ---- a channel as it is opened ---- */

static inline uint64_t suite_total(zero1_comm *comm, uint64_t mine) {
  uint64_t all[64], total = 0;
  zero1__error error = {0};
  CHECK(comm->world_size <= 64);
  CHECK_STATUS(comm->ops->lane_all_gather(comm->lane, &mine, all, sizeof mine, &error), ZERO1_OK);
  for (int32_t i = 0; i < comm->world_size; ++i) total += all[i];
  return total;
}

static inline void suite_check_opened(suite_rig *rig) {
  const zero1__channel *const channel = rig->channel;
  const uint64_t world = (uint64_t)rig->comm->world_size;
  const uint64_t params_bytes = zero1__whole_pages((size_t)rig->layout.block_count * ZERO1__BLOCK *
                                                   zero1__dtype_bytes(rig->param_dtype));
  const uint64_t grads_bytes = zero1__whole_pages(
      (size_t)rig->layout.trainable_blocks * ZERO1__BLOCK * zero1__dtype_bytes(rig->grad_dtype));
  CHECK_EQ((uintptr_t)channel->params % 4096, 0);
  CHECK_EQ((uintptr_t)channel->grads % 4096, 0);
  for (uint64_t i = 0; i < params_bytes; ++i) CHECK_EQ(((char *)channel->params)[i], 0);
  for (uint64_t i = 0; i < grads_bytes; ++i) CHECK_EQ(((char *)channel->grads)[i], 0);
  CHECK_EQ(channel->grads_bytes, grads_bytes);
  CHECK_EQ(suite_total(rig->comm, channel->params_bytes),
           params_bytes * (world / (uint64_t)channel->params_sharers));
  if (!rig->share_params) CHECK_EQ(channel->params_sharers, 1);
  /* Every block of this rank's shards is in one chunk, in order. */
  int64_t next = 0;
  CHECK_EQ(channel->chunk_begin[0], 0);
  for (int64_t bucket = 0; bucket < rig->layout.bucket_count; ++bucket) {
    const zero1__range own = zero1__layout_shard(&rig->layout, bucket, rig->comm->rank);
    int64_t block = own.begin;
    for (; next < channel->chunk_begin[bucket + 1]; ++next) {
      const zero1__chunk *const chunk = &channel->chunks[next];
      CHECK_EQ(chunk->bucket, bucket);
      CHECK_EQ(chunk->blocks.begin, block);
      CHECK_EQ(chunk->part.begin, block - own.begin);
      CHECK_EQ(chunk->part.end, chunk->blocks.end - own.begin);
      block = chunk->blocks.end;
    }
    CHECK_EQ(block, own.end);
  }
  CHECK_EQ(next, channel->chunk_count);
}

/* ---- contributions ---- */

static inline void suite_write_grads(suite_rig *rig, uint32_t epoch) {
  const zero1__range all = {0, rig->layout.trainable_blocks};
  zero1__walk walk = zero1__walk_begin(&rig->layout, all);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);)
    for (int64_t i = segment.block * ZERO1__BLOCK, n = 0; n < segment.numel; ++i, ++n)
      suite_write(rig->channel->grads, i, rig->grad_dtype,
                  suite_value((int)epoch, rig->comm->rank, i));
}

/* What source k of an element must be: a rank's gradient, or the sum over a group of ranks. */
static inline float suite_expect(const suite_rig *rig, const zero1__sources *sources, int32_t k,
                                 uint32_t epoch, int64_t element) {
  const int32_t group = rig->channel->reduce_group;
  if (sources->rank_begin >= 0) return suite_value((int)epoch, sources->rank_begin + k, element);
  float sum = 0;
  for (int32_t rank = k * group; rank < (k + 1) * group; ++rank)
    sum += suite_value((int)epoch, rank, element);
  return sum;
}

static inline void suite_check_sources(const suite_rig *rig, const zero1__sources *sources,
                                       zero1__range blocks, uint32_t epoch) {
  CHECK(sources->count % sources->group == 0);
  zero1__walk walk = zero1__walk_begin(&rig->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);)
    for (int64_t n = 0; n < segment.numel; ++n) {
      const int64_t element = segment.block * ZERO1__BLOCK + n;
      for (int32_t k = 0; k < sources->count; ++k)
        CHECK(suite_read(sources->contributions[k], element - blocks.begin * ZERO1__BLOCK,
                         sources->dtype) == suite_expect(rig, sources, k, epoch, element));
    }
}

static inline void suite_add_up(const suite_rig *rig, const zero1__partial *partial) {
  zero1__walk walk = zero1__walk_begin(&rig->layout, partial->blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);)
    for (int64_t n = 0; n < segment.numel; ++n) {
      const int64_t at = (segment.block - partial->blocks.begin) * ZERO1__BLOCK + n;
      float sum = 0;
      for (int32_t k = 0; k < partial->sources.count; ++k)
        sum += suite_read(partial->sources.contributions[k], at, partial->sources.dtype);
      partial->out[at] = sum;
    }
}

static inline void suite_begin_chunk(suite_rig *rig, int64_t index, uint32_t epoch) {
  const zero1__chunk *const chunk = &rig->channel->chunks[index];
  for (int32_t i = 0; i < chunk->partial_count; ++i) {
    suite_check_sources(rig, &chunk->partials[i].sources, chunk->partials[i].blocks, epoch);
    suite_add_up(rig, &chunk->partials[i]);
  }
  suite_call(rig, rig->channel->ops->exchange_begin, index, epoch);
}

/* As the schedule does it: as many chunks under way as there are receive buffers, but one. */
static inline void suite_exchange(suite_rig *rig, int64_t bucket, uint32_t epoch) {
  const zero1__channel *const channel = rig->channel;
  const int64_t begin = channel->chunk_begin[bucket], end = channel->chunk_begin[bucket + 1];
  const int64_t ahead = channel->in_place ? 0 : channel->ring_count - 1;
  suite_call(rig, channel->ops->arrive, bucket, epoch);
  for (int64_t i = begin; i < end + ahead; ++i) {
    if (i < end) suite_begin_chunk(rig, i, epoch);
    if (i - ahead < begin) continue;
    suite_call(rig, channel->ops->exchange_end, i - ahead, epoch);
    const zero1__chunk *const chunk = &channel->chunks[i - ahead];
    suite_check_sources(rig, &chunk->sources, chunk->blocks, epoch);
  }
}

static inline void suite_contribute(suite_rig *rig, uint32_t epoch) {
  suite_write_grads(rig, epoch);
  for (int64_t bucket = 0; bucket < rig->layout.bucket_count; ++bucket) {
    suite_call(rig, rig->channel->ops->offer, bucket, epoch);
    if (bucket % 2) suite_call(rig, rig->channel->ops->offer, bucket, epoch); /* no harm */
  }
  for (int64_t bucket = 0; bucket < rig->layout.bucket_count; ++bucket)
    suite_exchange(rig, bucket, epoch);
}

/* ---- parameters ---- */

static inline void suite_check_params(const suite_rig *rig, zero1__range blocks, int round,
                                      int32_t rank) {
  zero1__walk walk = zero1__walk_begin(&rig->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);)
    for (int64_t i = segment.block * ZERO1__BLOCK, n = 0; n < segment.numel; ++i, ++n)
      CHECK(suite_read(rig->channel->params, i, rig->param_dtype) == suite_value(round, rank, i));
}

/* From the last bucket, as the schedule does it. */
static inline void suite_all_gather(suite_rig *rig, uint32_t epoch) {
  const zero1__channel *const channel = rig->channel;
  for (int64_t bucket = rig->layout.bucket_count - 1; bucket >= 0; --bucket) {
    const zero1__range own = zero1__layout_shard(&rig->layout, bucket, rig->comm->rank);
    zero1__walk walk = zero1__walk_begin(&rig->layout, own);
    for (zero1__segment segment; zero1__walk_next(&walk, &segment);)
      for (int64_t i = segment.block * ZERO1__BLOCK, n = 0; n < segment.numel; ++i, ++n)
        suite_write(channel->params, i, rig->param_dtype, suite_value((int)epoch + 50, 0, i));
    suite_call(rig, channel->ops->publish, bucket, epoch);
  }
  for (int64_t bucket = rig->layout.bucket_count - 1; bucket >= 0; --bucket) {
    suite_call(rig, channel->ops->all_gather, bucket, epoch);
    suite_check_params(rig, zero1__layout_bucket(&rig->layout, bucket), (int)epoch + 50, 0);
  }
}

/* Every parameter, frozen ones too. */
static inline void suite_fill_params(suite_rig *rig, int round, int32_t rank) {
  for (int64_t p = 0; p < rig->layout.param_count; ++p)
    for (int64_t i = rig->layout.place_begin[p] * ZERO1__BLOCK, n = 0; n < rig->layout.numel[p];
         ++i, ++n)
      suite_write(rig->channel->params, i, rig->param_dtype, suite_value(round, rank, i));
}

static inline void suite_broadcast(suite_rig *rig, int32_t root) {
  const zero1__channel *const channel = rig->channel;
  const int alone = channel->params_sharers == 1;
  zero1__error error = {0};
  suite_meet(rig->comm); /* shared memory: everyone has read what the last root wrote */
  if (alone || rig->comm->rank == root) suite_fill_params(rig, 100 + root, rig->comm->rank);
  CHECK_STATUS(channel->ops->broadcast(rig->channel, root, &error), ZERO1_OK);
  /* Private ones may be written again at once. */
  if (alone && rig->comm->rank == root) suite_fill_params(rig, 200, root);
  const int round = alone && rig->comm->rank == root ? 200 : 100 + root;
  for (int64_t p = 0; p < rig->layout.param_count; ++p)
    for (int64_t i = rig->layout.place_begin[p] * ZERO1__BLOCK, n = 0; n < rig->layout.numel[p];
         ++i, ++n)
      CHECK(suite_read(channel->params, i, rig->param_dtype) == suite_value(round, root, i));
  suite_meet(rig->comm);
}

/* ---- the channel's whole contract ---- */

static inline void suite_use(suite_rig *rig, uint32_t first_epoch, uint32_t epochs) {
  for (uint32_t i = 0, epoch = first_epoch; i < epochs; ++i, ++epoch) {
    suite_contribute(rig, epoch);
    suite_meet(rig->comm); /* the verdict: everyone has reduced, nobody reads parameters */
    suite_all_gather(rig, epoch);
  }
}

static inline void suite_channel(zero1_comm *comm, const suite_case *what, int32_t bf16_params,
                                 int32_t bf16_grads, int32_t share, int32_t reduce_group) {
  suite_rig rig = {.comm = comm,
                   .param_dtype = bf16_params ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32,
                   .grad_dtype = bf16_grads ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32,
                   .share_params = share,
                   .reduce_group = reduce_group};
  suite_open(&rig, what);
  suite_check_opened(&rig);
  if (reduce_group) CHECK_EQ(rig.channel->reduce_group, reduce_group);
  suite_meet(comm); /* everyone has seen its zeros */
  suite_use(&rig, 1, 3);
  for (int32_t root = 0; root < comm->world_size; ++root) suite_broadcast(&rig, root);
  suite_close(&rig);
}

static inline void suite_channels(zero1_comm *comm) {
  for (int i = 0; i < SUITE_CASE_COUNT; ++i)
    for (int32_t mix = 0; mix < 6; ++mix)
      suite_channel(comm, &SUITE_CASES[i], mix % 3 > 0, mix % 3 > 1, mix / 3, 0);
  suite_channel(comm, &SUITE_CASES[1], 0, 0, 0, comm->world_size);
  suite_channel(comm, &SUITE_CASES[1], 0, 1, 1, 1);
}

/* Two channels of one comm, used by turns, opened and closed in any order. */
static inline void suite_two_channels(zero1_comm *comm) {
  suite_rig a = {.comm = comm}, b = {.comm = comm, .share_params = 1};
  suite_open(&a, &SUITE_CASES[1]);
  suite_open(&b, &SUITE_CASES[0]);
  for (uint32_t epoch = 1; epoch <= 3; ++epoch) {
    suite_contribute(&a, epoch);
    suite_contribute(&b, epoch);
    suite_meet(comm);
    suite_all_gather(&b, epoch);
    suite_all_gather(&a, epoch);
  }
  suite_meet(comm);
  suite_close(&a);
  suite_contribute(&b, 4);
  suite_meet(comm);
  suite_close(&b);
}

static inline void suite_identity(zero1_comm *comm) {
  CHECK(zero1_comm_rank(comm) >= 0 && zero1_comm_rank(comm) < zero1_comm_world_size(comm));
  CHECK_EQ(zero1_comm_world_size(comm) % zero1_comm_ranks_per_node(comm), 0);
  CHECK(!strcmp(zero1_comm_last_error(comm), ""));
}

static inline void suite_run(zero1_comm *comm) {
  suite_identity(comm);
  suite_lanes(comm);
  suite_agreement(comm);
  suite_channels(comm);
  suite_two_channels(comm);
  suite_meet(comm);
}

/* ---- peers that do not come: not for messages of MPI, which can never be taken back ---- */

/* This rank needs rank 0 for it. */
static inline zero1_status suite_need_peers(suite_rig *rig, zero1__error *error) {
  const zero1__channel *const channel = rig->channel;
  zero1_status status = ZERO1_OK;
  if (channel->ops->offer) status = channel->ops->offer(rig->channel, 0, 1, error);
  if (!status && channel->ops->arrive) status = channel->ops->arrive(rig->channel, 0, 1, error);
  if (!status && channel->ops->exchange_begin)
    status = channel->ops->exchange_begin(rig->channel, 0, 1, error);
  if (!status && channel->ops->exchange_end)
    status = channel->ops->exchange_end(rig->channel, 0, 1, error);
  return status;
}

static inline void suite_abort(zero1_comm *comm) {
  suite_rig rig = {.comm = comm};
  zero1__lane *lane;
  zero1__error error = {0};
  unsigned char byte = 1, bytes[64];
  suite_open(&rig, &SUITE_CASES[1]);
  CHECK_STATUS(comm->ops->lane_open(comm, 10, &lane, &error), ZERO1_OK);
  if (comm->rank == 0) {
    suite_sleep_ms(30);
    zero1__fail(&error, ZERO1_ERR_DEVICE, "is tired");
    rig.channel->ops->abort(rig.channel, &error);
    comm->ops->lane_abort(lane, &error);
  } else {
    CHECK_STATUS(suite_need_peers(&rig, &error), ZERO1_ERR_DEVICE);
    CHECK(strstr(error.text, "rank 0") && strstr(error.text, "is tired"));
    zero1__error_clear(&error);
    CHECK_STATUS(comm->ops->lane_all_gather(lane, &byte, bytes, 1, &error), ZERO1_ERR_DEVICE);
    CHECK(strstr(error.text, "rank 0") && strstr(error.text, "is tired"));
  }
  suite_meet(comm); /* other lanes are not touched by it */
  comm->ops->lane_close(lane);
  suite_close(&rig);
}

static inline void suite_timeout(zero1_comm *comm) {
  suite_rig rig = {.comm = comm, .timeout_seconds = 0.1};
  zero1__lane *lane;
  zero1__error error = {0};
  unsigned char byte = 1, bytes[64];
  suite_open(&rig, &SUITE_CASES[1]);
  CHECK_STATUS(comm->ops->lane_open(comm, 0.1, &lane, &error), ZERO1_OK);
  if (comm->rank != 0) {
    CHECK_STATUS(suite_need_peers(&rig, &error), ZERO1_ERR_TIMEOUT);
    if (comm->world_size == 2) CHECK(strstr(error.text, "rank 0"));
    CHECK_STATUS(comm->ops->lane_all_gather(lane, &byte, bytes, 1, &error), ZERO1_ERR_TIMEOUT);
  }
  suite_meet(comm);
  comm->ops->lane_close(lane);
  suite_close(&rig);
  suite_meet(comm);
  suite_channel(comm, &SUITE_CASES[0], 0, 0, 0, 0); /* the comm is as good as before */
}

#endif
