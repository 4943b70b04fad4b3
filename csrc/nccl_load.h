/* NCCL's functions, found when a communicator of NCCL is first made: a program that has NCCL in it
 * already (its own, or that of a Python package) keeps the one it has, and one that never asks for
 * NCCL needs none. Calls read zero1__nccl.ncclAllGather(...). */
#ifndef ZERO1__NCCL_LOAD_H
#define ZERO1__NCCL_LOAD_H

#include <nccl.h>

#include "error.h"

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 19, 0)
  #error "NCCL is older than 2.19, which has ncclMemAlloc and ncclCommRegister"
#endif

#define ZERO1__NCCL_FUNCTIONS(X) \
  X(ncclAllGather)               \
  X(ncclBroadcast)               \
  X(ncclCommAbort)               \
  X(ncclCommCount)               \
  X(ncclCommCuDevice)            \
  X(ncclCommDeregister)          \
  X(ncclCommDestroy)             \
  X(ncclCommFinalize)            \
  X(ncclCommGetAsyncError)       \
  X(ncclCommInitRankConfig)      \
  X(ncclCommRegister)            \
  X(ncclCommSplit)               \
  X(ncclCommUserRank)            \
  X(ncclGetErrorString)          \
  X(ncclGetLastError)            \
  X(ncclGetUniqueId)             \
  X(ncclGetVersion)              \
  X(ncclGroupEnd)                \
  X(ncclGroupStart)              \
  X(ncclMemAlloc)                \
  X(ncclMemFree)                 \
  X(ncclRecv)                    \
  X(ncclReduceScatter)           \
  X(ncclSend)

/* NULL where the NCCL that was found has them not. */
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  #define ZERO1__NCCL_OPTIONAL(X) \
    X(ncclCommWindowRegister)     \
    X(ncclCommWindowDeregister)
#else
  #define ZERO1__NCCL_OPTIONAL(X)
#endif

typedef struct zero1__nccl_functions {
#define ZERO1__NCCL_MEMBER(name) __typeof__(name) *name;
  ZERO1__NCCL_FUNCTIONS(ZERO1__NCCL_MEMBER)
  ZERO1__NCCL_OPTIONAL(ZERO1__NCCL_MEMBER)
#undef ZERO1__NCCL_MEMBER
} zero1__nccl_functions;

extern zero1__nccl_functions zero1__nccl;

/** Finds them, once; to be called before any of them is. Any thread. ZERO1_ERR_UNSUPPORTED: there
 * is no NCCL, or one without a function that is needed. */
zero1_status zero1__nccl_load(zero1__error *error);

#endif
