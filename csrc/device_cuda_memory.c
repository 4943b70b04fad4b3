/* Memory of a CUDA device, memory of the host that it sees, and memory of peers. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device_cuda.h"

/* ---- of the device ---- */

static zero1_status fail_alloc(zero1__cuda *cuda, size_t bytes, cudaError_t result,
                               zero1__error *error) {
  size_t free_bytes = 0, all_bytes = 0;
  zero1__cuda_forget(result);
  if (result != cudaErrorMemoryAllocation)
    return zero1__fail(error, ZERO1_ERR_DEVICE, "%zu bytes of memory of CUDA device %d: %s", bytes,
                       cuda->index, cudaGetErrorString(result));
  zero1__cuda_forget(cudaMemGetInfo(&free_bytes, &all_bytes));
  return zero1__fail(error, ZERO1_ERR_MEMORY,
                     "%zu bytes of memory of CUDA device %d: %s; free are %zu bytes of %zu", bytes,
                     cuda->index, cudaGetErrorString(result), free_bytes, all_bytes);
}

zero1_status zero1__cuda_memory_check(zero1__device *device, uint64_t bytes, zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  size_t free_bytes = 0, all_bytes = 0;
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  const int failed =
      zero1__cuda_failed(cuda, "cudaMemGetInfo", cudaMemGetInfo(&free_bytes, &all_bytes));
  zero1__cuda_leave(&guard);
  if (failed) return device->ops->check(device, error);
  if (bytes <= free_bytes) return ZERO1_OK;
  return zero1__fail(error, ZERO1_ERR_MEMORY,
                     "%llu bytes of memory are needed on CUDA device %d, where %zu of %zu are free",
                     (unsigned long long)bytes, cuda->index, free_bytes, all_bytes);
}

/* Between enter and leave. */
static cudaError_t clear(zero1__cuda *cuda, void *memory, size_t bytes) {
  pthread_mutex_lock(&cuda->own_mutex);
  cudaError_t result = cudaMemsetAsync(memory, 0, bytes, cuda->own_stream);
  if (!result) result = cudaStreamSynchronize(cuda->own_stream);
  pthread_mutex_unlock(&cuda->own_mutex);
  return result;
}

zero1_status zero1__cuda_memory_alloc(zero1__device *device, size_t bytes, void **memory,
                                      zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1_status status = ZERO1_OK;
  *memory = NULL;
  if (!bytes) return ZERO1_OK;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  cudaError_t result = cudaMalloc(memory, bytes);
  if (result) *memory = NULL;
  if (!result) result = clear(cuda, *memory, bytes);
  if (result) {
    status = fail_alloc(cuda, bytes, result, error);
    if (*memory) zero1__cuda_forget(cudaFree(*memory));
    *memory = NULL;
  }
  zero1__cuda_leave(&guard);
  return status;
}

void zero1__cuda_memory_free(zero1__device *device, void *memory, size_t bytes) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  (void)bytes;
  if (!memory) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(cuda, "cudaFree", cudaFree(memory));
  zero1__cuda_leave(&guard);
}

/* ---- of the host ---- */

zero1_status zero1__cuda_pinned_alloc(zero1__device *device, size_t bytes, void **memory,
                                      zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1_status status = ZERO1_OK;
  *memory = NULL;
  if (!bytes) return ZERO1_OK;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  const cudaError_t result =
      cudaHostAlloc(memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
  if (result) {
    *memory = NULL;
    zero1__cuda_forget(result);
    status = zero1__fail(
        error, result == cudaErrorMemoryAllocation ? ZERO1_ERR_MEMORY : ZERO1_ERR_DEVICE,
        "%zu bytes of pinned memory of the host: %s", bytes, cudaGetErrorString(result));
  } else {
    memset(*memory, 0, bytes);
  }
  zero1__cuda_leave(&guard);
  return status;
}

void zero1__cuda_pinned_free(zero1__device *device, void *memory, size_t bytes) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  (void)bytes;
  if (!memory) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(cuda, "cudaFreeHost", cudaFreeHost(memory));
  zero1__cuda_leave(&guard);
}

/* In a stream of its own: in any other, it would wait for what is there already. Not where waits
 * have failed: who calls may have come here too early. */
