/* Streams of the CUDA device: of the device, of the caller, and of host calls (stream_host.c). */
#include <assert.h>
#include <stdlib.h>

#include "device_cuda.h"
#include "stream_host.h"

/* ---- the library's own ---- */

/* Before the rest of the machine's work: peers wait for what is in these streams. */
static cudaError_t create_kernels(zero1__cuda *cuda, cudaStream_t *handle) {
  int least = 0, greatest = 0;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  cudaError_t result = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (!result) result = cudaStreamCreateWithPriority(handle, cudaStreamNonBlocking, greatest);
  zero1__cuda_forget(result);
  zero1__cuda_leave(&guard);
  return result;
}

/* Whatever a worker does on the device, its thread need not be set to it again. */
static void set_device(void *context, const void *args) {
  zero1__cuda *cuda = context;
  (void)args;
  zero1__cuda_failed(cuda, "cudaSetDevice", cudaSetDevice(cuda->index));
}

static zero1_status create_host_calls(zero1__cuda *cuda, zero1__cuda_queue *queue, int kind,
                                      zero1__error *error) {
  queue->has_worker = kind == ZERO1__STREAM_HOST_CALLS;
  const zero1_status status = zero1__stream_create(!queue->has_worker, &queue->host, error);
  if (status || !queue->has_worker) return status;
  zero1__stream_push(queue->host, set_device, cuda, NULL, 0);
  cuda->host_streams += 1;
  return ZERO1_OK;
}

zero1_status zero1__cuda_stream_create(zero1__device *device, int kind, zero1__stream **stream,
                                       zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1_status status = ZERO1_OK;
  *stream = NULL;
  zero1__cuda_queue *queue = calloc(1, sizeof *queue);
  if (!queue) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a stream");
  if (kind == ZERO1__STREAM_KERNELS) {
    const cudaError_t result = create_kernels(cuda, &queue->handle);
    if (result)
      status = zero1__fail(error, ZERO1_ERR_DEVICE, "a stream of CUDA device %d: %s", cuda->index,
                           cudaGetErrorString(result));
  } else {
    status = create_host_calls(cuda, queue, kind, error);
  }
  if (status) {
    free(queue);
    return status;
  }
  *stream = (zero1__stream *)queue;
  return ZERO1_OK;
}

void zero1__cuda_stream_destroy(zero1__device *device, zero1__stream *stream) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1__cuda_queue *queue = zero1__cuda_queue_of(stream);
  if (!queue) return;
  if (queue->host) {
    zero1__stream_destroy(queue->host);
    cuda->host_streams -= queue->has_worker;
  } else {
    const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
    zero1__cuda_failed(cuda, "cudaStreamSynchronize", cudaStreamSynchronize(queue->handle));
    zero1__cuda_failed(cuda, "cudaStreamDestroy", cudaStreamDestroy(queue->handle));
    zero1__cuda_leave(&guard);
  }
  free(queue);
}

/* ---- the caller's ---- */

/* Each handle that was ever given: a few, for a program has few streams. */
struct zero1__cuda_callers {
  zero1__cuda_queue queue;
  zero1__cuda_callers *next;
};

static int is_of_device(zero1__cuda *cuda, cudaStream_t handle, zero1__error *error) {
  int index = -1;
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  const cudaError_t result = cudaStreamGetDevice(handle, &index);
  zero1__cuda_forget(result);
  zero1__cuda_leave(&guard);
  if (result)
    zero1__fail(error, ZERO1_ERR_INVALID, "stream is %p: cudaStreamGetDevice: %s", (void *)handle,
                cudaGetErrorString(result));
  else if (index != cuda->index)
    zero1__fail(error, ZERO1_ERR_INVALID,
                "stream is %p, of CUDA device %d, and the optimizer is on device %d",
                (void *)handle, index, cuda->index);
  return !result && index == cuda->index;
}

zero1__stream *zero1__cuda_stream_of_caller(zero1__device *device, void *stream,
                                            zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  if (stream == ZERO1_STREAM_DEFAULT) stream = cuda->caller_stream;
  if (stream == ZERO1_STREAM_DEFAULT) stream = NULL; /* CUDA's own default stream */
  const cudaStream_t handle = stream;
  for (zero1__cuda_callers *at = cuda->callers; at; at = at->next)
    if (at->queue.handle == handle) return (zero1__stream *)&at->queue;
  if (!is_of_device(cuda, handle, error)) return NULL;
  zero1__cuda_callers *added = calloc(1, sizeof *added);
  if (!added) {
    zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a stream");
    return NULL;
  }
  added->queue.handle = handle;
  added->next = cuda->callers;
  cuda->callers = added;
  return (zero1__stream *)&added->queue;
}

/* In one that is being captured nothing of ours is under way: it would have to be waited for
 * first. */
void zero1__cuda_callers_end(zero1__cuda *cuda) {
  while (cuda->callers) {
    zero1__cuda_callers *next = cuda->callers->next;
    const cudaStream_t handle = cuda->callers->queue.handle;
    if (!zero1__cuda_capture_of(handle)) zero1__cuda_forget(cudaStreamSynchronize(handle));
    free(cuda->callers);
    cuda->callers = next;
  }
}

/* ---- of all kinds ---- */

void zero1__cuda_stream_sync(zero1__device *device, zero1__stream *stream) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1__cuda_queue *queue = zero1__cuda_queue_of(stream);
  if (queue->host) {
    zero1__stream_sync(queue->host);
    return;
  }
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(cuda, "cudaStreamSynchronize", cudaStreamSynchronize(queue->handle));
  zero1__cuda_leave(&guard);
}

/* A capture that CUDA has given up has a number too, which is no other's. */
uint64_t zero1__cuda_capture_of(cudaStream_t handle) {
  enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
#if CUDART_VERSION >= 13000
  const cudaError_t result = cudaStreamGetCaptureInfo(handle, &status, &id, NULL, NULL, NULL, NULL);
#else
  const cudaError_t result = cudaStreamGetCaptureInfo(handle, &status, &id, NULL, NULL, NULL);
#endif
  zero1__cuda_forget(result);
  if (result || status == cudaStreamCaptureStatusNone) return 0;
  return status == cudaStreamCaptureStatusActive && id ? id : UINT64_MAX;
}

uint64_t zero1__cuda_capturing(zero1__device *device, zero1__stream *stream) {
  const zero1__cuda_queue *queue = zero1__cuda_queue_of(stream);
  if (queue->host) return 0;
  const zero1__cuda_guard guard = zero1__cuda_enter(zero1__cuda_of(device));
  const uint64_t capture = zero1__cuda_capture_of(queue->handle);
  zero1__cuda_leave(&guard);
  return capture;
}

void *zero1__cuda_native(zero1__device *device, zero1__stream *stream) {
  (void)device;
  return zero1__cuda_queue_of(stream)->handle;
}

void zero1__cuda_host_call(zero1__device *device, zero1__stream *stream, zero1__host_fn fn,
                           void *context, const void *args, size_t args_bytes) {
  (void)device;
  assert(zero1__cuda_queue_of(stream)->host);
  zero1__stream_push(zero1__cuda_queue_of(stream)->host, fn, context, args, args_bytes);
}
