/* Gradients and parameters over NCCL, enqueued in the streams of the caller's optimizer.
 *
 * Native: NCCL sums a bucket in place (ncclReduceScatter), in its own order and in the gradients'
 * data type; the device finds one contribution per bucket, its own slice. Ordered: every rank
 * sends every other rank its slice, chunk by chunk through a bounded ring (ncclSend, ncclRecv), and
 * the device sums them in rank order, in fp32.
 *
 * A sum hides whose value was not finite. Where the caller wants to know (find_culprit), every rank
 * looks for such values in its own gradients of a bucket before NCCL sums them: a partial sum of
 * one rank that is kept nowhere, for which the gradients are read once more.
 *
 * All-gathers of neighbouring small buckets are one group, which costs NCCL about as much as one of
 * them: they are due together, after the verdict. Sums are not grouped: a bucket is ready when
 * backward has come to it, and those that are so at once are parts of one parameter, thus as large
 * as buckets get; in a group, the first would be reduced no sooner than the last has come.
 *
 * Collectives run whatever the verdict, which only the device knows: after a step that was skipped
 * the all-gather moves parameters that are the same everywhere already. */
#include <stdlib.h>

#include "comm_nccl.h"
#include "nccl_memory.h"

/* Buckets, or chunks, that may be under way while one is being reduced. */
#define RING_COUNT 4
/* A group of all-gathers waits for all of its updates, and forward for all of the group: it ends
 * with the bucket that brings it to so many bytes of parameters, or buckets. */
#define GROUP_BYTES ((size_t)16 << 20)
#define GROUP_BUCKETS 4

typedef struct nccl_channel {
  zero1__channel base;
  zero1__nccl_link link;
  zero1__nccl_guard guard;
  zero1__nccl_user user;
  zero1__nccl_memory params, grads, ring;
  size_t piece_bytes;  /* of a chunk, from one rank */
  cudaStream_t stream; /* of what is not part of a step */
} nccl_channel;

static nccl_channel *self_of(zero1__channel *channel) {
  return (nccl_channel *)channel;
}

static zero1__nccl_comm *comm_of(const nccl_channel *self) {
  return (zero1__nccl_comm *)self->base.comm;
}

static int is_alone(const nccl_channel *self) {
  return self->base.comm->world_size == 1;
}

static size_t block_bytes(zero1__dtype dtype) {
  return ZERO1__BLOCK * zero1__dtype_bytes(dtype);
}

static size_t numel_of(zero1__range blocks) {
  return (size_t)(blocks.end - blocks.begin) * ZERO1__BLOCK;
}

static ncclDataType_t nccl_dtype(zero1__dtype dtype) {
  return dtype == ZERO1_DTYPE_FP32 ? ncclFloat32 : ncclBfloat16;
}

/* ---- collectives ---- */

static ncclResult_t sum_bucket(nccl_channel *self, const zero1__chunk *chunk, ncclComm_t nccl,
                               cudaStream_t stream) {
  const zero1__channel_config *config = &self->base.config;
  const zero1__range first = zero1__layout_shard(config->layout, chunk->bucket, 0);
  char *grads = self->grads.base;
  return zero1__nccl.ncclReduceScatter(
      grads + (size_t)first.begin * block_bytes(config->grad_dtype),
      grads + (size_t)chunk->blocks.begin * block_bytes(config->grad_dtype),
      numel_of(chunk->blocks), nccl_dtype(config->grad_dtype), ncclSum, nccl, stream);
}

/* The first failure counts; a group that was begun is ended. */
static ncclResult_t swap_chunk(nccl_channel *self, const zero1__chunk *chunk, ncclComm_t nccl,
                               cudaStream_t stream) {
  const zero1__channel_config *config = &self->base.config;
  const ncclDataType_t dtype = nccl_dtype(config->grad_dtype);
  const int32_t world = self->base.comm->world_size, rank = self->base.comm->rank;
  const size_t numel = numel_of(chunk->blocks);
  const char *grads = self->grads.base;
  ncclResult_t result = zero1__nccl.ncclGroupStart();
  if (result) return result;
  for (int32_t i = 1; i < world && !result; ++i) {
    const int32_t to = (rank + i) % world, from = (rank - i + world) % world;
    const int64_t theirs =
        zero1__layout_shard(config->layout, chunk->bucket, to).begin + chunk->part.begin;
    result = zero1__nccl.ncclSend(grads + (size_t)theirs * block_bytes(config->grad_dtype), numel,
                                  dtype, to, nccl, stream);
    if (!result)
      result = zero1__nccl.ncclRecv((void *)(uintptr_t)chunk->sources.contributions[from], numel,
                                    dtype, from, nccl, stream);
  }
  const ncclResult_t ended = zero1__nccl.ncclGroupEnd();
  return result ? result : ended;
}

