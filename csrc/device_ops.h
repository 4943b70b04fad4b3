/* The device vtable: memory, streams, events, kernels. Backends: host (device_host.c), cuda
 * (device_cuda.c).
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
#include "step_jobs.h"

typedef struct zero1__device zero1__device;
typedef struct zero1__stream zero1__stream;
typedef struct zero1__event zero1__event;

/** A function of the host to run in a stream. args: the copy of what host_call was given. */
typedef void (*zero1__host_fn)(void *context, const void *args);

/** Bytes of args that host_call takes. */
#define ZERO1__HOST_ARGS 64

/** What runs in a stream. On the host all kinds run both. */
enum {
  ZERO1__STREAM_KERNELS = 0,    /* of the device: kernels and copies */
  ZERO1__STREAM_HOST_CALLS = 1, /* on a thread of the library's own */
  ZERO1__STREAM_INLINE = 2      /* host calls on the thread that enqueues them (for communication
                                   libraries that must be called from the caller's own thread) */
};

/** CUDA puts smaller pieces of memory into blocks of 2 MiB, and shares such a block as a whole. */
#define ZERO1__SHARED_BYTES ((size_t)2 << 20)

/** By which another process, or another thread, maps memory of a device; can be sent as bytes. */
typedef struct zero1__memory_key {
  int64_t pid;
  uint64_t address; /* in that process */
  uint64_t bytes;
  int32_t device_index;
  int32_t reserved;
  char bus_id[32];
  unsigned char handle[64];
} zero1__memory_key;

/** What a device does for one optimizer. The entries up to the blank comment are of every device;
 *  those after it NULL where zero1__device.is_host. */
