#include "offload.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "rules.h"

#define RING 4
#define CHUNK_BLOCKS 1024 /* 1 MiB of fp32: long enough for a bus, short enough for a cache */

typedef struct slot {
  float *grads; /* [CHUNK_BLOCKS * ZERO1__BLOCK] pinned */
  void *params; /* the same of param_dtype */
  const void *sources[1];
  zero1__event *down, *worked, *freed;
} slot;

struct zero1__offload {
  zero1__offload_parts parts;
  zero1__stream *down, *work, *up;
  slot ring[RING];
  zero1__event **done; /* [offloaded + 1] ends with a NULL */
  int64_t next;        /* chunks so far: chunk c uses slot c % RING */
  void *pinned;
  size_t pinned_bytes;
  /* in pinned memory: copies of what the device has decided */
  zero1__verdict *verdict;
  zero1__adam_scalars *scalars;
  uint8_t *absent;
};

/* A run of blocks of one bucket's shard, as the worker gets it. */
typedef struct chunk {
  zero1__range blocks;
  int64_t bucket;
  int64_t offset; /* blocks from the begin of the shard */
  slot *slot;
} chunk;

_Static_assert(sizeof(chunk) <= ZERO1__HOST_ARGS, "a host call holds a chunk");

/* ---- life ---- */

