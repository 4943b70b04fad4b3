/* Memory of the stand-in runtime (no GPU): memfds, so that other processes can map them.
 *
 * It begins on a page, is filled with 0xab, and has a page behind it that cannot be touched. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime.h"

enum { PAGE = 4096, POISON = 0xab, QUARANTINE = 256 };

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static standin_memory *memories;
static size_t used_bytes[STANDIN_MAX_DEVICES];

void standin_memory_read_lock(void) {
  pthread_rwlock_rdlock(&lock);
}

void standin_memory_write_lock(void) {
  pthread_rwlock_wrlock(&lock);
}

void standin_memory_unlock(void) {
  pthread_rwlock_unlock(&lock);
}

standin_memory *standin_memory_first(void) {
  return memories;
}

standin_memory *standin_memory_find(const void *pointer) {
  const uintptr_t address = (uintptr_t)pointer;
  for (standin_memory *memory = memories; memory; memory = memory->next) {
    const uintptr_t base = (uintptr_t)memory->base;
    if (address >= base && address - base < memory->bytes) return memory;
  }
  return NULL;
}

void standin_memory_add(standin_memory *memory) {
  memory->next = memories;
  memories = memory;
}

void standin_memory_remove(standin_memory *memory) {
  standin_memory **link = &memories;
  while (*link != memory) link = &(*link)->next;
  *link = memory->next;
}

/* ---- pages ---- */