typedef struct zero1__device_ops {
  const char *name;
  void (*destroy)(zero1__device *device);

  /** Zeroed memory on a page of its own. *memory is NULL on failure, and for 0 bytes. */
  zero1_status (*memory_alloc)(zero1__device *device, size_t bytes, void **memory,
                               zero1__error *error);
  void (*memory_free)(zero1__device *device, void *memory, size_t bytes);
  /** Zeroed memory of the host that the device's kernels and copies reach. Otherwise alike. */
  zero1_status (*pinned_alloc)(zero1__device *device, size_t bytes, void **memory,
                               zero1__error *error);
  void (*pinned_free)(zero1__device *device, void *memory, size_t bytes);
  /** Copies between any memories; the calling thread, any thread, waits until it is done, and for
   *  nothing else. Nothing is copied once check has a failure to tell. */
  void (*transfer)(zero1__device *device, void *to, const void *from, size_t bytes);

  /** kind: ZERO1__STREAM_. */
  zero1_status (*stream_create)(zero1__device *device, int kind, zero1__stream **stream,
                                zero1__error *error);
  /** Runs what is enqueued, then frees; NULL is fine. */
  void (*stream_destroy)(zero1__device *device, zero1__stream *stream);
  /** The library's handle of a stream that the caller gave, owned by the device; NULL where there
   *  is no such stream, with the reason in error. */
  zero1__stream *(*stream_of_caller)(zero1__device *device, void *stream, zero1__error *error);
  /** The calling thread waits until all that is enqueued in the stream is done. */
  void (*stream_sync)(zero1__device *device, zero1__stream *stream);

  zero1_status (*event_create)(zero1__device *device, zero1__event **event, zero1__error *error);
  void (*event_destroy)(zero1__device *device, zero1__event *event);
  void (*event_record)(zero1__device *device, zero1__event *event, zero1__stream *stream);
  /** `stream` goes on after the record of `event` that was enqueued last. */
  void (*stream_wait)(zero1__device *device, zero1__stream *stream, zero1__event *event);
  /** The calling thread goes on after it. */
  void (*event_sync)(zero1__device *device, zero1__event *event);

  /** In a stream of host calls alone. */
  void (*host_call)(zero1__device *device, zero1__stream *stream, zero1__host_fn fn, void *context,
                    const void *args, size_t args_bytes);

  /* kernels; *elapsed_ns, where given, grows by the time that the kernel took (devices other than
   * the host: with the next call of times) */
  void (*reduce)(zero1__device *device, zero1__stream *stream, const zero1__reduce_job *job,
                 int64_t *elapsed_ns);
  void (*update)(zero1__device *device, zero1__stream *stream, const zero1__update_job *job,
                 int64_t *elapsed_ns);
  void (*master)(zero1__device *device, zero1__stream *stream, const zero1__master_job *job);
  void (*round_params)(zero1__device *device, zero1__stream *stream, const zero1__round_job *job);
  void (*hash)(zero1__device *device, zero1__stream *stream, const zero1__hash_job *job);
  void (*zero)(zero1__device *device, zero1__stream *stream, void *memory, size_t bytes);
  /** The first failure of the device, or ZERO1_OK; does not wait. Any thread. */
  zero1_status (*check)(zero1__device *device, zero1__error *error);
  /* NULL: this device has no gradients of 8 bits */
  void (*encode)(zero1__device *device, zero1__stream *stream, const zero1__int8_job *job,
                 int64_t *elapsed_ns);
  void (*settle)(zero1__device *device, zero1__stream *stream, const zero1__int8_job *job,
                 int64_t *elapsed_ns);

  /* ---- */

  /** Whether so much memory is free, asked before it is taken. ZERO1_ERR_MEMORY: says how much is.
   */
  zero1_status (*memory_check)(zero1__device *device, uint64_t bytes, zero1__error *error);
  /** The layout's block table, before the first kernel; `layout` outlives the device. */
  zero1_status (*set_layout)(zero1__device *device, const zero1__layout *layout,
                             zero1__error *error);
  /** Every kernel that waits for a peer, now or later, gives up. Any thread. */
  void (*lose)(zero1__device *device);
  /** Not 0 where `stream` is being captured into a graph: that capture's number. */
  uint64_t (*capturing)(zero1__device *device, zero1__stream *stream);
  /** The device's own handle: cudaStream_t. */
  void *(*native)(zero1__device *device, zero1__stream *stream);

  /** Makes memory_alloc's memory known to peers, and maps a peer's: a thread's of the same process
   *  as it is. What processes share is whole multiples of ZERO1__SHARED_BYTES.
   *  ZERO1_ERR_UNSUPPORTED: the two devices cannot see each other's memory. */
  zero1_status (*memory_share)(zero1__device *device, void *memory, size_t bytes,
                               zero1__memory_key *key, zero1__error *error);
  zero1_status (*memory_map)(zero1__device *device, const zero1__memory_key *key, void **memory,
                             zero1__error *error);
  void (*memory_unmap)(zero1__device *device, const zero1__memory_key *key, void *memory);
  /** What others than this process's copies and kernels wrote into the device's memory (a network
   *  card that was given its address), and are done with, is seen by kernels that were enqueued
   *  before, too. The calling thread, any thread, waits until it is. */
  void (*flush_writes)(zero1__device *device);

  /** In stream order: a few bytes, which are read during the call; or memory of any kind. */
  void (*write)(zero1__device *device, zero1__stream *stream, void *to, const void *from,
                size_t bytes);
  void (*copy)(zero1__device *device, zero1__stream *stream, void *to, const void *from,
               size_t bytes);

  /** Time between two calls on one stream grows *elapsed_ns by the next call of times; nothing
   *  while it is captured. times: with the streams idle. times_forget: between pairs of calls; what
   *  has not been read by then, nobody will. */
  void (*time_begin)(zero1__device *device, zero1__stream *stream, int64_t *elapsed_ns);
  void (*time_end)(zero1__device *device, zero1__stream *stream);
  void (*times)(zero1__device *device);
  void (*times_forget)(zero1__device *device);

  /* step_jobs.h */
  void (*open)(zero1__device *device, zero1__stream *stream, const zero1__open_job *job);
  void (*record)(zero1__device *device, zero1__stream *stream, const zero1__record_job *job);
  void (*agree_check)(zero1__device *device, zero1__stream *stream, const zero1__check_job *job);
  void (*decide)(zero1__device *device, zero1__stream *stream, const zero1__decide_job *job);
  void (*tell)(zero1__device *device, zero1__stream *stream, const zero1__tell_job *job);
  void (*post)(zero1__device *device, zero1__stream *stream, const zero1__post_job *job);
  void (*await)(zero1__device *device, zero1__stream *stream, const zero1__await_job *job);
  void (*mail)(zero1__device *device, zero1__stream *stream, const zero1__mail_job *job);
  void (*pull)(zero1__device *device, zero1__stream *stream, const zero1__pull_job *job);
} zero1__device_ops;

/** Every backend's handle begins with these. */
struct zero1__device {
  const zero1__device_ops *ops;
  int32_t is_host; /* 1: the caller's thread is a stream, and memory is the host's */
};

/** What an optimizer runs on. */
typedef struct zero1__device_config {
  int32_t kind;    /* ZERO1_DEVICE_ */
  int32_t index;   /* of its kind; -1: the thread's current one */
  int32_t threads; /* of the host that compute, 1 or more */
  void *stream;    /* what ZERO1_STREAM_DEFAULT stands for */
  /* Of a wait for a peer. Between a stream of the device and a thread of the host nobody waits for
   * longer than twice that: check then says ZERO1_ERR_TIMEOUT. 0: for as long as it takes. */
  double timeout_seconds;
} zero1__device_config;

/** The factory. Owned: device->ops->destroy. ZERO1_ERR_MEMORY, ZERO1_ERR_NO_DEVICE,
 *  ZERO1_ERR_UNSUPPORTED (not in this build), ZERO1_ERR_DEVICE, and as zero1__kernels_pick. */
zero1_status zero1__device_create(const zero1__device_config *config, zero1__device **device,
                                  zero1__error *error);

/** The backends' own. host: ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE (no thread can be started). */
zero1_status zero1__device_host_create(int32_t threads, zero1__device **device,
                                       zero1__error *error);
zero1_status zero1__device_cuda_create(const zero1__device_config *config, zero1__device **device,
                                       zero1__error *error);

#endif
