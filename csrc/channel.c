/* What every channel has: its tables of chunks, its calls in streams, and its first failure. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "comm_ops.h"

size_t zero1__whole_pages(size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page;
}

size_t zero1__params_bytes(const zero1__channel_config *config) {
  return zero1__whole_pages((size_t)config->layout->block_count * ZERO1__BLOCK *
                            zero1__dtype_bytes(config->param_dtype));
}

size_t zero1__grads_bytes(const zero1__channel_config *config) {
  return zero1__whole_pages((size_t)config->layout->trainable_blocks * ZERO1__BLOCK *
                            zero1__dtype_bytes(config->grad_dtype));
}

size_t zero1__offered_bytes(const zero1__channel_config *config) {
  const size_t codes = (size_t)config->layout->trainable_blocks * sizeof(zero1__int8_block);
  return zero1__grads_bytes(config) + (config->int8 ? zero1__whole_pages(codes) : 0);
}

zero1__dtype zero1__offered_dtype(const zero1__channel_config *config) {
  return config->int8 ? ZERO1__DTYPE_INT8_BLOCKS : config->grad_dtype;
}

const void *zero1__offered_block(const zero1__channel_config *config, const void *grads,
                                 int64_t block) {
  const size_t begin = config->int8 ? zero1__grads_bytes(config) : 0;
  return (const char *)grads + begin +
         (size_t)block * zero1__source_block_bytes(zero1__offered_dtype(config));
}

zero1__int8_block *zero1__channel_codes(const zero1__channel *channel, int64_t block) {
  return (zero1__int8_block *)(uintptr_t)zero1__offered_block(&channel->config, channel->grads,
                                                              block);
}

static int64_t shard_blocks(const zero1__layout *layout, int64_t bucket) {
  const zero1__range shard = zero1__layout_shard(layout, bucket, 0);
  return shard.end - shard.begin;
}

static void fill_chunks(zero1__channel *channel, int64_t chunk_blocks) {
  const zero1__layout *layout = channel->config.layout;
  int64_t index = 0;
  for (int64_t bucket = 0; bucket < layout->bucket_count; ++bucket) {
    const zero1__range own = zero1__layout_shard(layout, bucket, channel->comm->rank);
    const int64_t count = own.end - own.begin;
    channel->chunk_begin[bucket] = index;
    for (int64_t begin = 0; begin < count; begin += chunk_blocks) {
      const int64_t end = begin + chunk_blocks < count ? begin + chunk_blocks : count;
      zero1__chunk *chunk = &channel->chunks[index];
      chunk->bucket = bucket;
      chunk->part = (zero1__range){begin, end};
      chunk->blocks = (zero1__range){own.begin + begin, own.begin + end};
      ++index;
    }
  }
  channel->chunk_begin[layout->bucket_count] = index;
}

static void hand_out_tables(zero1__channel *channel, int32_t sources, int32_t partials,
                            int32_t partial_sources) {
  const void **next = channel->pointers;
  for (int64_t i = 0; i < channel->chunk_count; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    chunk->sources.contributions = next;
    chunk->sources.count = sources;
    next += sources;
    chunk->partials = channel->partials + i * partials;
    chunk->partial_count = partials;
    for (int32_t p = 0; p < partials; ++p, next += partial_sources) {
      chunk->partials[p].sources.contributions = next;
      chunk->partials[p].sources.count = partial_sources;
    }
  }
}

zero1_status zero1__channel_begin(zero1__channel *channel, zero1_comm *comm,
                                  const zero1__channel_config *config, int64_t chunk_blocks,
                                  int32_t sources, int32_t partials, int32_t partial_sources,
                                  zero1__error *error) {
  const zero1__layout *layout = config->layout;
  channel->comm = comm;
  channel->ops = comm->ops;
  channel->config = *config;
  channel->params_sharers = 1;
  pthread_mutex_init(&channel->mutex, NULL);
  for (int64_t bucket = 0; bucket < layout->bucket_count; ++bucket)
    channel->chunk_count += (shard_blocks(layout, bucket) + chunk_blocks - 1) / chunk_blocks;
  const size_t chunks = (size_t)channel->chunk_count;
  const size_t pointers =
      chunks * ((size_t)sources + (size_t)partials * (size_t)partial_sources) + 1;
  channel->chunks = calloc(chunks + 1, sizeof *channel->chunks);
  channel->chunk_begin = calloc((size_t)layout->bucket_count + 1, sizeof *channel->chunk_begin);
  channel->partials = calloc(chunks * (size_t)partials + 1, sizeof *channel->partials);
  channel->pointers = calloc(pointers, sizeof *channel->pointers);
  channel->pointers_bytes = pointers * sizeof *channel->pointers;
  channel->times = calloc((size_t)layout->bucket_count + 1, sizeof *channel->times);
  if (!channel->chunks || !channel->chunk_begin || !channel->partials || !channel->pointers ||
      !channel->times)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the tables of %zu chunks", chunks);
  channel->workspace_bytes +=
      chunks * sizeof *channel->chunks + chunks * (size_t)partials * sizeof *channel->partials +
      pointers * sizeof *channel->pointers + (size_t)layout->bucket_count * sizeof *channel->times;
  channel->workspace_bytes += zero1__offered_bytes(config) - zero1__grads_bytes(config);
  fill_chunks(channel, chunk_blocks);
  hand_out_tables(channel, sources, partials, partial_sources);
  return ZERO1_OK;
}

void zero1__channel_point(zero1__channel *channel, int32_t rank, const void *grads) {
  for (int64_t i = 0; i < channel->chunk_count; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    const void **contributions = (const void **)chunk->sources.contributions;
    contributions[rank] = zero1__offered_block(&channel->config, grads, chunk->blocks.begin);
    chunk->sources.group = channel->reduce_group;
    chunk->sources.dtype = zero1__offered_dtype(&channel->config);
    chunk->sources.round_groups = channel->config.round_groups;
  }
}

/* The same place in the table that kernels see. */
static void show_sources(const zero1__channel *channel, zero1__sources *sources) {
  sources->visible = channel->visible_pointers
                         ? channel->visible_pointers + (sources->contributions - channel->pointers)
                         : sources->contributions;
}

