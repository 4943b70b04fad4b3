/* Hand-overs of a device taken out, and the work before them held up, without code in the library:
 * a rank's device gets a table of its own (device_ops.h), which looks at each call and passes it
 * on. What a table cannot show is led here by the linker (`// wrap:` in test_handover_device.c).
 *
 * Each call has a name of words, and a plan names calls by patterns (fnmatch):
 *
 *   held up       "<stream> <entry of the table>", and the caller's own "caller<n> read" and
 *                 "caller<n> write": a task that sleeps comes before it in the stream;
 *                 "root": sleeps before it writes what it broadcasts
 *   taken out     "wait <when> <stream> <event>"     stream_wait; "ready <stream>" is the caller's
 *                 "sync <when> <event or stream>"    event_sync, stream_sync
 *                 "post <flag>", "await <flag>", "mail", "tell"
 *                 "post_host", "await_host", "order of records",
 *                 "transfer", "barrier <number in a broadcast>"
 *
 * <when>: what the caller is in the middle of (hooks_here->call), or "open" for the begin of a
 * step.
 *
 * Hooks run on the rank's own thread (transfer: on any), and nothing in here orders threads:
 * ThreadSanitizer must see the library's own hand-overs and no others. */
#ifndef ZERO1_TESTS_HANDOVER_DEVICE_HOOKS_H
#define ZERO1_TESTS_HANDOVER_DEVICE_HOOKS_H

#include <fnmatch.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "device_cuda.h"
#include "node.h"
#include "offload.c" /* its streams and events: who else needs to know them? */
#include "optimizer.h"
#include "standin.h"

enum { RANKS = 3 };

typedef struct hooks_plan {
  const char *removed; /* pattern; NULL: none */
  const char *slow;    /* pattern */
  int slow_ranks;      /* mask */
  int32_t times;       /* as slow as usual; 0: nothing is */
} hooks_plan;

static hooks_plan hooks; /* written before the ranks begin */

typedef struct known {
  const void *handle;
  char name[24];
} known;

/* A rank's. */
typedef struct hooked {
  zero1__device_ops ops; /* first: found by the device's own pointer */
  const zero1__device_ops *real;
  zero1__device *device;
  const zero1__schedule *schedule;
  int32_t rank, armed;
  const char *call;     /* what its thread is in the middle of */
  int recording;        /* 1: in event_record */
  const char *ready_of; /* the caller's stream that `ready` was recorded in */
  int32_t barriers;     /* of the broadcast that it is in */
  atomic_int removals;
  int32_t known_count;
  known known[128];
} hooked;

static hooked hooked_devices[RANKS];
static _Thread_local hooked *hooks_here;     /* the rank of this thread; NULL: none */
static _Thread_local hooked *hooks_transfer; /* whose transfer it is in the middle of */

static hooked *hooked_of(zero1__device *device) {
  return (hooked *)(uintptr_t)device->ops;
}

/* ---- names ---- */

static void know(hooked *h, const void *handle, const char *name, int64_t index) {
  CHECK(h->known_count < (int32_t)(sizeof h->known / sizeof *h->known));
  known *const at = &h->known[h->known_count++];
  at->handle = handle;
  if (index < 0)
    snprintf(at->name, sizeof at->name, "%s", name);
  else
    snprintf(at->name, sizeof at->name, "%s %d", name, (int)index);
}

static void know_all(hooked *h, zero1__event **events, const char *name) {
  for (int64_t i = 0; events[i]; ++i) know(h, events[i], name, i);
}

static const char *name_of(const hooked *h, const void *handle) {
  for (int32_t i = 0; i < h->known_count; ++i)
    if (h->known[i].handle == handle) return h->known[i].name;
  return "unknown";
}

static void know_offload(hooked *h, const zero1__offload *offload) {
  know(h, offload->down, "down", -1);
  know(h, offload->work, "work", -1);
  know(h, offload->up, "up", -1);
  know_all(h, offload->done, "done");
  for (int i = 0; i < RING; ++i) {
    know(h, offload->ring[i].down, "down", i);
    know(h, offload->ring[i].worked, "worked", i);
    know(h, offload->ring[i].freed, "freed", i);
  }
}