static zero1_status exchange(nccl_channel *self, int64_t index, cudaStream_t stream,
                             zero1__error *error) {
  const zero1__chunk *chunk = &self->base.chunks[index];
  ncclComm_t nccl = zero1__nccl_enter(&self->link, error);
  if (!nccl) return error->status;
  if (comm_of(self)->ordered)
    return zero1__nccl_leave(&self->link, swap_chunk(self, chunk, nccl, stream),
                             "the exchange of gradients", error);
  return zero1__nccl_leave(&self->link, sum_bucket(self, chunk, nccl, stream),
                           "the sum of gradients", error);
}

static ncclResult_t gather_bucket(nccl_channel *self, int64_t bucket, ncclComm_t nccl,
                                  cudaStream_t stream) {
  const zero1__channel_config *config = &self->base.config;
  const zero1__range first = zero1__layout_shard(config->layout, bucket, 0);
  const zero1__range own = zero1__layout_shard(config->layout, bucket, self->base.comm->rank);
  const size_t each = block_bytes(config->param_dtype);
  char *params = self->params.base;
  return zero1__nccl.ncclAllGather(params + (size_t)own.begin * each,
                                   params + (size_t)first.begin * each, numel_of(own),
                                   nccl_dtype(config->param_dtype), nccl, stream);
}

/* The group that begins with this bucket; see swap_chunk. */
static ncclResult_t gather_group(nccl_channel *self, int64_t begin, ncclComm_t nccl,
                                 cudaStream_t stream) {
  ncclResult_t result = zero1__nccl.ncclGroupStart();
  if (result) return result;
  for (int64_t bucket = self->base.gather_end[begin]; bucket-- > begin && !result;)
    result = gather_bucket(self, bucket, nccl, stream);
  const ncclResult_t ended = zero1__nccl.ncclGroupEnd();
  return result ? result : ended;
}

static zero1_status gather(nccl_channel *self, int64_t bucket, cudaStream_t stream,
                           zero1__error *error) {
  ncclComm_t nccl = zero1__nccl_enter(&self->link, error);
  if (!nccl) return error->status;
  return zero1__nccl_leave(&self->link, gather_group(self, bucket, nccl, stream),
                           "the gather of parameters", error);
}

/* ---- the way of a gradient ---- */

static cudaStream_t native_stream(const nccl_channel *self) {
  zero1__device *device = self->base.config.device;
  return device->ops->native(device, self->base.stream);
}

zero1_status zero1__nccl_exchange_begin(zero1__channel *channel, int64_t chunk, uint32_t epoch,
                                        zero1__error *error) {
  nccl_channel *self = self_of(channel);
  (void)epoch;
  if (is_alone(self)) return ZERO1_OK;
  zero1__nccl_guard_enter(&self->guard, channel->stream, chunk);
  const zero1_status status = exchange(self, chunk, native_stream(self), error);
  if (!status) zero1__nccl_guard_leave(&self->guard, channel->stream, chunk);
  return status;
}

zero1_status zero1__nccl_all_gather(zero1__channel *channel, int64_t bucket, uint32_t epoch,
                                    zero1__error *error) {
  nccl_channel *self = self_of(channel);
  const int64_t place = channel->chunk_count + bucket;
  (void)epoch;
  if (is_alone(self)) return ZERO1_OK;
  zero1__nccl_guard_enter(&self->guard, channel->stream, place);
  const zero1_status status = gather(self, bucket, native_stream(self), error);
  if (!status) zero1__nccl_guard_leave(&self->guard, channel->stream, place);
  return status;
}