zero1_status zero1__channel_show(zero1__channel *channel, zero1__error *error) {
  zero1__device *device = channel->config.device;
  if (!device->is_host) {
    void *memory;
    const zero1_status status =
        device->ops->memory_alloc(device, channel->pointers_bytes, &memory, error);
    if (status) return status;
    channel->visible_pointers = memory;
    channel->workspace_bytes += channel->pointers_bytes;
    device->ops->transfer(device, memory, channel->pointers, channel->pointers_bytes);
  }
  for (int64_t i = 0; i < channel->chunk_count; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    show_sources(channel, &chunk->sources);
    for (int32_t k = 0; k < chunk->partial_count; ++k)
      show_sources(channel, &chunk->partials[k].sources);
  }
  return ZERO1_OK;
}

void zero1__channel_end(zero1__channel *channel) {
  zero1__device *device = channel->config.device;
  if (channel->visible_pointers)
    device->ops->memory_free(device, channel->visible_pointers, channel->pointers_bytes);
  free(channel->partials);
  free(channel->pointers);
  free(channel->chunks);
  free(channel->chunk_begin);
  free(channel->gather_end);
  free(channel->times);
  pthread_mutex_destroy(&channel->mutex);
}

void zero1__channel_fail(zero1__channel *channel, const zero1__error *error) {
  pthread_mutex_lock(&channel->mutex);
  const int first = !channel->failure.status;
  if (first) channel->failure = *error;
  __atomic_store_n(&channel->lost, 1, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&channel->mutex);
  if (!first) return;
  channel->ops->abort(channel, error);
  pthread_mutex_lock(&channel->mutex);
  for (size_t i = 0; i < sizeof channel->lanes / sizeof *channel->lanes; ++i)
    if (channel->lanes[i]) channel->lanes[i]->comm->ops->lane_abort(channel->lanes[i], error);
  pthread_mutex_unlock(&channel->mutex);
}

