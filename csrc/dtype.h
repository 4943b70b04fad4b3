/* Data types and their sizes. Conversions are arithmetic, in rules.h. */
#ifndef ZERO1__DTYPE_H
#define ZERO1__DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "zero1/zero1.h"

typedef int32_t zero1__dtype;

static inline int zero1__dtype_valid(int32_t dtype) {
  return dtype == ZERO1_DTYPE_FP32 || dtype == ZERO1_DTYPE_BF16;
}

/** Bytes of one element. */
static inline size_t zero1__dtype_bytes(zero1__dtype dtype) {
  return dtype == ZERO1_DTYPE_FP32 ? 4 : 2;
}

#endif