char *standin_map(int fd, size_t bytes, size_t *mapped_bytes) {
  const size_t data_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
  char *base =
      mmap(NULL, data_bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return NULL;
  *mapped_bytes = data_bytes + PAGE;
  if (mmap(base, data_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
    return base;
  munmap(base, data_bytes + PAGE);
  return NULL;
}

/* The addresses stay taken for a while, so that a late access meets nobody else's memory. */
void standin_unmap(char *base, size_t mapped_bytes) {
  static pthread_mutex_t quarantine_lock = PTHREAD_MUTEX_INITIALIZER;
  static struct {
    void *base;
    size_t bytes;
  } quarantine[QUARANTINE];
  static size_t oldest;
  mmap(base, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
       0);
  pthread_mutex_lock(&quarantine_lock);
  if (quarantine[oldest].base) munmap(quarantine[oldest].base, quarantine[oldest].bytes);
  quarantine[oldest].base = base;
  quarantine[oldest].bytes = mapped_bytes;
  oldest = (oldest + 1) % QUARANTINE;
  pthread_mutex_unlock(&quarantine_lock);
}

/* ---- device memory ---- */

static bool charge(int device, size_t bytes) {
  standin_memory_write_lock();
  const size_t limit = standin_configuration()->memory_bytes;
  const bool fits = used_bytes[device] <= limit && bytes <= limit - used_bytes[device];
  if (fits) used_bytes[device] += bytes;
  standin_memory_unlock();
  return fits;
}

static standin_memory *device_create(size_t bytes) {
  standin_memory *memory = calloc(1, sizeof *memory);
  if (!memory) return NULL;
  memory->kind = STANDIN_MEMORY_DEVICE;
  memory->bytes = bytes;
  memory->device = standin_device();
  memory->fd = memfd_create("zero1-standin", MFD_CLOEXEC);
  if (memory->fd >= 0 && !ftruncate(memory->fd, (off_t)((bytes + PAGE - 1) / PAGE * PAGE)))
    memory->base = standin_map(memory->fd, bytes, &memory->mapped_bytes);
  if (memory->base) return memory;
  if (memory->fd >= 0) close(memory->fd);
  free(memory);
  return NULL;
}

static cudaError_t device_malloc(void **pointer, size_t bytes, bool shareable) {
  cudaError_t error = standin_enter();
  if (!error && !pointer) error = cudaErrorInvalidValue;
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  *pointer = NULL;
  if (!bytes) return cudaSuccess;
  if (!charge(standin_device(), bytes)) return standin_leave(cudaErrorMemoryAllocation);
  standin_memory *memory = device_create(bytes);
  standin_memory_write_lock();
  if (memory) {
    standin_memory_add(memory);
  } else {
    used_bytes[standin_device()] -= bytes;
  }
  standin_memory_unlock();
  if (!memory) return standin_leave(cudaErrorMemoryAllocation);
  memset(memory->base, POISON, bytes);
  if (!shareable) {
    close(memory->fd);
    memory->fd = -1;
  }
  STANDIN_ADD(device_memories, 1);
  *pointer = memory->base;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  return device_malloc(pointer, bytes, true);
}

cudaError_t standin_malloc_unshareable(void **pointer, size_t bytes) {
  return device_malloc(pointer, bytes, false);
}

/* The memory of this kind that begins there, taken out of the registry, or NULL. */
static standin_memory *take(const void *pointer, standin_memory_kind kind) {
  standin_memory_write_lock();
  standin_memory *memory = standin_memory_find(pointer);
  if (memory && (memory->base != pointer || memory->kind != kind)) memory = NULL;
  if (memory) standin_memory_remove(memory);
  if (memory && kind == STANDIN_MEMORY_DEVICE) used_bytes[memory->device] -= memory->bytes;
  standin_memory_unlock();
  return memory;
}

static int device_of(const void *pointer) {
  standin_memory_read_lock();
  const standin_memory *memory = standin_memory_find(pointer);
  const int device = memory && memory->kind == STANDIN_MEMORY_DEVICE ? memory->device : -1;
  standin_memory_unlock();
  return device;
}

cudaError_t cudaFree(void *pointer) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (error || !pointer) return standin_leave(error);
  const int device = device_of(pointer);
  if (device < 0) return standin_leave(cudaErrorInvalidValue);
  standin_device_sync(device, "cudaFree");
  standin_memory *memory = take(pointer, STANDIN_MEMORY_DEVICE);
  if (!memory) return standin_leave(cudaErrorInvalidValue);
  standin_unmap(memory->base, memory->mapped_bytes);
  if (memory->fd >= 0) close(memory->fd);
  free(memory);
  STANDIN_ADD(device_memories, -1);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  const cudaError_t error = standin_enter();
  if (error) return standin_leave(error);
  standin_memory_read_lock();
  *total_bytes = standin_configuration()->memory_bytes;
  *free_bytes = *total_bytes - used_bytes[standin_device()];
  standin_memory_unlock();
  return cudaSuccess;
}

/* ---- host memory ---- */

static cudaError_t add_host(standin_memory_kind kind, void *pointer, size_t bytes) {
  standin_memory *memory = calloc(1, sizeof *memory);
  if (!memory) return cudaErrorMemoryAllocation;
  memory->kind = kind;
  memory->base = pointer;
  memory->bytes = bytes;
  memory->device = standin_device();
  memory->fd = -1;
  standin_memory_write_lock();
  standin_memory_add(memory);
  standin_memory_unlock();
  STANDIN_ADD(host_memories, 1);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned int flags) {
  cudaError_t error = standin_enter();
  const unsigned known = cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
  if (!error && (!pointer || (flags & ~known))) error = cudaErrorInvalidValue;
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  *pointer = NULL;
  if (!bytes) return cudaSuccess;
  if (posix_memalign(pointer, PAGE, bytes)) return standin_leave(cudaErrorMemoryAllocation);
  memset(*pointer, POISON, bytes);
  error = add_host(STANDIN_MEMORY_PINNED, *pointer, bytes);
  if (error) {
    free(*pointer);
    *pointer = NULL;
  }
  return standin_leave(error);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

/* As cudaFree, it waits: a copy that is queued may still use the memory. */
cudaError_t cudaFreeHost(void *pointer) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (error || !pointer) return standin_leave(error);
  standin_device_sync(standin_device(), "cudaFreeHost");
  standin_memory *memory = take(pointer, STANDIN_MEMORY_PINNED);
  if (!memory) return standin_leave(cudaErrorInvalidValue);
  free(memory->base);
  free(memory);
  STANDIN_ADD(host_memories, -1);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned int flags) {
  cudaError_t error = standin_enter();
  (void)flags;
  if (!error && (!pointer || !bytes)) error = cudaErrorInvalidValue;
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_memory_read_lock();
  if (standin_memory_find(pointer) || standin_memory_find((char *)pointer + bytes - 1))
    error = cudaErrorHostMemoryAlreadyRegistered;
  standin_memory_unlock();
  if (!error) error = add_host(STANDIN_MEMORY_REGISTERED, pointer, bytes);
  return standin_leave(error);
}

cudaError_t cudaHostUnregister(void *pointer) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_memory *memory = take(pointer, STANDIN_MEMORY_REGISTERED);
  if (!memory) return standin_leave(cudaErrorHostMemoryNotRegistered);
  free(memory);
  STANDIN_ADD(host_memories, -1);
  return cudaSuccess;
}

static bool is_host(const standin_memory *memory) {
  return memory->kind == STANDIN_MEMORY_PINNED || memory->kind == STANDIN_MEMORY_REGISTERED;
}

cudaError_t cudaHostGetDevicePointer(void **device_pointer, void *pointer, unsigned int flags) {
  cudaError_t error = standin_enter();
  if (!error && (!device_pointer || flags)) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  standin_memory_read_lock();
  const standin_memory *memory = standin_memory_find(pointer);
  if (!memory || !is_host(memory)) error = cudaErrorInvalidValue;
  standin_memory_unlock();
  *device_pointer = error ? NULL : pointer;
  return standin_leave(error);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes,
                                     const void *pointer) {
  cudaError_t error = standin_enter();
  if (!error && !attributes) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  *attributes = (struct cudaPointerAttributes){.type = cudaMemoryTypeUnregistered,
                                               .device = cudaInvalidDeviceId,
                                               .hostPointer = (void *)(uintptr_t)pointer};
  standin_memory_read_lock();
  const standin_memory *memory = standin_memory_find(pointer);
  if (memory) {
    attributes->type = is_host(memory) ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = memory->device;
    attributes->devicePointer = (void *)(uintptr_t)pointer;
    if (!is_host(memory)) attributes->hostPointer = NULL;
  }
  standin_memory_unlock();
  return cudaSuccess;
}
