/* Small all-gathers of the host over NCCL: through a few bytes of the GPU, in a stream of their
 * own. */
#include <stdlib.h>
#include <string.h>

#include "comm_nccl.h"

/* What travels at once: a labelled message (comm.c). */
#define LANE_BYTES ((size_t)1024)
/* Blocks of the GPU that a lane may take. */
#define LANE_CTAS 1

typedef struct nccl_lane {
  zero1__lane base;
  zero1__nccl_link *link; /* own, or the comm's */
  zero1__nccl_link own;
  cudaStream_t stream;
  char *host, *device; /* [(1 + world_size) * LANE_BYTES] this rank's bytes, then everyone's */
} nccl_lane;

static zero1__nccl_comm *comm_of(const nccl_lane *lane) {
  return (zero1__nccl_comm *)lane->base.comm;
}

/* The stream may hold a collective that never ends where its link was not aborted in time: what
 * it uses is freed after the link. */
void zero1__nccl_lane_close(zero1__lane *base) {
  nccl_lane *lane = (nccl_lane *)base;
  const int before = zero1__nccl_enter_device(comm_of(lane));
  if (lane->link == &lane->own) zero1__nccl_link_close(&lane->own);
  if (lane->stream) cudaStreamDestroy(lane->stream);
  cudaFree(lane->device);
  cudaFreeHost(lane->host);
  zero1__nccl_leave_device(before);
  zero1__lane_end(base);
  free(lane);
}

static zero1_status furnish(nccl_lane *lane, zero1__error *error) {
  const size_t bytes = (size_t)(1 + lane->base.comm->world_size) * LANE_BYTES;
  cudaError_t code = cudaMallocHost((void **)&lane->host, bytes);
  if (!code) code = cudaMalloc((void **)&lane->device, bytes);
  if (!code) code = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
  return code ? zero1__nccl_cuda_fail(error, code, "a lane") : ZERO1_OK;
}

zero1__lane *zero1__nccl_lane_alloc(zero1__nccl_comm *comm, zero1__nccl_link *link,
                                    double timeout_seconds, zero1__error *error) {
  nccl_lane *lane = calloc(1, sizeof *lane);
  if (!lane) {
    zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a lane");
    return NULL;
  }
  lane->link = link ? link : &lane->own;
  const int before = zero1__nccl_enter_device(comm);
  zero1_status status = zero1__lane_begin(&lane->base, &comm->base, timeout_seconds, error);
  if (!status) status = furnish(lane, error);
  zero1__nccl_leave_device(before);
  if (!status) return &lane->base;
  zero1__nccl_lane_close(&lane->base);
  return NULL;
}

zero1_status zero1__nccl_lane_open(zero1_comm *comm, double timeout_seconds, zero1__lane **out,
                                   zero1__error *error) {
  zero1__nccl_comm *self = (zero1__nccl_comm *)comm;
  *out = NULL;
  zero1__lane *lane = zero1__nccl_lane_alloc(self, NULL, timeout_seconds, error);
  zero1_status status = zero1__lane_agree(comm->lane, lane ? ZERO1_OK : error->status, error);
  if (!status)
    status =
        zero1__nccl_link_open(self, LANE_CTAS, timeout_seconds, &((nccl_lane *)lane)->own, error);
  if (!status) {
    *out = lane;
  } else if (lane) {
    zero1__nccl_lane_close(lane);
  }
  return status;
}

static zero1_status enqueue(nccl_lane *lane, size_t bytes, zero1__error *error) {
  const size_t all = bytes * (size_t)lane->base.comm->world_size;
  char *gathered = lane->device + LANE_BYTES;
  cudaError_t code =
      cudaMemcpyAsync(lane->device, lane->host, bytes, cudaMemcpyHostToDevice, lane->stream);
  if (code) return zero1__nccl_cuda_fail(error, code, "an agreement's message");
  ncclComm_t nccl = zero1__nccl_enter(lane->link, error);
  if (!nccl) return error->status;
  const ncclResult_t result =
      zero1__nccl.ncclAllGather(lane->device, gathered, bytes, ncclUint8, nccl, lane->stream);
  const zero1_status status = zero1__nccl_leave(lane->link, result, "an agreement", error);
  if (status) return status;
  code =
      cudaMemcpyAsync(lane->host + LANE_BYTES, gathered, all, cudaMemcpyDeviceToHost, lane->stream);
  return code ? zero1__nccl_cuda_fail(error, code, "an agreement's messages") : ZERO1_OK;
}

static zero1_status gather_piece(nccl_lane *lane, const char *in, char *out, size_t stride,
                                 size_t bytes, zero1__error *error) {
  memcpy(lane->host, in, bytes);
  zero1_status status = enqueue(lane, bytes, error);
  if (!status) status = zero1__nccl_link_finish(lane->link, lane->stream, "an agreement", error);
  if (status) return status;
  for (int32_t rank = 0; rank < lane->base.comm->world_size; ++rank)
    memcpy(out + (size_t)rank * stride, lane->host + LANE_BYTES + (size_t)rank * bytes, bytes);
  return ZERO1_OK;
}

zero1_status zero1__nccl_lane_all_gather(zero1__lane *base, const void *in, void *out, size_t bytes,
                                         zero1__error *error) {
  nccl_lane *lane = (nccl_lane *)base;
  zero1_status status = ZERO1_OK;
  for (size_t begin = 0; begin < bytes && !status; begin += LANE_BYTES) {
    const size_t left = bytes - begin;
    status = gather_piece(lane, (const char *)in + begin, (char *)out + begin, bytes,
                          left < LANE_BYTES ? left : LANE_BYTES, error);
  }
  return status;
}

void zero1__nccl_lane_abort(zero1__lane *lane, const zero1__error *why) {
  zero1__nccl_link_abort(((nccl_lane *)lane)->link, why);
}

zero1_status zero1__nccl_lane_look(zero1__lane *lane, zero1__error *error) {
  return zero1__nccl_link_look(((nccl_lane *)lane)->link, error);
}