void zero1__cuda_transfer(zero1__device *device, void *to, const void *from, size_t bytes) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  if (!bytes || __atomic_load_n(&cuda->failed, __ATOMIC_ACQUIRE)) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  pthread_mutex_lock(&cuda->own_mutex);
  cudaError_t result = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cuda->own_stream);
  if (!result) result = cudaStreamSynchronize(cuda->own_stream);
  pthread_mutex_unlock(&cuda->own_mutex);
  zero1__cuda_failed(cuda, "cudaMemcpyAsync", result);
  zero1__cuda_leave(&guard);
}

void zero1__cuda_flush_writes(zero1__device *device) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  if (!cuda->flushes) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(
      cuda, "cudaDeviceFlushGPUDirectRDMAWrites",
      cudaDeviceFlushGPUDirectRDMAWrites(cudaFlushGPUDirectRDMAWritesTargetCurrentDevice,
                                         cudaFlushGPUDirectRDMAWritesToOwner));
  zero1__cuda_leave(&guard);
}

/* ---- of peers ---- */

/* In containers, processes of one machine may have the same number, in other namespaces. */
static int64_t this_process(void) {
  struct stat space = {0};
  if (stat("/proc/self/ns/pid", &space)) space.st_ino = 0;
  return (int64_t)((uint64_t)space.st_ino << 32 | (uint32_t)getpid());
}

/* Without a handle the memory can still be mapped by threads of this process. */
zero1_status zero1__cuda_memory_share(zero1__device *device, void *memory, size_t bytes,
                                      zero1__memory_key *key, zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  cudaIpcMemHandle_t handle;
  (void)error;
  _Static_assert(sizeof handle == sizeof key->handle, "a key holds a handle");
  memset(key, 0, sizeof *key);
  key->pid = this_process();
  key->address = (uint64_t)(uintptr_t)memory;
  key->bytes = bytes;
  key->device_index = cuda->index;
  memcpy(key->bus_id, cuda->bus_id, sizeof key->bus_id);
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  const cudaError_t result = cudaIpcGetMemHandle(&handle, memory);
  if (result)
    zero1__cuda_forget(result);
  else
    memcpy(key->handle, &handle, sizeof handle);
  zero1__cuda_leave(&guard);
  key->reserved = (int32_t)result;
  return ZERO1_OK;
}

static zero1_status fail_map(const zero1__cuda *cuda, const zero1__memory_key *key,
                             const char *call, cudaError_t result, zero1__error *error) {
  zero1__cuda_forget(result);
  return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                     "CUDA device %d (%s) cannot see memory of device %d (%.31s): %s: %s",
                     cuda->index, cuda->bus_id, key->device_index, key->bus_id, call,
                     cudaGetErrorString(result));
}

/* Between enter and leave. */
static zero1_status map_of_thread(zero1__cuda *cuda, const zero1__memory_key *key, void **memory,
                                  zero1__error *error) {
  if (key->device_index != cuda->index) {
    const cudaError_t result = cudaDeviceEnablePeerAccess(key->device_index, 0);
    if (result == cudaErrorPeerAccessAlreadyEnabled)
      zero1__cuda_forget(result);
    else if (result)
      return fail_map(cuda, key, "cudaDeviceEnablePeerAccess", result, error);
  }
  *memory = (void *)(uintptr_t)key->address;
  return ZERO1_OK;
}

/* Between enter and leave. */
static zero1_status map_of_process(zero1__cuda *cuda, const zero1__memory_key *key, void **memory,
                                   zero1__error *error) {
  cudaIpcMemHandle_t handle;
  if (key->reserved)
    return fail_map(cuda, key, "cudaIpcGetMemHandle", (cudaError_t)key->reserved, error);
  memcpy(&handle, key->handle, sizeof handle);
  const cudaError_t result = cudaIpcOpenMemHandle(memory, handle, cudaIpcMemLazyEnablePeerAccess);
  if (!result) return ZERO1_OK;
  *memory = NULL;
  return fail_map(cuda, key, "cudaIpcOpenMemHandle", result, error);
}

zero1_status zero1__cuda_memory_map(zero1__device *device, const zero1__memory_key *key,
                                    void **memory, zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  *memory = NULL;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  const zero1_status status = key->pid == this_process() ? map_of_thread(cuda, key, memory, error)
                                                         : map_of_process(cuda, key, memory, error);
  zero1__cuda_leave(&guard);
  return status;
}

void zero1__cuda_memory_unmap(zero1__device *device, const zero1__memory_key *key, void *memory) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  if (!memory || key->pid == this_process()) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(cuda, "cudaIpcCloseMemHandle", cudaIpcCloseMemHandle(memory));
  zero1__cuda_leave(&guard);
}