static void know_schedule(hooked *h, const zero1__schedule *schedule) {
  const struct {
    const void *handle;
    const char *name;
  } ones[] = {{schedule->compute, "compute"}, {schedule->comm, "comm"},
              {schedule->ready, "ready"},     {schedule->reduced, "reduced"},
              {schedule->agreed, "agreed"},   {schedule->finished, "finished"},
              {schedule->offered, "offered"}, {schedule->uncaptured, "uncaptured"}};
  for (size_t i = 0; i < sizeof ones / sizeof *ones; ++i) know(h, ones[i].handle, ones[i].name, -1);
  know_all(h, schedule->updated, "updated");
  know_all(h, schedule->gathered, "gathered");
  know_all(h, schedule->arrived, "arrived");
  know_all(h, schedule->made, "made");
  know_all(h, schedule->freed, "freed");
  if (schedule->offload) know_offload(h, schedule->offload);
}

/* ---- taken out, or held up ---- */

static int is_removed(hooked *h, const char *kind, const char *when, const char *what,
                      const char *which) {
  char name[96];
  if (!h->armed || !hooks.removed) return 0;
  snprintf(name, sizeof name, "%s%s%s%s%s%s%s", kind, *when ? " " : "", when, *what ? " " : "",
           what, *which ? " " : "", which);
  if (fnmatch(hooks.removed, name, 0)) return 0;
  atomic_fetch_add_explicit(&h->removals, 1, memory_order_relaxed);
  return 1;
}

static void sleep_us(int64_t us) {
  const struct timespec time = {us / 1000000, us % 1000000 * 1000};
  nanosleep(&time, NULL);
}

static void sleep_kernel(void *args) {
  sleep_us(*(const int64_t *)args);
}

static void sleep_call(void *context, const void *args) {
  int64_t us;
  (void)context;
  memcpy(&us, args, sizeof us);
  sleep_us(us);
}

static int is_slow(const hooked *h, const char *name) {
  return h->armed && hooks.slow && hooks.slow_ranks >> h->rank & 1 && !fnmatch(hooks.slow, name, 0);
}

/* Before `entry` is enqueued in `stream`. */
static void hold_up(hooked *h, zero1__stream *stream, const char *entry) {
  const int64_t us = 3000 * hooks.times;
  char name[64];
  snprintf(name, sizeof name, "%s %s", name_of(h, stream), entry);
  if (!us || !is_slow(h, name)) return;
  cudaStream_t const native = h->real->native(h->device, stream);
  if (native)
    CHECK_CUDA(standin_launch(native, sleep_kernel, &us, sizeof us));
  else
    h->real->host_call(h->device, stream, sleep_call, NULL, &us, sizeof us);
}

/* ---- the table ---- */

static const char *when_of(const hooked *h) {
  const int begins = h->schedule->phase == ZERO1__PHASE_IDLE;
  const int marks = !strcmp(h->call, "grad_ready") || !strcmp(h->call, "step");
  return begins && marks ? "open" : h->call;
}

static void hooked_stream_wait(zero1__device *device, zero1__stream *stream, zero1__event *event) {
  hooked *const h = hooked_of(device);
  const int is_ready = event == h->schedule->ready;
  char name[48];
  snprintf(name, sizeof name, "%s%s%s", name_of(h, event), is_ready ? " " : "",
           is_ready ? h->ready_of : "");
  if (is_removed(h, "wait", when_of(h), name_of(h, stream), name)) return;
  h->real->stream_wait(device, stream, event);
}

static void hooked_event_record(zero1__device *device, zero1__event *event, zero1__stream *stream) {
  hooked *const h = hooked_of(device);
  if (event == h->schedule->ready) h->ready_of = name_of(h, stream);
  h->recording = 1;
  h->real->event_record(device, event, stream);
  h->recording = 0;
}

static void hooked_event_sync(zero1__device *device, zero1__event *event) {
  hooked *const h = hooked_of(device);
  if (!is_removed(h, "sync", when_of(h), name_of(h, event), "")) h->real->event_sync(device, event);
}

static void hooked_stream_sync(zero1__device *device, zero1__stream *stream) {
  hooked *const h = hooked_of(device);
  if (!is_removed(h, "sync", when_of(h), name_of(h, stream), ""))
    h->real->stream_sync(device, stream);
}

static void hooked_host_call(zero1__device *device, zero1__stream *stream, zero1__host_fn fn,
                             void *context, const void *args, size_t args_bytes) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, "call");
  h->real->host_call(device, stream, fn, context, args, args_bytes);
}

static void hooked_time_begin(zero1__device *device, zero1__stream *stream, int64_t *elapsed_ns) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, "time");
  h->real->time_begin(device, stream, elapsed_ns);
}

static void hooked_copy(zero1__device *device, zero1__stream *stream, void *to, const void *from,
                        size_t bytes) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, "copy");
  h->real->copy(device, stream, to, from, bytes);
}

