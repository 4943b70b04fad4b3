#include "nccl_memory.h"

#include <string.h>

zero1_status zero1__nccl_memory_alloc(zero1__nccl_memory *memory, size_t bytes, cudaStream_t stream,
                                      zero1__error *error) {
  size_t unused = 0, total = 0;
  if (!bytes) return ZERO1_OK;
  const ncclResult_t result = zero1__nccl.ncclMemAlloc(&memory->base, bytes);
  if (result) {
    memory->base = NULL;
    cudaGetLastError(); /* it is told here */
    cudaMemGetInfo(&unused, &total);
    return zero1__fail(error, ZERO1_ERR_MEMORY,
                       "ncclMemAlloc of %zu bytes, where %zu of %zu are free: %s", bytes, unused,
                       total, zero1__nccl.ncclGetErrorString(result));
  }
  memory->bytes = bytes;
  const cudaError_t code = cudaMemsetAsync(memory->base, 0, bytes, stream);
  return code ? zero1__nccl_cuda_fail(error, code, "zeroing memory of NCCL") : ZERO1_OK;
}

/* A window without the promise that every rank uses the same offsets: the collectives are in place,
 * each rank's part at a place of its own. */
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
static zero1_status register_window(zero1__nccl_memory *memory, zero1__nccl_link *link,
                                    zero1__error *error) {
  ncclComm_t nccl = zero1__nccl_enter(link, error);
  if (!nccl) return error->status;
  const ncclResult_t result = zero1__nccl.ncclCommWindowRegister(nccl, memory->base, memory->bytes,
                                                                 &memory->window, NCCL_WIN_DEFAULT);
  return zero1__nccl_leave(link, result, "ncclCommWindowRegister", error);
}
#endif

static zero1_status register_buffer(zero1__nccl_memory *memory, zero1__nccl_link *link,
                                    zero1__error *error) {
  ncclComm_t nccl = zero1__nccl_enter(link, error);
  if (!nccl) return error->status;
  const ncclResult_t result =
      zero1__nccl.ncclCommRegister(nccl, memory->base, memory->bytes, &memory->buffer);
  return zero1__nccl_leave(link, result, "ncclCommRegister", error);
}

zero1_status zero1__nccl_memory_register(zero1__nccl_memory *memory, zero1__nccl_link *link,
                                         int32_t version, zero1__error *error) {
  if (!memory->base) return ZERO1_OK;
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  if (version >= NCCL_VERSION(2, 27, 0)) {
    const zero1_status status = register_window(memory, link, error);
    if (status || memory->window) return status; /* none: this system has no windows */
  }
#endif
  (void)version;
  return register_buffer(memory, link, error);
}

void zero1__nccl_memory_deregister(zero1__nccl_memory *memory, zero1__nccl_link *link) {
  zero1__error error;
  zero1__error_clear(&error);
  ncclComm_t nccl = zero1__nccl_enter(link, &error);
  if (!nccl) return; /* aborted: its registrations are gone with it */
  ncclResult_t result = ncclSuccess;
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  if (memory->window) result = zero1__nccl.ncclCommWindowDeregister(nccl, memory->window);
  memory->window = NULL;
#endif
  if (memory->buffer) result = zero1__nccl.ncclCommDeregister(nccl, memory->buffer);
  memory->buffer = NULL;
  zero1__nccl_leave(link, result, "deregistering", &error);
}

void zero1__nccl_memory_free(zero1__nccl_memory *memory) {
  if (memory->base) zero1__nccl.ncclMemFree(memory->base);
  memset(memory, 0, sizeof *memory);
}
