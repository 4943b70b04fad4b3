/* Errors of the stand-in runtime (no GPU): the last one of each thread, faults, names and texts. */
#include <sched.h>

#include "runtime.h"

static _Thread_local cudaError_t last_error;

/* ---- faults ---- */

static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER; /* of those who change these */
static _Atomic uint32_t life; /* grows as the device fails, and as that ends: odd is dead */
static _Atomic int fault;     /* told: nothing runs any more */

uint32_t standin_life(void) {
  return atomic_load(&life);
}

int standin_device_failed(void) {
  return (int)(atomic_load_explicit(&life, memory_order_relaxed) % 2);
}

void standin_device_fault(cudaError_t error) {
  pthread_mutex_lock(&fault_lock);
  const bool failed = standin_device_failed(), fails = error != cudaSuccess;
  if (failed != fails) atomic_fetch_add(&life, 1);
  if (fails) standin_streams_still();
  atomic_store_explicit(&fault, (int)error, memory_order_release);
  pthread_mutex_unlock(&fault_lock);
}

/* Who comes while what ran at the fault comes to its end is told after that. */
static cudaError_t told_fault(void) {
  int error = atomic_load_explicit(&fault, memory_order_acquire);
  while (!error && standin_device_failed()) {
    sched_yield();
    error = atomic_load_explicit(&fault, memory_order_acquire);
  }
  return (cudaError_t)error;
}

/* ---- calls ---- */

cudaError_t standin_enter(void) {
  const unsigned failures = standin_configuration()->failures;
  if (failures & STANDIN_FAIL_NO_DEVICE) return cudaErrorNoDevice;
  if (failures & (STANDIN_FAIL_NO_DRIVER | STANDIN_FAIL_OLD_DRIVER))
    return cudaErrorInsufficientDriver;
  if (standin_was_forked()) return cudaErrorInitializationError;
  if (standin_in_host_function) return cudaErrorNotPermitted;
  return told_fault();
}

cudaError_t standin_leave(cudaError_t error) {
  if (error) last_error = error;
  return error;
}

/* A fault stays. */
cudaError_t cudaPeekAtLastError(void) {
  const cudaError_t error = told_fault();
  return error ? error : last_error;
}

cudaError_t cudaGetLastError(void) {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

/* ---- names and texts: CUDA's ---- */

#define ERRORS(X)                                                                                  \
  X(cudaSuccess, "no error")                                                                       \
  X(cudaErrorInvalidValue, "invalid argument")                                                     \
  X(cudaErrorMemoryAllocation, "out of memory")                                                    \
  X(cudaErrorInitializationError, "initialization error")                                          \
  X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                          \
  X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")   \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                       \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                                              \
  X(cudaErrorDeviceUninitialized, "invalid device context")                                        \
  X(cudaErrorMapBufferObjectFailed, "mapping of buffer object failed")                             \
  X(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices")      \
  X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                     \
  X(cudaErrorIllegalState, "the operation cannot be performed in the present state")               \
  X(cudaErrorNotReady, "device not ready")                                                         \
  X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                           \
  X(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled")                           \
  X(cudaErrorHostMemoryAlreadyRegistered,                                                          \
    "part or all of the requested memory range is already mapped")                                 \
  X(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region") \
  X(cudaErrorLaunchFailure, "unspecified launch failure")                                          \
  X(cudaErrorNotPermitted, "operation not permitted")                                              \
  X(cudaErrorNotSupported, "operation not supported")                                              \
  X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")         \
  X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")  \
  X(cudaErrorStreamCaptureMerge,                                                                   \
    "operation would result in a merge of separate capture sequences")                             \
  X(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")       \
  X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                          \
  X(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")    \
  X(cudaErrorStreamCaptureImplicit,                                                                \
    "operation would make the legacy stream depend on a capturing blocking stream")                \
  X(cudaErrorCapturedEvent,                                                                        \
    "operation not permitted on an event last recorded in a capturing stream")                     \
  X(cudaErrorStreamCaptureWrongThread,                                                             \
    "attempt to terminate a thread-local capture sequence from another thread")

const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define NAME(code, text) \
  case code:             \
    return #code;
    ERRORS(NAME)
#undef NAME
    default:
      return "unrecognized error code";
  }
}

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define TEXT(code, text) \
  case code:             \
    return text;
    ERRORS(TEXT)
#undef TEXT
    default:
      return "unrecognized error code";
  }
}
