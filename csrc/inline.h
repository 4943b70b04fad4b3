/* Functions that the C compiler and the CUDA compiler both take, for host and device alike. */
#ifndef ZERO1__INLINE_H
#define ZERO1__INLINE_H

#if defined(__CUDACC__)
  #define ZERO1__INLINE __host__ __device__ __forceinline__
#else
  #define ZERO1__INLINE static inline
#endif

#endif
