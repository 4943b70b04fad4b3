#include "buffers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "zero1/checkpoint.h"

static size_t state_bytes(const zero1__layout *layout) {
  return zero1__whole_pages((size_t)zero1__layout_state_blocks(layout) * ZERO1__BLOCK *
                            sizeof(float));
}

/* Blocks of state before the first bucket that stays on the device. */
static int64_t host_blocks(const zero1__layout *layout, int64_t offloaded) {
  return offloaded < layout->bucket_count ? zero1__layout_state_begin(layout, offloaded)
                                          : zero1__layout_state_blocks(layout);
}

static size_t residual_bytes(const zero1__channel_config *config) {
  if (!config->int8) return 0;
  return zero1__whole_pages((size_t)config->layout->trainable_blocks * ZERO1__BLOCK *
                            sizeof(float));
}

zero1__plan zero1__buffers_plan(const zero1__channel_config *config, int32_t params_sharers,
                                int32_t grad_shard, int64_t offloaded) {
  const uint64_t state = state_bytes(config->layout);
  if (state > UINT64_MAX / 8) return (zero1__plan){UINT64_MAX, 0}; /* the sum might overflow */
  const uint64_t on_host =
      (uint64_t)host_blocks(config->layout, offloaded) * ZERO1__BLOCK * sizeof(float);
  const uint64_t separate = config->param_dtype != ZERO1_DTYPE_FP32;
  return (zero1__plan){.device = zero1__params_bytes(config) / (uint64_t)params_sharers +
                                 zero1__offered_bytes(config) + residual_bytes(config) +
                                 (grad_shard ? state : 0) + (2 + separate) * (state - on_host),
                       .offloaded = offloaded ? 3 * on_host : 0};
}

int64_t zero1__buffers_offloaded(const zero1__layout *layout, double offload) {
  const int64_t count = (int64_t)ceil(offload * (double)layout->bucket_count);
  return count < layout->bucket_count ? count : layout->bucket_count;
}

/* ---- sums ---- */

static void find_grad_shards(zero1__buffers *buffers) {
  const zero1__channel_config *config = &buffers->channel->config;
  for (int64_t bucket = 0; bucket < config->layout->bucket_count; ++bucket) {
    const int64_t begin =
        zero1__layout_shard(config->layout, bucket, buffers->channel->comm->rank).begin;
    if (buffers->grad_shard)
      buffers->grad_shards[bucket] =
          buffers->grad_shard + zero1__layout_state_begin(config->layout, bucket) * ZERO1__BLOCK;
    else if (config->grad_dtype != ZERO1_DTYPE_BF16)
      buffers->grad_shards[bucket] = zero1__buffers_grad(buffers, begin);
  }
}

static size_t grad_shards_bytes(const zero1__buffers *buffers) {
  return ((size_t)buffers->channel->config.layout->bucket_count + 1) * sizeof *buffers->grad_shards;
}

static zero1_status show_grad_shards(zero1__buffers *buffers, zero1__error *error) {
  zero1__device *device = buffers->channel->config.device;
  const size_t bytes = grad_shards_bytes(buffers);
  void *memory = buffers->grad_shards;
  if (!device->is_host) {
    const zero1_status status = device->ops->memory_alloc(device, bytes, &memory, error);
    if (status) return status;
    device->ops->transfer(device, memory, buffers->grad_shards, bytes);
  }
  buffers->visible_grad_shards = memory;
  return ZERO1_OK;
}

static zero1_status begin_grad_shards(zero1__buffers *buffers, int32_t needed,
                                      zero1__error *error) {
  zero1__device *device = buffers->channel->config.device;
  void *memory = NULL;
  zero1_status status = ZERO1_OK;
  buffers->grad_shards = calloc(1, grad_shards_bytes(buffers));
  if (!buffers->grad_shards) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for buckets");
  if (needed) {
    buffers->grad_shard_bytes = state_bytes(buffers->channel->config.layout);
    status = device->ops->memory_alloc(device, buffers->grad_shard_bytes, &memory, error);
    buffers->grad_shard = memory;
  }
  if (status) return status;
  find_grad_shards(buffers);
  return show_grad_shards(buffers, error);
}

/* ---- residual ---- */

