#include "buffers.h"

#include <stdlib.h>
#include <string.h>

static size_t state_bytes(const zero1__layout *layout) {
  return zero1__whole_pages((size_t)zero1__layout_state_blocks(layout) * ZERO1__BLOCK *
                            sizeof(float));
}

uint64_t zero1__buffers_plan(const zero1__channel_config *config, int32_t params_sharers,
                             int32_t grad_shard) {
  const uint64_t arrays = 2u + (config->param_dtype != ZERO1_DTYPE_FP32) + (grad_shard != 0);
  const uint64_t state = state_bytes(config->layout);
  if (state > UINT64_MAX / 8) return UINT64_MAX; /* the sum might overflow */
  return zero1__params_bytes(config) / (uint64_t)params_sharers + zero1__grads_bytes(config) +
         arrays * state;
}

static void find_grad_shards(zero1__buffers *buffers) {
  const zero1__channel_config *config = &buffers->channel->config;
  for (int64_t bucket = 0; bucket < config->layout->bucket_count; ++bucket) {
    const int64_t begin =
        zero1__layout_shard(config->layout, bucket, buffers->channel->comm->rank).begin;
    if (buffers->grad_shard)
      buffers->grad_shards[bucket] = zero1__buffers_state(buffers, buffers->grad_shard, bucket);
    else if (config->grad_dtype == ZERO1_DTYPE_FP32)
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

zero1_status zero1__buffers_begin(zero1__buffers *buffers, zero1__channel *channel,
                                  int32_t grad_shard, zero1__error *error) {
  const zero1__channel_config *config = &channel->config;
  zero1__device *device = config->device;
  const struct {
    float **array;
    int needed;
  } arrays[] = {
      {&buffers->master_param, config->param_dtype != ZERO1_DTYPE_FP32},
      {&buffers->exp_avg, 1},
      {&buffers->exp_avg_sq, 1},
      {&buffers->grad_shard, grad_shard},
  };
  memset(buffers, 0, sizeof *buffers);
  buffers->channel = channel;
  buffers->state_bytes = state_bytes(config->layout);
  buffers->grad_shards =
      calloc((size_t)config->layout->bucket_count + 1, sizeof *buffers->grad_shards);
  if (!buffers->grad_shards) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for buckets");
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; ++i) {
    void *memory;
    if (!arrays[i].needed) continue;
    const zero1_status status =
        device->ops->memory_alloc(device, buffers->state_bytes, &memory, error);
    if (status) return status;
    *arrays[i].array = memory;
  }
  find_grad_shards(buffers);
  return show_grad_shards(buffers, error);
}

void zero1__buffers_end(zero1__buffers *buffers) {
  if (!buffers->channel) return;
  zero1__device *device = buffers->channel->config.device;
  device->ops->memory_free(device, buffers->master_param, buffers->state_bytes);
  device->ops->memory_free(device, buffers->exp_avg, buffers->state_bytes);
  device->ops->memory_free(device, buffers->exp_avg_sq, buffers->state_bytes);
  device->ops->memory_free(device, buffers->grad_shard, buffers->state_bytes);
  if (buffers->visible_grad_shards != buffers->grad_shards)
    device->ops->memory_free(device, buffers->visible_grad_shards, grad_shards_bytes(buffers));
  free(buffers->grad_shards);
  memset(buffers, 0, sizeof *buffers);
}

float *zero1__buffers_state(const zero1__buffers *buffers, const float *array, int64_t bucket) {
  const int64_t begin = zero1__layout_state_begin(buffers->channel->config.layout, bucket);
  return (float *)(uintptr_t)array + begin * ZERO1__BLOCK;
}

float *zero1__buffers_master(const zero1__buffers *buffers, int64_t bucket) {
  const zero1__channel *channel = buffers->channel;
  if (buffers->master_param) return zero1__buffers_state(buffers, buffers->master_param, bucket);
  return zero1__buffers_param(
      buffers, zero1__layout_shard(channel->config.layout, bucket, channel->comm->rank).begin);
}

void *zero1__buffers_param(const zero1__buffers *buffers, int64_t block) {
  const size_t each = zero1__dtype_bytes(buffers->channel->config.param_dtype);
  return (char *)buffers->channel->params + (size_t)block * ZERO1__BLOCK * each;
}

void *zero1__buffers_grad(const zero1__buffers *buffers, int64_t block) {
  const size_t each = zero1__dtype_bytes(buffers->channel->config.grad_dtype);
  return (char *)buffers->channel->grads + (size_t)block * ZERO1__BLOCK * each;
}

void zero1__buffers_memory(const zero1__buffers *buffers, zero1_memory *memory) {
  const zero1__channel *channel = buffers->channel;
  const zero1__layout *layout = channel->config.layout;
  const size_t param_each = zero1__dtype_bytes(channel->config.param_dtype);
  const size_t grad_each = zero1__dtype_bytes(channel->config.grad_dtype);
  int64_t owned = 0;
  memset(memory, 0, sizeof *memory);
  memory->params_bytes = channel->params_bytes;
  memory->grads_bytes = channel->grads_bytes;
  memory->grad_shard_bytes = buffers->grad_shard ? buffers->state_bytes : 0;
  memory->master_bytes = buffers->master_param ? buffers->state_bytes : 0;
  memory->exp_avg_bytes = buffers->state_bytes;
  memory->exp_avg_sq_bytes = buffers->state_bytes;
  memory->workspace_bytes = channel->workspace_bytes;
  for (int64_t bucket = 0; bucket < layout->bucket_count; ++bucket)
    owned += zero1__layout_numel(layout, zero1__layout_shard(layout, bucket, channel->comm->rank));
  const uint64_t state_arrays =
      2u + (buffers->master_param != NULL) + (buffers->grad_shard != NULL);
  const uint64_t needed = (uint64_t)(layout->trainable_numel + layout->frozen_numel) * param_each /
                              (uint64_t)channel->params_sharers +
                          (uint64_t)layout->trainable_numel * grad_each +
                          state_arrays * (uint64_t)owned * 4;
  const uint64_t tensors = memory->params_bytes + memory->grads_bytes + memory->grad_shard_bytes +
                           memory->master_bytes + memory->exp_avg_bytes + memory->exp_avg_sq_bytes;
  memory->padding_bytes = tensors > needed ? tensors - needed : 0;
  memory->total_bytes = tensors + memory->workspace_bytes;
}
