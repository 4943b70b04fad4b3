#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "comm_ops.h"
#include "struct_size.h"

/* ---- options ---- */

static void default_options(zero1_comm_options *options) {
  memset(options, 0, sizeof *options);
  options->size = sizeof *options;
  options->timeout_seconds = 600;
}

zero1_status zero1_comm_options_init(zero1_comm_options *options, size_t options_bytes) {
  zero1_comm_options defaults;
  default_options(&defaults);
  return zero1__struct_put(options, options_bytes, &defaults, sizeof defaults);
}

zero1_status zero1__comm_options_take(const zero1_comm_options *options, zero1_comm_options *taken,
                                      zero1__error *error) {
  default_options(taken);
  zero1_status status = ZERO1_OK;
  if (options)
    status = zero1__struct_get(options, options->size, taken, sizeof *taken, "zero1_comm_options",
                               error);
  if (status) return status;
  if (taken->ranks_per_node < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.ranks_per_node is %d, less than 0",
                       taken->ranks_per_node);
  if (taken->workspace_bytes < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.workspace_bytes is %lld, less than 0",
                       (long long)taken->workspace_bytes);
  if (!taken->workspace_bytes) taken->workspace_bytes = (int64_t)16 << 20;
  if (!(taken->timeout_seconds > 0) || !isfinite(taken->timeout_seconds))
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.timeout_seconds is %g, not above 0",
                       taken->timeout_seconds);
  return ZERO1_OK;
}

zero1_status zero1__create_done(const zero1_comm_options *options, zero1_status status,
                                const zero1__error *error) {
  if (options && options->size == sizeof *options && options->error_text && options->error_bytes)
    snprintf(options->error_text, options->error_bytes, "%s", status ? error->text : "");
  return status;
}

/* ---- queries ---- */

int32_t zero1_comm_rank(const zero1_comm *comm) {
  return comm ? comm->rank : -1;
}
int32_t zero1_comm_world_size(const zero1_comm *comm) {
  return comm ? comm->world_size : 0;
}
const char *zero1_comm_backend(const zero1_comm *comm) {
  return comm ? comm->ops->name : "";
}
int32_t zero1_comm_ranks_per_node(const zero1_comm *comm) {
  return comm ? comm->ranks_per_node : 0;
}
const char *zero1_comm_last_error(const zero1_comm *comm) {
  return comm ? comm->error.text : "";
}

zero1_status zero1_comm_barrier(zero1_comm *comm) {
  if (!comm) return ZERO1_ERR_INVALID;
  zero1__error_clear(&comm->error);
  return zero1__lane_agree(comm->lane, ZERO1_OK, &comm->error);
}

void zero1_comm_destroy(zero1_comm **comm) {
  if (!comm || !*comm) return;
  (*comm)->ops->destroy(*comm);
  *comm = NULL;
}

/* ---- agreement ---- */

zero1_status zero1__lane_begin(zero1__lane *lane, zero1_comm *comm, double timeout_seconds,
                               zero1__error *error) {
  lane->comm = comm;
  lane->timeout_seconds = timeout_seconds;
  lane->scratch = calloc((size_t)comm->world_size, sizeof *lane->scratch);
  if (!lane->scratch)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to agree over %d ranks",
                       comm->world_size);
  return ZERO1_OK;
}

void zero1__lane_end(zero1__lane *lane) {
  free(lane->scratch);
}

zero1_status zero1__lane_agree(zero1__lane *lane, zero1_status status, zero1__error *error) {
  const zero1_comm *comm = lane->comm;
  zero1__error mine;
  memset(&mine, 0, sizeof mine);
  if (status) {
    mine.status = status;
    snprintf(mine.text, sizeof mine.text, "%s", error->text);
  }
  /* Statuses first: the texts travel only where one of them is a failure. */
  int32_t *statuses = (int32_t *)lane->scratch;
  zero1_status result =
      comm->ops->lane_all_gather(lane, &mine.status, statuses, sizeof mine.status, error);
  if (result) return result;
  int32_t first = 0;
  while (first < comm->world_size && !statuses[first]) ++first;
  if (first == comm->world_size) return ZERO1_OK;
  result = statuses[first];
  zero1__error *texts = lane->scratch;
  const zero1_status told = comm->ops->lane_all_gather(lane, &mine, texts, sizeof mine, error);
  if (first == comm->rank) return result;
  zero1__error_clear(error); /* a failure of a later rank gives way: all ranks report the same */
  return zero1__fail(error, result, "rank %d: %.*s", first, ZERO1__ERROR_TEXT - 40,
                     told ? zero1_status_string(result) : texts[first].text);
}