static zero1_status begin_residual(zero1__buffers *buffers, zero1__error *error) {
  zero1__device *device = buffers->channel->config.device;
  void *memory = NULL;
  buffers->residual_bytes = residual_bytes(&buffers->channel->config);
  if (!buffers->residual_bytes) return ZERO1_OK;
  const zero1_status status =
      device->ops->memory_alloc(device, buffers->residual_bytes, &memory, error);
  buffers->residual = memory;
  return status;
}

/* ---- state ---- */

static zero1_status begin_state(zero1__buffers *buffers, zero1__state *state, int on_device,
                                zero1__error *error) {
  zero1__device *device = buffers->channel->config.device;
  void *memory = NULL;
  zero1_status status = ZERO1_OK;
  if (buffers->host_bytes) {
    status = buffers->host->ops->memory_alloc(buffers->host, buffers->host_bytes, &memory, error);
    state->host = memory;
  }
  if (status || !on_device) return status;
  status = device->ops->memory_alloc(device, buffers->device_bytes, &memory, error);
  state->device = memory;
  return status;
}

static void end_state(zero1__buffers *buffers, zero1__state *state) {
  zero1__device *device = buffers->channel->config.device;
  device->ops->memory_free(device, state->device, buffers->device_bytes);
  if (state->host) buffers->host->ops->memory_free(buffers->host, state->host, buffers->host_bytes);
}

zero1_status zero1__buffers_begin(zero1__buffers *buffers, zero1__channel *channel,
                                  int32_t grad_shard, zero1__device *host, int64_t offloaded,
                                  zero1__error *error) {
  const zero1__channel_config *config = &channel->config;
  memset(buffers, 0, sizeof *buffers);
  buffers->channel = channel;
  buffers->host = host;
  buffers->offloaded = offloaded;
  const int64_t on_host = host_blocks(config->layout, offloaded);
  const int64_t on_device = zero1__layout_state_blocks(config->layout) - on_host;
  buffers->host_bytes =
      offloaded ? zero1__whole_pages((size_t)on_host * ZERO1__BLOCK * sizeof(float)) : 0;
  buffers->device_bytes = zero1__whole_pages((size_t)on_device * ZERO1__BLOCK * sizeof(float));
  zero1_status status =
      begin_state(buffers, &buffers->master_param, config->param_dtype != ZERO1_DTYPE_FP32, error);
  if (!status) status = begin_state(buffers, &buffers->exp_avg, 1, error);
  if (!status) status = begin_state(buffers, &buffers->exp_avg_sq, 1, error);
  if (!status) status = begin_residual(buffers, error);
  return status ? status : begin_grad_shards(buffers, grad_shard, error);
}

void zero1__buffers_end(zero1__buffers *buffers) {
  if (!buffers->channel) return;
  zero1__device *device = buffers->channel->config.device;
  end_state(buffers, &buffers->master_param);
  end_state(buffers, &buffers->exp_avg);
  end_state(buffers, &buffers->exp_avg_sq);
  device->ops->memory_free(device, buffers->grad_shard, buffers->grad_shard_bytes);
  device->ops->memory_free(device, buffers->residual, buffers->residual_bytes);
  if (buffers->visible_grad_shards != buffers->grad_shards)
    device->ops->memory_free(device, buffers->visible_grad_shards, grad_shards_bytes(buffers));
  free(buffers->grad_shards);
  memset(buffers, 0, sizeof *buffers);
}

/* ---- where ---- */

float *zero1__buffers_state(const zero1__buffers *buffers, const zero1__state *state,
                            int64_t bucket) {
  const int64_t begin = zero1__layout_state_begin(buffers->channel->config.layout, bucket);
  if (bucket < buffers->offloaded) return state->host + begin * ZERO1__BLOCK;
  return state->device +
         (begin - host_blocks(buffers->channel->config.layout, buffers->offloaded)) * ZERO1__BLOCK;
}

float *zero1__buffers_master(const zero1__buffers *buffers, int64_t bucket) {
  const zero1__channel *channel = buffers->channel;
  if (bucket < buffers->offloaded || buffers->master_param.device)
    return zero1__buffers_state(buffers, &buffers->master_param, bucket);
  return zero1__buffers_param(
      buffers, zero1__layout_shard(channel->config.layout, bucket, channel->comm->rank).begin);
}

