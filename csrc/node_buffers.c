#include "node_buffers.h"

#include <stdlib.h>
#include <string.h>

zero1_status zero1__node_buffers_open(zero1__lane *lane, const zero1__node_shape *shape,
                                      const zero1__watch *watch,
                                      const zero1__channel_config *config,
                                      zero1__node_buffers *buffers, zero1__error *error) {
  const int64_t flags = 2 * config->layout->bucket_count + 1;
  zero1_status status = ZERO1_OK;
  buffers->config = *config;
  buffers->grads = calloc((size_t)shape->size, sizeof *buffers->grads);
  buffers->params = calloc((size_t)shape->size, sizeof *buffers->params);
  if (!buffers->grads || !buffers->params)
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a node of %d ranks", shape->size);
  status = zero1__lane_agree(lane, status, error);
  if (!status)
    status =
        zero1__node_open(lane, shape, watch, flags, config->timeout_seconds, &buffers->node, error);
  if (!status)
    status = zero1__mapping_share(lane, shape, zero1__offered_bytes(config), buffers->grads, error);
  if (!status) {
    const int owner = !config->share_params || buffers->node->rank == 0;
    status = zero1__mapping_share(lane, shape, owner ? zero1__params_bytes(config) : 0,
                                  buffers->params, error);
  }
  return status;
}

void zero1__node_buffers_close(zero1__node_buffers *buffers) {
  const int32_t size = buffers->node ? buffers->node->shape.size : 0;
  for (int32_t i = 0; i < size; ++i) {
    zero1__mapping_close(&buffers->grads[i]);
    zero1__mapping_close(&buffers->params[i]);
  }
  zero1__node_close(buffers->node);
  free(buffers->grads);
  free(buffers->params);
  memset(buffers, 0, sizeof *buffers);
}

void zero1__node_buffers_describe(const zero1__node_buffers *buffers, zero1__channel *channel) {
  const zero1__node *node = buffers->node;
  const zero1__channel_config *config = &buffers->config;
  const uint64_t params_bytes = zero1__params_bytes(config);
  const uint64_t sharers = config->share_params ? (uint64_t)node->shape.size : 1;
  channel->params = buffers->params[config->share_params ? 0 : node->rank].base;
  channel->grads = buffers->grads[node->rank].base;
  channel->params_sharers = (int32_t)sharers;
  channel->params_bytes = params_bytes / sharers;
  if (node->rank == 0) channel->params_bytes += params_bytes % sharers;
  channel->grads_bytes = zero1__grads_bytes(config);
  channel->workspace_bytes += node->mappings[node->rank].bytes;
}

void zero1__node_offer(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch) {
  zero1__node_post(buffers->node, bucket, epoch);
}

zero1_status zero1__node_arrive(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch,
                                zero1__error *error) {
  zero1_status status = ZERO1_OK;
  for (int32_t i = 0; i < buffers->node->shape.size && !status; ++i)
    status = zero1__node_wait(buffers->node, i, bucket, epoch, "its gradients", error);
  return status;
}

void zero1__node_publish(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch) {
  zero1__node_post(buffers->node, buffers->config.layout->bucket_count + bucket, epoch);
}

zero1_status zero1__node_await(zero1__node_buffers *buffers, int32_t peer, int64_t bucket,
                               uint32_t epoch, zero1__error *error) {
  return zero1__node_wait(buffers->node, peer, buffers->config.layout->bucket_count + bucket, epoch,
                          "its new parameters", error);
}

void zero1__node_pull(zero1__node_buffers *buffers, int32_t peer, zero1__range blocks) {
  if (buffers->config.share_params || peer == buffers->node->rank) return;
  const size_t each = zero1__dtype_bytes(buffers->config.param_dtype);
  const char *from = buffers->params[peer].base;
  char *to = buffers->params[buffers->node->rank].base;
  zero1__walk walk = zero1__walk_begin(buffers->config.layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    const size_t offset = (size_t)segment.block * ZERO1__BLOCK * each;
    memcpy(to + offset, from + offset, (size_t)segment.numel * each);
  }
}

zero1_status zero1__node_settle(zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch,
                                zero1__error *error) {
  const int64_t copied = 2 * buffers->config.layout->bucket_count;
  zero1_status status = ZERO1_OK;
  if (buffers->config.share_params || bucket > 0) return ZERO1_OK;
  zero1__node_post(buffers->node, copied, epoch);
  for (int32_t i = 0; i < buffers->node->shape.size && !status; ++i)
    status = zero1__node_wait(buffers->node, i, copied, epoch, "its copy of parameters", error);
  return status;
}

zero1_status zero1__node_broadcast(zero1__node_buffers *buffers, int32_t root,
                                   zero1__error *error) {
  zero1__node *node = buffers->node;
  zero1_status status = zero1__node_barrier(node, error); /* the root has written */
  if (status || buffers->config.share_params) return status;
  if (node->rank != root && zero1__params_bytes(&buffers->config))
    memcpy(buffers->params[node->rank].base, buffers->params[root].base,
           zero1__params_bytes(&buffers->config));
  return zero1__node_barrier(node, error); /* the root may write again */
}
