/* What the files of the CUDA device know of each other: device_cuda.c (its life, its kernels) and
 * device_cuda_memory.c, _stream.c, _event.c, _times.c. Plain C over the CUDA runtime; the kernels
 * are behind kernels_cuda.h. */
#ifndef ZERO1__DEVICE_CUDA_H
#define ZERO1__DEVICE_CUDA_H

#include <cuda_runtime_api.h>
#include <pthread.h>

#include "device_ops.h"
#include "kernels_cuda.h"

typedef struct zero1__cuda_times zero1__cuda_times;
typedef struct zero1__cuda_callers zero1__cuda_callers;
typedef struct zero1__cuda_flags zero1__cuda_flags;

typedef struct zero1__cuda {
  zero1__device base;
  int index;
  char bus_id[32];
  void *caller_stream; /* config.stream */

  pthread_mutex_t failure_mutex;
  zero1__error failure; /* the first one; under failure_mutex */
  int32_t failed;       /* 1: there is one; read atomically */

  /* of transfer and memory_alloc, and for asking how the device is: never captured */
  cudaStream_t own_stream;
  pthread_mutex_t own_mutex; /* held while something is under way there */

  int64_t patience_ns; /* of waits between the device and the host */
  int32_t flushes;     /* 1: flush_writes has something to do */

  uint32_t *give_up;            /* memory that both see; not 0: who waits gives up */
  int32_t host_streams;         /* streams of host calls with a thread of their own */
  zero1__cuda_flags *flags;     /* of events */
  zero1__cuda_callers *callers; /* streams that the caller gave */
  zero1__cuda_times *times;
  zero1__cuda_layout layout;
} zero1__cuda;

static inline zero1__cuda *zero1__cuda_of(zero1__device *device) {
  return (zero1__cuda *)device;
}

/** What a zero1__stream is here. */
typedef struct zero1__cuda_queue {
  zero1__stream *host; /* of stream_host.c, where it runs host calls; else NULL, and */
  cudaStream_t handle; /* the device's */
  int has_worker;      /* host: on a thread of its own */
} zero1__cuda_queue;

static inline zero1__cuda_queue *zero1__cuda_queue_of(zero1__stream *stream) {
  return (zero1__cuda_queue *)stream;
}

/** What the calling thread was set to before. */
typedef struct zero1__cuda_guard {
  int device, own;
  int relaxed; /* 1: `mode` is to be restored */
  enum cudaStreamCaptureMode mode;
} zero1__cuda_guard;

/** Every entry that touches the device is between enter and leave: the calling thread's device is
 *  this one, and then again what it was. relaxed: calls that CUDA refuses while any thread captures
 *  (allocation, synchronisation) are allowed: what they touch is in no capture. */
zero1__cuda_guard zero1__cuda_enter(zero1__cuda *cuda);
zero1__cuda_guard zero1__cuda_enter_relaxed(zero1__cuda *cuda);
void zero1__cuda_leave(const zero1__cuda_guard *guard);

/** Notes that `call` failed, if it did, for zero1__device_ops.check; returns whether it did. */
int zero1__cuda_failed(zero1__cuda *cuda, const char *call, cudaError_t result);

/** Notes that `wait` was given up after patience_ns, for check. */
void zero1__cuda_timed_out(zero1__cuda *cuda, const char *wait);

/** The thread's last error is the caller's to see, not one that is dealt with here. */
void zero1__cuda_forget(cudaError_t result);

/** As zero1__device_ops.check. */
zero1_status zero1__cuda_health(zero1__cuda *cuda, zero1__error *error);

/* ---- device_cuda_memory.c: the entries of device_ops.h ---- */

zero1_status zero1__cuda_memory_check(zero1__device *device, uint64_t bytes, zero1__error *error);
zero1_status zero1__cuda_memory_alloc(zero1__device *device, size_t bytes, void **memory,
                                      zero1__error *error);
void zero1__cuda_memory_free(zero1__device *device, void *memory, size_t bytes);
zero1_status zero1__cuda_pinned_alloc(zero1__device *device, size_t bytes, void **memory,
                                      zero1__error *error);
void zero1__cuda_pinned_free(zero1__device *device, void *memory, size_t bytes);
void zero1__cuda_transfer(zero1__device *device, void *to, const void *from, size_t bytes);
zero1_status zero1__cuda_memory_share(zero1__device *device, void *memory, size_t bytes,
                                      zero1__memory_key *key, zero1__error *error);
zero1_status zero1__cuda_memory_map(zero1__device *device, const zero1__memory_key *key,
                                    void **memory, zero1__error *error);
void zero1__cuda_memory_unmap(zero1__device *device, const zero1__memory_key *key, void *memory);
void zero1__cuda_flush_writes(zero1__device *device);

/* ---- device_cuda_stream.c: the entries of device_ops.h ---- */

zero1_status zero1__cuda_stream_create(zero1__device *device, int kind, zero1__stream **stream,
                                       zero1__error *error);
void zero1__cuda_stream_destroy(zero1__device *device, zero1__stream *stream);
zero1__stream *zero1__cuda_stream_of_caller(zero1__device *device, void *stream,
                                            zero1__error *error);
void zero1__cuda_stream_sync(zero1__device *device, zero1__stream *stream);
uint64_t zero1__cuda_capturing(zero1__device *device, zero1__stream *stream);
void *zero1__cuda_native(zero1__device *device, zero1__stream *stream);
void zero1__cuda_host_call(zero1__device *device, zero1__stream *stream, zero1__host_fn fn,
                           void *context, const void *args, size_t args_bytes);

/** Not 0 where the stream is being captured: that capture's number. */
uint64_t zero1__cuda_capture_of(cudaStream_t handle);
/** Waits until nothing of the library is in the caller's streams any more, and frees what is known
 *  of them. Between enter and leave. */
void zero1__cuda_callers_end(zero1__cuda *cuda);

/* ---- device_cuda_event.c: the entries of device_ops.h ---- */

zero1_status zero1__cuda_event_create(zero1__device *device, zero1__event **event,
                                      zero1__error *error);
void zero1__cuda_event_destroy(zero1__device *device, zero1__event *event);
void zero1__cuda_event_record(zero1__device *device, zero1__event *event, zero1__stream *stream);
void zero1__cuda_stream_wait(zero1__device *device, zero1__stream *stream, zero1__event *event);
void zero1__cuda_event_sync(zero1__device *device, zero1__event *event);
void zero1__cuda_flags_end(zero1__cuda *cuda);

/* ---- device_cuda_times.c: the entries of device_ops.h ---- */

void zero1__cuda_time_begin(zero1__device *device, zero1__stream *stream, int64_t *elapsed_ns);
void zero1__cuda_time_end(zero1__device *device, zero1__stream *stream);
void zero1__cuda_times_read(zero1__device *device);
void zero1__cuda_times_forget(zero1__device *device);
zero1_status zero1__cuda_times_begin(zero1__cuda *cuda, zero1__error *error);
void zero1__cuda_times_end(zero1__cuda *cuda);

#endif
