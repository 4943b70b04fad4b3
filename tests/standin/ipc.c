/* Memory handles between processes (no GPU): a handle names a memfd of the process that gave it.
 *
 * The other process opens it as /proc/PID/fd/FD, and the inode tells whether it is still the same.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime.h"

enum { HANDLE_MAGIC = 0x5357c1 };

typedef struct ipc_handle {
  uint32_t magic;
  int32_t pid;
  int32_t fd;
  int32_t device;
  uint64_t bytes;
  uint64_t owner[2];
} ipc_handle;

_Static_assert(sizeof(ipc_handle) <= CUDA_IPC_HANDLE_SIZE, "a handle fits CUDA's");

static cudaError_t check_support(void) {
  const cudaError_t error = standin_enter();
  if (error) return error;
  return standin_configuration()->failures & STANDIN_FAIL_IPC ? cudaErrorNotSupported : cudaSuccess;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *result, void *pointer) {
  struct stat file;
  ipc_handle handle = {.magic = HANDLE_MAGIC, .pid = getpid()};
  cudaError_t error = check_support();
  if (!error && !result) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  standin_memory_read_lock();
  const standin_memory *memory = standin_memory_find(pointer);
  if (!memory || memory->kind != STANDIN_MEMORY_DEVICE || memory->fd < 0 ||
      fstat(memory->fd, &file)) {
    error = cudaErrorInvalidValue;
  } else {
    handle.fd = memory->fd;
    handle.device = memory->device;
    handle.bytes = memory->bytes;
    handle.owner[0] = (uint64_t)file.st_ino;
    handle.owner[1] = (uint64_t)file.st_dev;
  }
  standin_memory_unlock();
  memset(result, 0, sizeof *result);
  if (!error) memcpy(result, &handle, sizeof handle);
  return standin_leave(error);
}

/* The descriptor of what the handle names, or -1 where that is gone. */
static int open_owner(const ipc_handle *handle) {
  char path[64];
  struct stat file;
  snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)handle->pid, (int)handle->fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  if (!fstat(fd, &file) && (uint64_t)file.st_ino == handle->owner[0] &&
      (uint64_t)file.st_dev == handle->owner[1])
    return fd;
  close(fd);
  return -1;
}

static standin_memory *map_owner(const ipc_handle *handle) {
  standin_memory *memory = calloc(1, sizeof *memory);
  const int fd = open_owner(handle);
  if (memory && fd >= 0) {
    memory->kind = STANDIN_MEMORY_MAPPED;
    memory->bytes = handle->bytes;
    memory->device = handle->device;
    memory->fd = -1;
    memory->owner[0] = handle->owner[0];
    memory->owner[1] = handle->owner[1];
    memory->base = standin_map(fd, handle->bytes, &memory->mapped_bytes);
  }
  if (fd >= 0) close(fd);
  if (memory && memory->base) return memory;
  free(memory);
  return NULL;
}

/* With the lock held: the mapping of a handle that was opened before. */
static standin_memory *find_mapping(const ipc_handle *handle) {
  standin_memory *memory = standin_memory_first();
  for (; memory; memory = memory->next)
    if (memory->kind == STANDIN_MEMORY_MAPPED && memory->owner[0] == handle->owner[0] &&
        memory->owner[1] == handle->owner[1])
      return memory;
  return NULL;
}

cudaError_t cudaIpcOpenMemHandle(void **pointer, cudaIpcMemHandle_t opaque, unsigned int flags) {
  ipc_handle handle;
  memcpy(&handle, &opaque, sizeof handle);
  cudaError_t error = check_support();
  if (!error && (!pointer || flags != cudaIpcMemLazyEnablePeerAccess))
    error = cudaErrorInvalidValue;
  if (!error && handle.magic != HANDLE_MAGIC) error = cudaErrorInvalidValue;
  if (!error && handle.pid == getpid()) error = cudaErrorDeviceUninitialized; /* CUDA's answer */
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  *pointer = NULL;
  standin_memory_write_lock();
  standin_memory *memory = find_mapping(&handle);
  if (!memory) {
    memory = map_owner(&handle);
    if (memory) standin_memory_add(memory);
    if (memory) STANDIN_ADD(ipc_mappings, 1);
  }
  if (memory) {
    ++memory->opened;
    *pointer = memory->base;
  } else {
    error = cudaErrorMapBufferObjectFailed;
  }
  standin_memory_unlock();
  return standin_leave(error);
}

cudaError_t cudaIpcCloseMemHandle(void *pointer) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_device_sync(standin_device(), "cudaIpcCloseMemHandle");
  standin_memory_write_lock();
  standin_memory *memory = standin_memory_find(pointer);
  if (!memory || memory->kind != STANDIN_MEMORY_MAPPED || memory->base != pointer) {
    error = cudaErrorInvalidValue;
  } else if (--memory->opened == 0) {
    standin_memory_remove(memory);
    standin_unmap(memory->base, memory->mapped_bytes);
    free(memory);
    STANDIN_ADD(ipc_mappings, -1);
  }
  standin_memory_unlock();
  return standin_leave(error);
}
