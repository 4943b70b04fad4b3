/* Data types and their sizes. Conversions are arithmetic, in rules.h. */
#ifndef ZERO1__DTYPE_H
#define ZERO1__DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "zero1/zero1.h"

typedef int32_t zero1__dtype;

/** Of the library alone: fp32 in memory, bf16 on the wire. A gradient of it is rounded whenever it
 *  is loaded; a parameter of it is always a bf16 value, which its separate master is rounded to. So
 *  results do not depend on what really crosses a wire. */
#define ZERO1__DTYPE_FP32_AS_BF16 2

/** Of the library alone, and of contributions: gradients as zero1__int8_block (jobs.h). */
#define ZERO1__DTYPE_INT8_BLOCKS 3

/** What a caller may ask for. */
static inline int zero1__dtype_valid(int32_t dtype) {
  return dtype == ZERO1_DTYPE_FP32 || dtype == ZERO1_DTYPE_BF16;
}

/** The name that safetensors files have for it. */
static inline const char *zero1__dtype_name(int32_t dtype) {
  return dtype == ZERO1_DTYPE_BF16 ? "BF16" : "F32";
}

/** Bytes of one element in memory. */
static inline size_t zero1__dtype_bytes(zero1__dtype dtype) {
  return dtype == ZERO1_DTYPE_BF16 ? 2 : 4;
}

/** Bytes of one element on the wire. */
static inline size_t zero1__dtype_wire_bytes(zero1__dtype dtype) {
  return dtype == ZERO1_DTYPE_FP32 ? 4 : 2;
}

#endif
