/* Copies and fills of the stand-in runtime (no GPU): tasks of their streams, whatever the memory.
 */
#include <string.h>

#include "runtime.h"

/* ---- what a pointer may be ---- */

typedef enum place {
  PLACE_DEVICE,
  PLACE_HOST,   /* pinned or not */
  PLACE_OUTSIDE /* begins in memory of the runtime's and ends beyond it */
} place;

static place place_of(const void *pointer, size_t bytes) {
  place found = PLACE_HOST;
  standin_memory_read_lock();
  const standin_memory *memory = standin_memory_find(pointer);
  if (memory) {
    const size_t offset = (size_t)((const char *)pointer - memory->base);
    if (memory->kind <= STANDIN_MEMORY_MAPPED) found = PLACE_DEVICE;
    if (bytes > memory->bytes - offset) found = PLACE_OUTSIDE;
  }
  standin_memory_unlock();
  return found;
}

static cudaError_t check_copy(const void *to, const void *from, size_t bytes,
                              enum cudaMemcpyKind kind) {
  const place target = place_of(to, bytes), source = place_of(from, bytes);
  if (target == PLACE_OUTSIDE || source == PLACE_OUTSIDE) return cudaErrorInvalidValue;
  switch (kind) {
    case cudaMemcpyDefault:
      return cudaSuccess;
    case cudaMemcpyHostToHost:
      return target == PLACE_HOST && source == PLACE_HOST ? cudaSuccess : cudaErrorInvalidValue;
    case cudaMemcpyHostToDevice:
      return target == PLACE_DEVICE && source == PLACE_HOST ? cudaSuccess : cudaErrorInvalidValue;
    case cudaMemcpyDeviceToHost:
      return target == PLACE_HOST && source == PLACE_DEVICE ? cudaSuccess : cudaErrorInvalidValue;
    case cudaMemcpyDeviceToDevice:
      return target == PLACE_DEVICE && source == PLACE_DEVICE ? cudaSuccess : cudaErrorInvalidValue;
  }
  return cudaErrorInvalidMemcpyDirection;
}

/* ---- tasks ---- */

typedef struct copy_task {
  void *to;
  const void *from;
  size_t bytes;
} copy_task;

/* A word is written whole, as on a GPU: kernels may look at it meanwhile. */
static void copy_run(void *args) {
  const copy_task *task = args;
  uint32_t word;
  if (task->bytes == sizeof word && (uintptr_t)task->to % sizeof word == 0) {
    memcpy(&word, task->from, sizeof word);
    __atomic_store_n((uint32_t *)task->to, word, __ATOMIC_RELAXED);
  } else {
    memmove(task->to, task->from, task->bytes);
  }
}

typedef struct fill_task {
  void *to;
  int value;
  size_t bytes;
} fill_task;

static void fill_run(void *args) {
  const fill_task *task = args;
  memset(task->to, task->value, task->bytes);
}

static cudaError_t copy_async(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                              cudaStream_t handle) {
  cudaStream_t stream;
  const copy_task task = {to, from, bytes};
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error && bytes) error = check_copy(to, from, bytes, kind);
  if (!error && bytes) error = standin_submit(stream, copy_run, &task, sizeof task);
  return error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return standin_leave(copy_async(to, from, bytes, kind, stream));
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                size_t bytes, cudaStream_t stream) {
  const int devices = standin_configuration()->devices;
  if (to_device < 0 || to_device >= devices || from_device < 0 || from_device >= devices)
    return standin_leave(cudaErrorInvalidDevice);
  return standin_leave(copy_async(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
}

/* Goes through the NULL stream. Between devices' memories the call does not wait, as in CUDA. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (!error) error = copy_async(to, from, bytes, kind, NULL);
  if (!error) error = standin_stream_of(NULL, &stream);
  if (error || !bytes) return standin_leave(error);
  if (place_of(to, bytes) == PLACE_HOST || place_of(from, bytes) == PLACE_HOST)
    standin_stream_sync(stream, "cudaMemcpy");
  return standin_leave(standin_enter());
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t handle) {
  cudaStream_t stream;
  const fill_task task = {to, value, bytes};
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error && bytes && place_of(to, bytes) != PLACE_DEVICE) error = cudaErrorInvalidValue;
  if (!error && bytes) error = standin_submit(stream, fill_run, &task, sizeof task);
  return standin_leave(error);
}

/* Through the NULL stream; it does not wait, as in CUDA. */
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  return cudaMemsetAsync(to, value, bytes, NULL);
}