zero1_status zero1__nccl_broadcast(zero1__channel *channel, int32_t root, zero1__error *error) {
  nccl_channel *self = self_of(channel);
  zero1__device *device = channel->config.device;
  void *params = self->params.base;
  if (is_alone(self) || !params) return ZERO1_OK;
  ncclComm_t nccl = zero1__nccl_enter(&self->link, error);
  if (!nccl) return error->status;
  const ncclResult_t result = zero1__nccl.ncclBroadcast(params, params, self->params.bytes,
                                                        ncclUint8, root, nccl, self->stream);
  zero1_status status = zero1__nccl_leave(&self->link, result, "the root's parameters", error);
  if (!status)
    status = zero1__nccl_link_finish(&self->link, self->stream, "the root's parameters", error);
  return status ? status : device->ops->check(device, error);
}

/* What kernels wait for ends with the abort, and leaves anything behind: the step must know
 * before. */
void zero1__nccl_channel_abort(zero1__channel *channel, const zero1__error *why) {
  nccl_channel *self = self_of(channel);
  const int before = zero1__nccl_enter_device(comm_of(self));
  zero1__nccl_lose(channel->config.device, channel->config.step);
  zero1__nccl_users_abort(comm_of(self), channel->config.step, why);
  zero1__nccl_leave_device(before);
}

/* ---- opening and closing ---- */

void zero1__nccl_channel_close(zero1__channel *channel) {
  nccl_channel *self = self_of(channel);
  zero1__nccl_guard_stop(&self->guard);
  zero1__nccl_user_remove(comm_of(self), &self->user);
  const int before = zero1__nccl_enter_device(comm_of(self));
  zero1__nccl_memory *memories[] = {&self->params, &self->grads, &self->ring};
  for (int i = 0; i < 3 && self->link.world_size; ++i)
    zero1__nccl_memory_deregister(memories[i], &self->link);
  zero1__nccl_link_close(&self->link);
  if (self->stream) cudaStreamDestroy(self->stream);
  for (int i = 0; i < 3; ++i) zero1__nccl_memory_free(memories[i]);
  zero1__nccl_leave_device(before);
  zero1__channel_end(channel);
  free(self);
}

/* What NCCL's own sums cannot do, and what no kernel of a GPU can reach. */
static zero1_status check_config(const zero1__nccl_comm *comm, const zero1__channel_config *config,
                                 zero1__error *error) {
  if (config->device->is_host)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "a communicator of NCCL needs config.device to be CUDA");
  if (!comm->ordered && config->reduce_group && comm->base.world_size > 1)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "config.reduce_group is %d: NCCL's own sums have NCCL's order; "
                       "options.ordered has ours",
                       config->reduce_group);
  if (comm->base.world_size > 1 && config->grad_dtype == ZERO1__DTYPE_FP32_AS_BF16)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "config.grad_wire_dtype is bf16 and config.grad_dtype fp32: NCCL sends "
                       "gradients as they are in memory");
  if (comm->base.world_size > 1 && config->param_dtype == ZERO1__DTYPE_FP32_AS_BF16)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "config.param_wire_dtype is bf16 and config.param_dtype fp32: NCCL sends "
                       "parameters as they are in memory");
  return ZERO1_OK;
}

/* Blocks per shard and chunk so that RING_COUNT chunks of the peers' gradients fit the workspace.
 *
 * 4 ranks, fp32, 16 MiB: 16777216 / (4 * 3 * 1024) = 1365 blocks, unless a shard has less. */
static int64_t blocks_of_chunk(const zero1__nccl_comm *comm, const zero1__channel_config *config) {
  const zero1__layout *layout = config->layout;
  const int32_t peers = comm->base.world_size - 1;
  int64_t blocks = layout->bucket_blocks / layout->world_size;
  if (comm->ordered && peers) {
    const int64_t fit = comm->workspace_bytes /
                        (RING_COUNT * (int64_t)peers * (int64_t)block_bytes(config->grad_dtype));
    if (fit < blocks) blocks = fit;
  }
  return blocks < 1 ? 1 : blocks;
}

/* From the last bucket, as they are gathered.
 *
 * 7 buckets of 1 MiB: [3, 7), then [0, 3). 3 of 16 MiB: each its own. */