/* ---- channels ---- */

size_t zero1__params_bytes(const zero1__channel_config *config) {
  return (size_t)config->layout->block_count * ZERO1__BLOCK *
         zero1__dtype_bytes(config->param_dtype);
}

size_t zero1__grads_bytes(const zero1__channel_config *config) {
  return (size_t)config->layout->trainable_blocks * ZERO1__BLOCK *
         zero1__dtype_bytes(config->grad_dtype);
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
  zero1__partial *all_partials = calloc(chunks * (size_t)partials + 1, sizeof *all_partials);
  const void **next = calloc(pointers, sizeof *next);
  struct {
    void *partials, *pointers;
  } *tables = calloc(1, sizeof *tables);
  channel->tables = tables;
  if (!tables || !channel->chunks || !channel->chunk_begin || !all_partials || !next) {
    free(all_partials);
    free(next);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the tables of %zu chunks", chunks);
  }
  tables->partials = all_partials;
  tables->pointers = next;
  channel->workspace_bytes += chunks * sizeof *channel->chunks +
                              chunks * (size_t)partials * sizeof *all_partials +
                              pointers * sizeof *next;
  fill_chunks(channel, chunk_blocks);
  for (size_t i = 0; i < chunks; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    chunk->sources.contributions = next;
    chunk->sources.count = sources;
    next += sources;
    chunk->partials = all_partials + i * (size_t)partials;
    chunk->partial_count = partials;
    for (int32_t p = 0; p < partials; ++p, next += partial_sources) {
      chunk->partials[p].sources.contributions = next;
      chunk->partials[p].sources.count = partial_sources;
    }
  }
  return ZERO1_OK;
}

void zero1__channel_end(zero1__channel *channel) {
  struct {
    void *partials, *pointers;
  } *tables = channel->tables;
  if (tables) {
    free(tables->partials);
    free(tables->pointers);
    free(tables);
  }
  free(channel->chunks);
  free(channel->chunk_begin);
  pthread_mutex_destroy(&channel->mutex);
}

void zero1__channel_fail(zero1__channel *channel, const zero1__error *error) {
  pthread_mutex_lock(&channel->mutex);
  if (!channel->failure.status) channel->failure = *error;
  pthread_mutex_unlock(&channel->mutex);
}

zero1_status zero1__channel_failure(zero1__channel *channel, zero1__error *error) {
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

static void call_task(void *context, const void *args) {
  zero1__channel *channel = context;
  const call_args *call = args;
  zero1__error error;
  if ((call->skip && *call->skip) || zero1__channel_failure(channel, NULL)) return;
  zero1__error_clear(&error);
  const int64_t begin_ns = zero1__now_ns();
  if (call->fn(channel, call->index, call->epoch, &error)) zero1__channel_fail(channel, &error);
  const int64_t elapsed_ns = zero1__now_ns() - begin_ns;
  if (call->fn == channel->ops->all_gather) {
    channel->gather_ns += elapsed_ns;
  } else if (call->fn != channel->ops->offer && call->fn != channel->ops->publish) {
    channel->exchange_ns += elapsed_ns; /* the others never wait, and run in other streams */
  }
}

void zero1__channel_call(zero1__channel *channel, zero1__stream *stream, zero1__channel_fn fn,
                         int64_t index, const int32_t *skip) {
  if (!fn) return;
  const call_args call = {fn, index, skip, channel->epoch};
  const zero1__device *device = channel->config.device;
  device->ops->host_call(channel->config.device, stream, call_task, channel, &call, sizeof call);
}