float *zero1__buffers_state_at(const zero1__buffers *buffers, int32_t which, int64_t block,
                               int32_t *on_host) {
  const zero1__channel *channel = buffers->channel;
  const zero1__layout *layout = channel->config.layout;
  const int64_t bucket = block / layout->bucket_blocks;
  const int64_t offset =
      (block - zero1__layout_shard(layout, bucket, channel->comm->rank).begin) * ZERO1__BLOCK;
  *on_host = channel->config.device->is_host || bucket < buffers->offloaded;
  if (which == ZERO1_STATE_MASTER_PARAM) return zero1__buffers_master(buffers, bucket) + offset;
  return offset + zero1__buffers_state(
                      buffers,
                      which == ZERO1_STATE_EXP_AVG ? &buffers->exp_avg : &buffers->exp_avg_sq,
                      bucket);
}

void *zero1__buffers_param(const zero1__buffers *buffers, int64_t block) {
  const size_t each = zero1__dtype_bytes(buffers->channel->config.param_dtype);
  return (char *)buffers->channel->params + (size_t)block * ZERO1__BLOCK * each;
}

void *zero1__buffers_grad(const zero1__buffers *buffers, int64_t block) {
  const size_t each = zero1__dtype_bytes(buffers->channel->config.grad_dtype);
  return (char *)buffers->channel->grads + (size_t)block * ZERO1__BLOCK * each;
}

zero1__update_job zero1__buffers_update_job(const zero1__buffers *buffers, int64_t bucket,
                                            zero1__range blocks) {
  const zero1__channel *channel = buffers->channel;
  const zero1__layout *layout = channel->config.layout;
  const int64_t offset =
      (blocks.begin - zero1__layout_shard(layout, bucket, channel->comm->rank).begin) *
      ZERO1__BLOCK;
  return (zero1__update_job){
      .layout = layout,
      .blocks = blocks,
      .master_param = zero1__buffers_master(buffers, bucket) + offset,
      .exp_avg = zero1__buffers_state(buffers, &buffers->exp_avg, bucket) + offset,
      .exp_avg_sq = zero1__buffers_state(buffers, &buffers->exp_avg_sq, bucket) + offset};
}

void zero1__buffers_memory(const zero1__buffers *buffers, zero1_memory *memory) {
  const zero1__channel *channel = buffers->channel;
  const zero1__layout *layout = channel->config.layout;
  const size_t param_each = zero1__dtype_bytes(channel->config.param_dtype);
  const size_t grad_each = zero1__dtype_bytes(channel->config.grad_dtype);
  memset(memory, 0, sizeof *memory);
  memory->params_bytes = channel->params_bytes;
  memory->grads_bytes = channel->grads_bytes;
  const uint64_t each = buffers->host_bytes + buffers->device_bytes;
  memory->grad_shard_bytes = buffers->grad_shard_bytes;
  memory->master_bytes =
      buffers->host_bytes + (buffers->master_param.device ? buffers->device_bytes : 0);
  memory->exp_avg_bytes = each;
  memory->exp_avg_sq_bytes = each;
  memory->workspace_bytes = channel->workspace_bytes;
  memory->residual_bytes = buffers->residual_bytes;
  uint64_t needed = (uint64_t)(layout->trainable_numel + layout->frozen_numel) * param_each /
                        (uint64_t)channel->params_sharers +
                    (uint64_t)layout->trainable_numel *
                        (grad_each + (buffers->residual ? sizeof *buffers->residual : 0));
  for (int64_t bucket = 0; bucket < layout->bucket_count; ++bucket) {
    const int64_t owned =
        zero1__layout_numel(layout, zero1__layout_shard(layout, bucket, channel->comm->rank));
    const int has_master = bucket < buffers->offloaded || buffers->master_param.device;
    const uint64_t arrays = 2u + (has_master != 0) + (buffers->grad_shard != NULL);
    needed += arrays * (uint64_t)owned * 4;
  }
  const uint64_t tensors = memory->params_bytes + memory->grads_bytes + memory->grad_shard_bytes +
                           memory->master_bytes + memory->exp_avg_bytes + memory->exp_avg_sq_bytes +
                           memory->residual_bytes;
  memory->padding_bytes = tensors > needed ? tensors - needed : 0;
  memory->total_bytes = tensors + memory->workspace_bytes;
}