static size_t rounded(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/* Hands out pinned memory in pieces; *next NULL: only counts. */
static void *take(char **next, size_t *total, size_t bytes) {
  void *piece = *next;
  if (*next) *next += rounded(bytes);
  *total += rounded(bytes);
  return piece;
}

static size_t divide(zero1__offload *offload, char *memory) {
  const zero1__offload_parts *parts = &offload->parts;
  const zero1__channel_config *config = &parts->channel->config;
  const size_t numel = (size_t)CHUNK_BLOCKS * ZERO1__BLOCK;
  size_t total = 0;
  for (int i = 0; i < RING; ++i) {
    offload->ring[i].grads = take(&memory, &total, numel * sizeof(float));
    offload->ring[i].params =
        take(&memory, &total, numel * zero1__dtype_bytes(config->param_dtype));
    offload->ring[i].sources[0] = offload->ring[i].grads;
  }
  offload->verdict = take(&memory, &total, sizeof *offload->verdict);
  offload->scalars = take(&memory, &total, (size_t)parts->group_count * sizeof *offload->scalars);
  offload->absent = take(&memory, &total, (size_t)config->layout->slot_count + 1);
  return total;
}

static zero1_status create_events(zero1__offload *offload, zero1__error *error) {
  zero1__device *device = offload->parts.device;
  const int64_t buckets = offload->parts.buffers->offloaded;
  zero1_status status = zero1__events_create(device, buckets, &offload->done, error);
  for (int i = 0; i < RING && !status; ++i) {
    status = device->ops->event_create(device, &offload->ring[i].down, error);
    if (!status) status = device->ops->event_create(device, &offload->ring[i].worked, error);
    if (!status) status = device->ops->event_create(device, &offload->ring[i].freed, error);
  }
  return status;
}

zero1_status zero1__offload_begin(const zero1__offload_parts *parts, zero1__offload **out,
                                  zero1__error *error) {
  zero1__device *device = parts->device;
  zero1__offload *offload = calloc(1, sizeof *offload);
  *out = offload;
  if (!offload) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to offload");
  offload->parts = *parts;
  offload->pinned_bytes = divide(offload, NULL);
  zero1_status status =
      device->ops->pinned_alloc(device, offload->pinned_bytes, &offload->pinned, error);
  if (!status) divide(offload, offload->pinned);
  if (!status)
    status = device->ops->stream_create(device, ZERO1__STREAM_KERNELS, &offload->down, error);
  if (!status)
    status = device->ops->stream_create(device, ZERO1__STREAM_HOST_CALLS, &offload->work, error);
  if (!status)
    status = device->ops->stream_create(device, ZERO1__STREAM_KERNELS, &offload->up, error);
  return status ? status : create_events(offload, error);
}

void zero1__offload_end(zero1__offload *offload) {
  if (!offload) return;
  zero1__device *device = offload->parts.device;
  device->ops->stream_destroy(device, offload->down);
  device->ops->stream_destroy(device, offload->work);
  device->ops->stream_destroy(device, offload->up);
  zero1__events_destroy(device, offload->done);
  for (int i = 0; i < RING; ++i) {
    device->ops->event_destroy(device, offload->ring[i].down);
    device->ops->event_destroy(device, offload->ring[i].worked);
    device->ops->event_destroy(device, offload->ring[i].freed);
  }
  device->ops->pinned_free(device, offload->pinned, offload->pinned_bytes);
  free(offload);
}

uint64_t zero1__offload_bytes(const zero1__offload *offload) {
  return offload ? offload->pinned_bytes : 0;
}

/* ---- the worker's part ---- */

static float *state_at(const zero1__buffers *buffers, const zero1__state *state, const chunk *c) {
  return zero1__buffers_state(buffers, state, c->bucket) + c->offset * ZERO1__BLOCK;
}

/* The parameters of a whole chunk, also of a step that was skipped: then they are what the device
 * has already, for a parameter is always its master, rounded. */
static void round_params(const zero1__offload *offload, const chunk *c) {
  const zero1__buffers *buffers = offload->parts.buffers;
  const float *master = state_at(buffers, &buffers->master_param, c);
  const int64_t numel = (c->blocks.end - c->blocks.begin) * ZERO1__BLOCK;
  uint16_t *bf16 = c->slot->params;
  float *fp32 = c->slot->params;
  switch (offload->parts.channel->config.param_dtype) {
    case ZERO1_DTYPE_FP32:
      memcpy(c->slot->params, master, (size_t)numel * sizeof *master);
      break;
    case ZERO1_DTYPE_BF16:
      for (int64_t e = 0; e < numel; ++e) bf16[e] = zero1__fp32_to_bf16(master[e]);
      break;
    case ZERO1__DTYPE_FP32_AS_BF16:
      for (int64_t e = 0; e < numel; ++e) fp32[e] = zero1__round_to_bf16(master[e]);
      break;
    default:
      assert(!"a master is rounded to every data type");
  }
}

/* Who waits for a device that has failed comes too early: the copies may still be under way. */
static void work_on(void *context, const void *args) {
  const zero1__offload *offload = context;
  const zero1__buffers *buffers = offload->parts.buffers;
  zero1__device *host = offload->parts.host, *device = offload->parts.device;
  chunk c;
  if (device->ops->check(device, NULL)) return;
  memcpy(&c, args, sizeof c);
  zero1__update_job job = zero1__buffers_update_job(buffers, c.bucket, c.blocks);
  job.sources = (zero1__sources){.contributions = c.slot->sources,
                                 .visible = c.slot->sources,
                                 .count = 1,
                                 .group = 1,
                                 .dtype = ZERO1_DTYPE_FP32};
  job.verdict = offload->verdict;
  job.groups = offload->scalars;
  job.absent = offload->absent;
  job.param_dtype = ZERO1_DTYPE_FP32; /* its own master: parameters are rounded below */
  host->ops->update(host, host->ops->stream_of_caller(host, ZERO1_STREAM_DEFAULT, NULL), &job,
                    NULL);
  round_params(offload, &c);
}

/* ---- the way down, through the worker, and up ---- */

static chunk chunk_at(zero1__offload *offload, int64_t bucket, int64_t offset) {
  const zero1__channel *channel = offload->parts.channel;
  const zero1__range shard =
      zero1__layout_shard(channel->config.layout, bucket, channel->comm->rank);
  const int64_t end = shard.begin + offset + CHUNK_BLOCKS;
  return (chunk){.blocks = {shard.begin + offset, end < shard.end ? end : shard.end},
                 .bucket = bucket,
                 .offset = offset,
                 .slot = &offload->ring[offload->next++ % RING]};
}

static size_t param_bytes(const zero1__offload *offload, const chunk *c) {
  return (size_t)(c->blocks.end - c->blocks.begin) * ZERO1__BLOCK *
         zero1__dtype_bytes(offload->parts.channel->config.param_dtype);
}

static void enqueue_chunk(zero1__offload *offload, const chunk *c) {
  zero1__device *device = offload->parts.device;
  const zero1__buffers *buffers = offload->parts.buffers;
  const float *grads = (const float *)buffers->grad_shards[c->bucket] + c->offset * ZERO1__BLOCK;
  const size_t grad_bytes =
      (size_t)(c->blocks.end - c->blocks.begin) * ZERO1__BLOCK * sizeof *grads;
  device->ops->stream_wait(device, offload->down, c->slot->freed);
  device->ops->copy(device, offload->down, c->slot->grads, grads, grad_bytes);
  device->ops->event_record(device, c->slot->down, offload->down);
  device->ops->stream_wait(device, offload->work, c->slot->down);
  device->ops->host_call(device, offload->work, work_on, offload, c, sizeof *c);
  device->ops->event_record(device, c->slot->worked, offload->work);
  device->ops->stream_wait(device, offload->up, c->slot->worked);
  device->ops->copy(device, offload->up, zero1__buffers_param(buffers, c->blocks.begin),
                    c->slot->params, param_bytes(offload, c));
  device->ops->event_record(device, c->slot->freed, offload->up);
}

static int64_t shard_blocks(const zero1__offload *offload, int64_t bucket) {
  const zero1__range shard = zero1__layout_shard(offload->parts.channel->config.layout, bucket, 0);
  return shard.end - shard.begin;
}

void zero1__offload_update(zero1__offload *offload, zero1__event *agreed, zero1__hold *hold) {
  const zero1__offload_parts *parts = &offload->parts;
  zero1__device *device = parts->device;
  device->ops->stream_wait(device, offload->down, agreed);
  device->ops->copy(device, offload->down, offload->verdict, &parts->step->verdict,
                    sizeof *offload->verdict);
  device->ops->copy(device, offload->down, offload->scalars, parts->scalars,
                    (size_t)parts->group_count * sizeof *offload->scalars);
  device->ops->copy(device, offload->down, offload->absent, parts->absent,
                    (size_t)parts->channel->config.layout->slot_count);
  for (int64_t bucket = parts->buffers->offloaded - 1; bucket >= 0; --bucket) {
    const int64_t blocks = shard_blocks(offload, bucket);
    zero1__hold_wait(hold, offload->down, bucket);
    for (int64_t offset = 0; offset < blocks; offset += CHUNK_BLOCKS) {
      const chunk c = chunk_at(offload, bucket, offset);
      enqueue_chunk(offload, &c);
    }
    device->ops->event_record(device, offload->done[bucket], offload->up);
  }
}

void zero1__offload_join(zero1__offload *offload, zero1__stream *stream, int64_t bucket) {
  zero1__device *device = offload->parts.device;
  device->ops->stream_wait(device, stream, offload->done[bucket]);
}

/* ---- masters ---- */

static void set_chunk_masters(zero1__offload *offload, const chunk *c, int32_t keep) {
  const zero1__offload_parts *parts = &offload->parts;
  const zero1__buffers *buffers = parts->buffers;
  float *master = state_at(buffers, &buffers->master_param, c);
  const zero1__master_job job = {.layout = parts->channel->config.layout,
                                 .blocks = c->blocks,
                                 .param = c->slot->params,
                                 .param_dtype = parts->channel->config.param_dtype,
                                 .master_param = master,
                                 .keep = keep};
  parts->device->ops->transfer(parts->device, c->slot->params,
                               zero1__buffers_param(buffers, c->blocks.begin),
                               param_bytes(offload, c));
  if (job.param_dtype == ZERO1_DTYPE_FP32)
    memcpy(master, c->slot->params, param_bytes(offload, c));
  else
    parts->host->ops->master(
        parts->host, parts->host->ops->stream_of_caller(parts->host, ZERO1_STREAM_DEFAULT, NULL),
        &job);
}

void zero1__offload_set_masters(zero1__offload *offload, int32_t keep) {
  for (int64_t bucket = 0; bucket < offload->parts.buffers->offloaded; ++bucket) {
    const int64_t blocks = shard_blocks(offload, bucket);
    for (int64_t offset = 0; offset < blocks; offset += CHUNK_BLOCKS) {
      const chunk c = chunk_at(offload, bucket, offset);
      set_chunk_masters(offload, &c, keep);
    }
  }
}