static zero1_status begin_groups(zero1__channel *channel, zero1__error *error) {
  const zero1__layout *layout = channel->config.layout;
  const size_t each = block_bytes(channel->config.param_dtype);
  channel->gather_end = calloc((size_t)layout->bucket_count + 1, sizeof *channel->gather_end);
  if (!channel->gather_end)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the groups of %lld buckets",
                       (long long)layout->bucket_count);
  int64_t end = layout->bucket_count;
  size_t bytes = 0;
  for (int64_t bucket = end - 1; bucket >= 0; --bucket) {
    const zero1__range blocks = zero1__layout_bucket(layout, bucket);
    bytes += (size_t)(blocks.end - blocks.begin) * each;
    const int complete = bucket == 0 || bytes >= GROUP_BYTES || end - bucket == GROUP_BUCKETS;
    channel->gather_end[bucket] = complete ? end : bucket;
    if (!complete) continue;
    end = bucket;
    bytes = 0;
  }
  return ZERO1_OK;
}

static zero1_status begin_tables(nccl_channel *self, zero1_comm *comm,
                                 const zero1__channel_config *config, zero1__error *error) {
  const zero1__nccl_comm *nccl = (zero1__nccl_comm *)comm;
  zero1__channel *channel = &self->base;
  const int sums = !nccl->ordered && comm->world_size > 1;
  const int64_t blocks = blocks_of_chunk(nccl, config);
  const int32_t looks = sums && config->find_culprit;
  zero1_status status = zero1__channel_begin(channel, comm, config, blocks,
                                             sums ? 1 : comm->world_size, looks, 1, error);
  if (!status) status = begin_groups(channel, error);
  channel->on_device = 1;
  channel->in_place = comm->world_size == 1;
  channel->ring_count = channel->in_place ? 0 : RING_COUNT;
  channel->reduce_group = config->reduce_group ? config->reduce_group : comm->world_size;
  channel->config.share_params = 0;
  channel->params_bytes = zero1__params_bytes(config);
  channel->grads_bytes = zero1__grads_bytes(config);
  self->piece_bytes = (size_t)blocks * block_bytes(config->grad_dtype);
  return status;
}

/* Contribution p of an ordered chunk: own gradients where they are, else the ring, which has no
 * place for them: of 4 ranks, rank 1 finds those of 0, 2, 3 at pieces 0, 1, 2. */
static const char *contribution(const nccl_channel *self, const zero1__chunk *chunk, int32_t p) {
  const int32_t peers = self->base.comm->world_size - 1, rank = self->base.comm->rank;
  const size_t at = (size_t)chunk->blocks.begin * block_bytes(self->base.config.grad_dtype);
  const size_t piece = (size_t)chunk->ring * (size_t)peers + (size_t)(p - (p > rank));
  if (p == rank || chunk->sources.count == 1) return (const char *)self->grads.base + at;
  return (const char *)self->ring.base + piece * self->piece_bytes;
}

static void point_to_sources(nccl_channel *self) {
  zero1__channel *channel = &self->base;
  const zero1__layout *layout = channel->config.layout;
  const zero1__dtype dtype = channel->config.grad_dtype;
  const int sums = !comm_of(self)->ordered && !is_alone(self);
  for (int64_t i = 0; i < channel->chunk_count; ++i) {
    zero1__chunk *chunk = &channel->chunks[i];
    const void **contributions = (const void **)chunk->sources.contributions;
    chunk->ring = channel->in_place ? 0 : (int32_t)(i % channel->ring_count);
    for (int32_t p = 0; p < chunk->sources.count; ++p)
      contributions[p] = contribution(self, chunk, p);
    chunk->sources.group = sums ? 1 : channel->reduce_group;
    chunk->sources.rank_begin = sums ? -1 : 0;
    chunk->sources.dtype = dtype;
    chunk->sources.round_groups = sums ? 0 : channel->config.round_groups;
    for (int32_t k = 0; k < chunk->partial_count; ++k) { /* the whole bucket, as this rank has it */
      zero1__partial *partial = &chunk->partials[k];
      partial->blocks = zero1__layout_bucket(layout, chunk->bucket);
      *(const void **)partial->sources.contributions =
          (const char *)self->grads.base + (size_t)partial->blocks.begin * block_bytes(dtype);
      partial->sources.group = 1;
      partial->sources.rank_begin = channel->comm->rank;
      partial->sources.dtype = dtype;
    }
  }
}

