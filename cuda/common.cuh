// What the kernels' files share: launching, and waiting for flags.
#ifndef ZERO1__CUDA_COMMON_CUH
#define ZERO1__CUDA_COMMON_CUH

#include <cuda_runtime.h>

#include "kernels_cuda.h"

// A job as a kernel's parameter: in constant memory, also where its address is taken.
#define ZERO1__JOB(type) const __grid_constant__ type

namespace zero1 {

/** Enqueues kernel<<<grid, threads>>>(arguments...). */
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, zero1__cuda_stream stream,
           const Arguments &...arguments) {
  void *pointers[] = {const_cast<void *>(static_cast<const void *>(&arguments))...};
  return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid, dim3(threads), pointers, 0,
                          stream);
}

/** Loads a kernel on the current device. */
template <typename... Parameters>
int load(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(kernel));
}

/** The first error of some calls. */
template <typename... Status>
int first_of(Status... statuses) {
  int first = cudaSuccess;
  ((first = first == cudaSuccess ? statuses : first), ...);
  return first;
}

/** How many CTAs to launch for `work` of them, where `resident` fit a multiprocessor: no more than
 *  run at once. */
inline int grid_of(int64_t work, int resident, unsigned *grid) {
  int device = 0, processors = 0;
  const int status =
      first_of(cudaGetDevice(&device),
               cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const int64_t most = int64_t{processors} * resident;
  *grid = unsigned(work < most ? work : most);
  return status;
}

/** A pointer that came from a table in memory, of which the compiler does not know where it points.
 */
template <typename Pointer>
__device__ __forceinline__ Pointer in_global(Pointer pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

// ---- flags: memory that other devices, or the host, write or read ----

__device__ __forceinline__ uint32_t load_acquire(const uint32_t *flag) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

__device__ __forceinline__ void store_release(uint32_t *flag, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

__device__ __forceinline__ int64_t now_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return int64_t(ns);
}

/** Whether a flag has come to `value`; both wrap around. */
__device__ __forceinline__ bool has_come(uint32_t flag, uint32_t value) {
  return int32_t(flag - value) >= 0;
}

}  // namespace zero1

#endif