static void hooked_reduce(zero1__device *device, zero1__stream *stream,
                          const zero1__reduce_job *job, int64_t *elapsed_ns) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, job->partial ? "partial" : "reduce");
  h->real->reduce(device, stream, job, elapsed_ns);
}

static void hooked_update(zero1__device *device, zero1__stream *stream,
                          const zero1__update_job *job, int64_t *elapsed_ns) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, "update");
  h->real->update(device, stream, job, elapsed_ns);
}

/* An entry that takes nothing but its job, and is passed on late or in time. */
#define HOLD_UP(noun, job_type)                                                                  \
  static void hooked_##noun(zero1__device *device, zero1__stream *stream, const job_type *job) { \
    hooked *const h = hooked_of(device);                                                         \
    hold_up(h, stream, #noun);                                                                   \
    h->real->noun(device, stream, job);                                                          \
  }

HOLD_UP(master, zero1__master_job)
HOLD_UP(hash, zero1__hash_job)
HOLD_UP(open, zero1__open_job)
HOLD_UP(record, zero1__record_job)
HOLD_UP(decide, zero1__decide_job)
HOLD_UP(pull, zero1__pull_job)

#undef HOLD_UP

static void hooked_tell(zero1__device *device, zero1__stream *stream, const zero1__tell_job *job) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, "tell");
  if (!is_removed(h, "tell", "", "", "")) h->real->tell(device, stream, job);
}

/* Flags of the node comm: grads_ready [buckets], updated [buckets], copied. */
static const char *flag_name(const hooked *h, int64_t flag, char *name, size_t bytes) {
  const int64_t buckets = h->schedule->layout->bucket_count;
  if (flag == 2 * buckets)
    snprintf(name, bytes, "copied");
  else
    snprintf(name, bytes, "%s %d", flag < buckets ? "grads_ready" : "updated",
             (int)(flag % buckets));
  return name;
}

static void hooked_post(zero1__device *device, zero1__stream *stream, const zero1__post_job *job) {
  hooked *const h = hooked_of(device);
  char name[24];
  if (is_removed(h, "post", "", flag_name(h, job->offset, name, sizeof name), "")) return;
  hold_up(h, stream, "post");
  h->real->post(device, stream, job);
}

/* The inbox begins on a page, with a row that is shorter. */
static void hooked_await(zero1__device *device, zero1__stream *stream,
                         const zero1__await_job *job) {
  hooked *const h = hooked_of(device);
  const int64_t flag = (int64_t)((uintptr_t)job->flags % 4096 / sizeof *job->flags);
  char name[24];
  if (is_removed(h, "await", "", flag_name(h, flag, name, sizeof name), "")) return;
  h->real->await(device, stream, job);
}

/* What mail does, but for its wait. */
static void mail_unawaited(void *args) {
  const zero1__mail_job *const job = args;
  const uint32_t sequence = ++*job->sequence;
  const size_t all_bytes = job->bytes * (size_t)job->count, half = sequence % 2 * all_bytes;
  for (int32_t i = 0; i < job->count; ++i) {
    uint32_t *const flags = (uint32_t *)(void *)(job->mailboxes[i] + 2 * all_bytes);
    memcpy(job->mailboxes[i] + half + (size_t)job->rank * job->bytes, job->mine, job->bytes);
    __atomic_store_n(flags + job->rank, sequence, __ATOMIC_RELEASE);
  }
  memcpy(job->all, job->mailboxes[job->rank] + half, all_bytes);
}

static void hooked_mail(zero1__device *device, zero1__stream *stream, const zero1__mail_job *job) {
  hooked *const h = hooked_of(device);
  hold_up(h, stream, "mail");
  if (is_removed(h, "mail", "", "", ""))
    CHECK_CUDA(standin_launch(h->real->native(device, stream), mail_unawaited, job, sizeof *job));
  else
    h->real->mail(device, stream, job);
}

/* In the device's own stream, on the calling thread. */
static void hooked_transfer(zero1__device *device, void *to, const void *from, size_t bytes) {
  hooked *const h = hooked_of(device);
  zero1__cuda_queue own = {.handle = zero1__cuda_of(device)->own_stream};
  hold_up(h, (zero1__stream *)&own, "transfer");
  hooks_transfer = h;
  h->real->transfer(device, to, from, bytes);
  hooks_transfer = NULL;
}

/* ---- below the table: calls from file to file ---- */