static zero1_status allocate(nccl_channel *self, zero1__error *error) {
  zero1__channel *channel = &self->base;
  const int32_t peers = comm_of(self)->ordered ? channel->comm->world_size - 1 : 0;
  const size_t ring_bytes =
      zero1__whole_pages((size_t)RING_COUNT * (size_t)peers * self->piece_bytes);
  const cudaError_t code = cudaStreamCreateWithFlags(&self->stream, cudaStreamNonBlocking);
  if (code) return zero1__nccl_cuda_fail(error, code, "a stream");
  zero1_status status =
      zero1__nccl_memory_alloc(&self->params, channel->params_bytes, self->stream, error);
  if (!status)
    status = zero1__nccl_memory_alloc(&self->grads, channel->grads_bytes, self->stream, error);
  if (!status) status = zero1__nccl_memory_alloc(&self->ring, ring_bytes, self->stream, error);
  channel->params = self->params.base;
  channel->grads = self->grads.base;
  channel->workspace_bytes += ring_bytes;
  if (status) return status;
  point_to_sources(self);
  return zero1__channel_show(channel, error);
}

static zero1_status register_memory(nccl_channel *self, zero1__error *error) {
  zero1__nccl_memory *memories[] = {&self->params, &self->grads, &self->ring};
  zero1_status status = ZERO1_OK;
  for (int i = 0; i < 3 && !status; ++i)
    status = zero1__nccl_memory_register(memories[i], &self->link, comm_of(self)->version, error);
  return status;
}

/* Every collective of a step once, of zeros: with the first of its size NCCL may connect ranks and
 * load kernels, neither of which goes well while a graph is captured or kernels wait. */
static zero1_status rehearse(nccl_channel *self, zero1__error *error) {
  zero1_status status = ZERO1_OK;
  if (!is_alone(self)) {
    for (int64_t i = 0; i < self->base.chunk_count && !status; ++i)
      status = exchange(self, i, self->stream, error);
    for (int64_t i = 0; i < self->base.config.layout->bucket_count && !status; ++i)
      if (self->base.gather_end[i] > i) status = gather(self, i, self->stream, error);
  }
  if (!status)
    status = zero1__nccl_link_finish(&self->link, self->stream, "the first collectives", error);
  if (status) zero1__nccl_link_abort(&self->link, error); /* or the stream would never end */
  return status;
}

static void fail(void *context, const zero1__error *error) {
  zero1__channel_fail(context, error);
}

static zero1_status guard(nccl_channel *self, zero1__error *error) {
  zero1__channel *channel = &self->base;
  const zero1__channel_config *config = &channel->config;
  self->user = (zero1__nccl_user){.step = config->step, .link = &self->link, .channel = channel};
  zero1__nccl_user_add(comm_of(self), &self->user);
  if (is_alone(self)) return ZERO1_OK;
  self->guard = (zero1__nccl_guard){.link = &self->link,
                                    .device = config->device,
                                    .step = config->step,
                                    .count = channel->chunk_count + config->layout->bucket_count,
                                    .timeout_seconds = config->timeout_seconds,
                                    .fail = fail,
                                    .context = channel};
  channel->workspace_bytes += zero1__nccl_guard_bytes(&self->guard);
  return zero1__nccl_guard_start(&self->guard, error);
}

/* All ranks take the same steps, and agree after each. */
static zero1_status open(nccl_channel *self, const zero1__channel_config *config,
                         zero1__error *error) {
  zero1__lane *lane = self->base.comm->lane;
  zero1_status status =
      zero1__nccl_link_open(comm_of(self), 0, config->timeout_seconds, &self->link, error);
  if (!status) status = zero1__lane_agree(lane, allocate(self, error), error);
  if (!status) status = zero1__lane_agree(lane, register_memory(self, error), error);
  if (!status) status = zero1__lane_agree(lane, rehearse(self, error), error);
  if (!status) status = zero1__lane_agree(lane, guard(self, error), error);
  return status;
}

zero1_status zero1__nccl_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                      zero1__channel **out, zero1__error *error) {
  const zero1__nccl_comm *nccl = (zero1__nccl_comm *)comm;
  *out = NULL;
  nccl_channel *self = NULL;
  zero1_status status = check_config(nccl, config, error);
  if (!status) {
    self = calloc(1, sizeof *self);
    status = self ? begin_tables(self, comm, config, error)
                  : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a channel");
  }
  status = zero1__lane_agree(comm->lane, status, error);
  if (!status) {
    const int before = zero1__nccl_enter_device(nccl);
    status = open(self, config, error);
    zero1__nccl_leave_device(before);
  }
  if (!status) {
    *out = &self->base;
  } else if (self) {
    zero1__nccl_channel_close(&self->base);
  }
  return status;
}
