/* Calls of the stand-in NCCL (no NCCL) that stand for work in a stream, one by one or in groups:
 * what is to be done of them now, and what waits until the communicator is asked once more. */
#include <string.h>

#include "nccl_group.h"

size_t standin_nccl_bytes(ncclDataType_t dtype) {
  switch (dtype) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 4;
  }
}

typedef struct queued {
  ncclComm_t comm;
  cudaStream_t stream;
  standin_call call;
} queued;

static _Thread_local int32_t depth, queue_count;
static _Thread_local queued queue[4 * STANDIN_NCCL_PENDING];

/* Calls that are one operation: sends and receives together, or collectives one after another. */
static ncclResult_t issue(ncclComm_t comm, const standin_call *calls, int32_t count,
                          cudaStream_t stream) {
  const ncclResult_t result = standin_nccl_enter(comm, "a collective");
  if (result) return result;
  memcpy(comm->pending.calls, calls, (size_t)count * sizeof *calls);
  comm->pending.stream = stream;
  comm->pending_count = count;
  return standin_nccl_leave(comm);
}

static ncclResult_t submit(ncclComm_t comm, cudaStream_t stream, standin_call call) {
  standin_nccl_check(comm, "a collective");
  if (!depth) return issue(comm, &call, 1, stream);
  if (queue_count == 4 * STANDIN_NCCL_PENDING)
    return standin_nccl_fail(ncclInvalidUsage, "a group too large");
  queue[queue_count++] = (queued){comm, stream, call};
  return ncclSuccess;
}

static bool is_message(const standin_call *call) {
  return call->kind == STANDIN_SEND || call->kind == STANDIN_RECV;
}

/* Takes what belongs to the operation of the first that is left. */
static int32_t take_operation(queued *left, int32_t *left_count, standin_call *calls) {
  const queued first = left[0];
  int32_t count = 0, kept = 0;
  for (int32_t i = 0; i < *left_count; ++i) {
    const bool same = is_message(&first.call) == is_message(&left[i].call) &&
                      left[i].comm == first.comm && left[i].stream == first.stream;
    if (same && count < STANDIN_NCCL_PENDING)
      calls[count++] = left[i].call;
    else
      left[kept++] = left[i];
  }
  *left_count = kept;
  return count;
}

/* nccl.h declares these without a prototype. */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

ncclResult_t ncclGroupStart(void) {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
  ncclResult_t result = ncclSuccess;
  if (depth == 0) standin_nccl_misused("ncclGroupEnd", "there is no group");
  if (--depth > 0) return ncclSuccess;
  while (queue_count > 0) {
    standin_call calls[STANDIN_NCCL_PENDING];
    const queued first = queue[0];
    const int32_t count = take_operation(queue, &queue_count, calls);
    const ncclResult_t issued = issue(first.comm, calls, count, first.stream);
    if (!result || result == ncclInProgress) result = issued ? issued : result;
  }
  return result;
}

ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t dtype,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum) return standin_nccl_fail(ncclInvalidArgument, "the stand-in has sums alone");
  return submit(comm, stream, (standin_call){STANDIN_REDUCE_SCATTER, send, recv, count, dtype, 0});
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t dtype,
                           ncclComm_t comm, cudaStream_t stream) {
  return submit(comm, stream, (standin_call){STANDIN_ALL_GATHER, send, recv, count, dtype, 0});
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t dtype,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum) return standin_nccl_fail(ncclInvalidArgument, "the stand-in has sums alone");
  return submit(comm, stream, (standin_call){STANDIN_ALL_REDUCE, send, recv, count, dtype, 0});
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t dtype,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return submit(comm, stream, (standin_call){STANDIN_BROADCAST, send, recv, count, dtype, root});
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t dtype, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return submit(comm, stream, (standin_call){STANDIN_SEND, send, NULL, count, dtype, peer});
}

ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t dtype, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return submit(comm, stream, (standin_call){STANDIN_RECV, NULL, recv, count, dtype, peer});
}