void zero1__channel_set_lanes(zero1__channel *channel, zero1__lane *lane, zero1__lane *wider) {
  pthread_mutex_lock(&channel->mutex);
  channel->lanes[0] = lane;
  channel->lanes[1] = wider;
  pthread_mutex_unlock(&channel->mutex);
}

zero1_status zero1__channel_failure(zero1__channel *channel, zero1__error *error) {
  if (!__atomic_load_n(&channel->lost, __ATOMIC_ACQUIRE)) return ZERO1_OK;
  pthread_mutex_lock(&channel->mutex);
  const zero1_status status = channel->failure.status;
  if (status && error) *error = channel->failure;
  pthread_mutex_unlock(&channel->mutex);
  return status;
}

typedef struct call_args {
  zero1__channel_fn fn;
  int64_t index;
  const int32_t *skip;
  uint32_t epoch;
} call_args;

/* Where the time of a call counts; NULL: it never waits. */
static int64_t *counter_of(zero1__channel *channel, zero1__channel_fn fn) {
  if (fn == channel->ops->all_gather) return &channel->gather_ns;
  if (fn == channel->ops->offer || fn == channel->ops->publish) return NULL;
  return &channel->exchange_ns;
}

void zero1__channel_open_step(zero1__channel *channel) {
  channel->exchange_ns = channel->gather_ns = channel->sent_bytes = 0;
  memset(channel->times, 0, (size_t)channel->config.layout->bucket_count * sizeof *channel->times);
}

static void note_times(zero1__channel *channel, const call_args *call, int64_t begin_ns,
                       int64_t end_ns) {
  if (call->fn == channel->ops->all_gather) {
    const int64_t end = zero1__channel_gather_end(channel, call->index);
    for (int64_t bucket = call->index; bucket < end; ++bucket) {
      channel->times[bucket].gather_begin_ns = begin_ns;
      channel->times[bucket].gather_end_ns = end_ns;
    }
  } else { /* arrive, and those of its chunks */
    zero1__bucket_times *times =
        &channel->times[call->fn == channel->ops->arrive ? call->index
                                                         : channel->chunks[call->index].bucket];
    if (!times->exchange_begin_ns) times->exchange_begin_ns = begin_ns;
    times->exchange_end_ns = end_ns;
  }
}

static void call_task(void *context, const void *args) {
  zero1__channel *channel = context;
  const call_args *call = args;
  int64_t *counter = counter_of(channel, call->fn);
  zero1__error error;
  if ((call->skip && *call->skip) || zero1__channel_failure(channel, NULL)) return;
  zero1__error_clear(&error);
  const int64_t begin_ns = zero1__now_ns();
  if (call->fn(channel, call->index, call->epoch, &error)) zero1__channel_fail(channel, &error);
  if (!counter) return;
  const int64_t end_ns = zero1__now_ns();
  *counter += end_ns - begin_ns;
  note_times(channel, call, begin_ns, end_ns);
}

static void call_on_device(zero1__channel *channel, zero1__stream *stream, zero1__channel_fn fn,
                           int64_t index) {
  zero1__device *device = channel->config.device;
  int64_t *counter = counter_of(channel, fn);
  zero1__error error;
  if (zero1__channel_failure(channel, NULL)) return;
  zero1__error_clear(&error);
  channel->stream = stream;
  if (counter) device->ops->time_begin(device, stream, counter);
  if (fn(channel, index, channel->epoch, &error)) zero1__channel_fail(channel, &error);
  if (counter) device->ops->time_end(device, stream);
}

void zero1__channel_call(zero1__channel *channel, zero1__stream *stream, zero1__channel_fn fn,
                         int64_t index, const int32_t *skip) {
  if (!fn) return;
  if (channel->on_device) {
    call_on_device(channel, stream, fn, index);
    return;
  }
  const call_args call = {fn, index, skip, channel->epoch};
  zero1__device *device = channel->config.device;
  device->ops->host_call(device, stream, call_task, channel, &call, sizeof call);
}