#define WRAP(result, name, ...)      \
  result __real_##name(__VA_ARGS__); \
  result __wrap_##name(__VA_ARGS__); \
  result __wrap_##name(__VA_ARGS__)

WRAP(int, zero1__cuda_post_host, uint32_t *flag, uint32_t value, zero1__cuda_stream stream) {
  if (hooks_here && is_removed(hooks_here, "post_host", "", "", "")) return 0;
  return __real_zero1__cuda_post_host(flag, value, stream);
}

WRAP(int, zero1__cuda_await_host, const uint32_t *flag, uint32_t value, uint32_t *give_up,
     int64_t timeout_ns, zero1__cuda_stream stream) {
  if (hooks_here && is_removed(hooks_here, "await_host", "", "", "")) return 0;
  return __real_zero1__cuda_await_host(flag, value, give_up, timeout_ns, stream);
}

/* A record in another stream than the last one comes after that. */
WRAP(cudaError_t, cudaStreamWaitEvent, cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (hooks_here && hooks_here->recording && is_removed(hooks_here, "order of records", "", "", ""))
    return cudaSuccess;
  return __real_cudaStreamWaitEvent(stream, event, flags);
}

/* The wait at the end of a transfer. */
WRAP(cudaError_t, cudaStreamSynchronize, cudaStream_t stream) {
  if (hooks_transfer && is_removed(hooks_transfer, "transfer", "", "", "")) return cudaSuccess;
  return __real_cudaStreamSynchronize(stream);
}

/* A broadcast has two: the root has written; the root may write again. */
WRAP(zero1_status, zero1__node_barrier, zero1__node *node, zero1__error *error) {
  const char *number;
  if (!hooks_here || strcmp(hooks_here->call, "broadcast"))
    return __real_zero1__node_barrier(node, error);
  number = ++hooks_here->barriers % 2 ? "1" : "2";
  if (is_removed(hooks_here, "barrier", number, "", "")) return ZERO1_OK;
  return __real_zero1__node_barrier(node, error);
}

/* ---- a rank's optimizer becomes known ---- */

static void hooks_begin(zero1_optimizer *optimizer, int32_t rank, void *const *callers, int count) {
  hooked *const h = &hooked_devices[rank];
  zero1__device *const device = optimizer->device;
  *h = (hooked){.ops = *device->ops,
                .real = device->ops,
                .device = device,
                .schedule = &optimizer->schedule,
                .rank = rank,
                .call = "none",
                .ready_of = "nobody"};
  know_schedule(h, h->schedule);
  for (int i = 0; i < count; ++i) {
    char name[16];
    snprintf(name, sizeof name, "caller%d", i);
    know(h, device->ops->stream_of_caller(device, callers[i], NULL), name, -1);
  }
  h->ops.transfer = hooked_transfer;
  h->ops.stream_wait = hooked_stream_wait;
  h->ops.event_record = hooked_event_record;
  h->ops.event_sync = hooked_event_sync;
  h->ops.stream_sync = hooked_stream_sync;
  h->ops.host_call = hooked_host_call;
  h->ops.time_begin = hooked_time_begin;
  h->ops.copy = hooked_copy;
  h->ops.reduce = hooked_reduce;
  h->ops.update = hooked_update;
  h->ops.master = hooked_master;
  h->ops.hash = hooked_hash;
  h->ops.open = hooked_open;
  h->ops.record = hooked_record;
  h->ops.decide = hooked_decide;
  h->ops.pull = hooked_pull;
  h->ops.tell = hooked_tell;
  h->ops.post = hooked_post;
  h->ops.await = hooked_await;
  h->ops.mail = hooked_mail;
  device->ops = &h->ops;
  hooks_here = h;
}

/* Before the optimizer is destroyed: its end is none of a step's hand-overs. */
static void hooks_end(void) {
  hooks_here->device->ops = hooks_here->real;
  hooks_here = NULL;
}

static void hooks_arm(void) {
  if (hooks_here) hooks_here->armed = 1;
}

/* What follows is, to the hooks, part of this call. */
static void hooks_call(const char *call) {
  if (hooks_here) hooks_here->call = call;
}

/* Of the caller's own work in one of its streams. */
static void hooks_hold_up(int caller, const char *what) {
  char name[16];
  if (!hooks_here) return;
  snprintf(name, sizeof name, "caller%d", caller);
  for (int32_t i = 0; i < hooks_here->known_count; ++i)
    if (!strcmp(hooks_here->known[i].name, name))
      hold_up(hooks_here, (zero1__stream *)(uintptr_t)hooks_here->known[i].handle, what);
}

#endif
