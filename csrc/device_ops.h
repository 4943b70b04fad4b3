/* The device vtable: memory, streams, events, kernels. Backends: host (device_host.c).
 *
 * A stream runs what it is given in order; everything that takes a stream returns at once. An event
 * is recorded on a stream and waited for by another stream or by the calling thread; waiting for an
 * event that was never recorded returns at once. One thread at a time enqueues. */
#ifndef ZERO1__DEVICE_OPS_H
#define ZERO1__DEVICE_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "jobs.h"

typedef struct zero1__device zero1__device;
typedef struct zero1__stream zero1__stream;
typedef struct zero1__event zero1__event;

/** A function of the host to run in a stream. args: the copy of what host_call was given. */
typedef void (*zero1__host_fn)(void *context, const void *args);

/** Bytes of args that host_call takes. */
#define ZERO1__HOST_ARGS 64

typedef struct zero1__device_ops {
  const char *name;
  void (*destroy)(zero1__device *device);

  /** Zeroed memory on a page of its own. *memory is NULL on failure, and for 0 bytes. */
  zero1_status (*memory_alloc)(zero1__device *device, size_t bytes, void **memory,
                               zero1__error *error);
  void (*memory_free)(zero1__device *device, void *memory, size_t bytes);

  /** inline_calls: host calls run on the thread that enqueues them (for communication libraries
   *  that must be called from the caller's own thread). */
  zero1_status (*stream_create)(zero1__device *device, int inline_calls, zero1__stream **stream,
                                zero1__error *error);
  /** Runs what is enqueued, then frees; NULL is fine. */
  void (*stream_destroy)(zero1__device *device, zero1__stream *stream);
  /** The library's handle of a stream that the caller gave; NULL where there is no such stream. */
  zero1__stream *(*stream_of_caller)(zero1__device *device, void *stream);

  zero1_status (*event_create)(zero1__device *device, zero1__event **event, zero1__error *error);
  void (*event_destroy)(zero1__device *device, zero1__event *event);
  void (*event_record)(zero1__device *device, zero1__event *event, zero1__stream *stream);
  /** `stream` goes on after the record of `event` that was enqueued last. */
  void (*stream_wait)(zero1__device *device, zero1__stream *stream, zero1__event *event);
  /** The calling thread goes on after it. */
  void (*event_sync)(zero1__device *device, zero1__event *event);

  void (*host_call)(zero1__device *device, zero1__stream *stream, zero1__host_fn fn, void *context,
                    const void *args, size_t args_bytes);

  /* kernels; *elapsed_ns, where given, grows by the time that the kernel took */
  void (*reduce)(zero1__device *device, zero1__stream *stream, const zero1__reduce_job *job,
                 int64_t *elapsed_ns);
  void (*update)(zero1__device *device, zero1__stream *stream, const zero1__update_job *job,
                 int64_t *elapsed_ns);
  void (*master)(zero1__device *device, zero1__stream *stream, const zero1__master_job *job);
  void (*hash)(zero1__device *device, zero1__stream *stream, const zero1__hash_job *job);
  void (*zero)(zero1__device *device, zero1__stream *stream, void *memory, size_t bytes);
} zero1__device_ops;

/** Every backend's handle begins with its table. */
struct zero1__device {
  const zero1__device_ops *ops;
};

/** The host. threads: that compute, 1 or more. Owned: device->ops->destroy.
 *  ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE (no thread can be started), and as zero1__kernels_pick. */
zero1_status zero1__device_host_create(int32_t threads, zero1__device **device,
                                       zero1__error *error);

#endif
