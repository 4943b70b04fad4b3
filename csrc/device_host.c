/* The host as a device: kernels of kernels_host.c split over a pool, in streams of stream_host.c */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "device_ops.h"
#include "kernels_host.h"
#include "pool.h"
#include "stream_host.h"

typedef struct host_device {
  zero1__device base;
  const zero1__kernels *kernels;
  zero1__pool *pool;
  zero1__stats *stats; /* [threads] */
  zero1__stream *caller;
} host_device;

static host_device *host_of(zero1__device *device) {
  return (host_device *)device;
}

static void host_destroy(zero1__device *device) {
  host_device *host = host_of(device);
  zero1__pool_destroy(host->pool);
  zero1__stream_destroy(host->caller);
  free(host->stats);
  free(host);
}

static zero1_status host_memory_alloc(zero1__device *device, size_t bytes, void **memory,
                                      zero1__error *error) {
  (void)device;
  *memory = NULL;
  if (!bytes) return ZERO1_OK;
  void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "%zu bytes of memory: mmap: %s", bytes,
                       strerror(errno));
  madvise(base, bytes, MADV_HUGEPAGE); /* fewer TLB misses where the kernel has it to give */
  *memory = base;
  return ZERO1_OK;
}

static void host_memory_free(zero1__device *device, void *memory, size_t bytes) {
  (void)device;
  if (memory) munmap(memory, bytes);
}

static void host_transfer(zero1__device *device, void *to, const void *from, size_t bytes) {
  (void)device;
  if (bytes) memcpy(to, from, bytes);
}

static zero1_status host_stream_create(zero1__device *device, int kind, zero1__stream **stream,
                                       zero1__error *error) {
  (void)device;
  return zero1__stream_create(kind == ZERO1__STREAM_INLINE, stream, error);
}

static void host_stream_destroy(zero1__device *device, zero1__stream *stream) {
  (void)device;
  zero1__stream_destroy(stream);
}

static zero1__stream *host_stream_of_caller(zero1__device *device, void *stream,
                                            zero1__error *error) {
  if (!stream || stream == ZERO1_STREAM_DEFAULT) return host_of(device)->caller;
  zero1__fail(error, ZERO1_ERR_INVALID,
              "stream is %p: the host has no streams but ZERO1_STREAM_DEFAULT", stream);
  return NULL;
}

static void host_stream_sync(zero1__device *device, zero1__stream *stream) {
  (void)device;
  zero1__stream_sync(stream);
}

static zero1_status host_event_create(zero1__device *device, zero1__event **event,
                                      zero1__error *error) {
  (void)device;
  return zero1__event_create(event, error);
}

static void host_event_destroy(zero1__device *device, zero1__event *event) {
  (void)device;
  zero1__event_destroy(event);
}

static void host_event_record(zero1__device *device, zero1__event *event, zero1__stream *stream) {
  (void)device;
  zero1__event_record(event, stream);
}

static void host_stream_wait(zero1__device *device, zero1__stream *stream, zero1__event *event) {
  (void)device;
  zero1__stream_wait(stream, event);
}

static void host_event_sync(zero1__device *device, zero1__event *event) {
  (void)device;
  zero1__event_sync(event);
}

static void host_host_call(zero1__device *device, zero1__stream *stream, zero1__host_fn fn,
                           void *context, const void *args, size_t args_bytes) {
  (void)device;
  zero1__stream_push(stream, fn, context, args, args_bytes);
}

/* ---- kernels ---- */

/* 10 blocks on 4 threads: [0, 2) [2, 5) [5, 7) [7, 10). */
static zero1__range part_of(zero1__range blocks, int32_t thread, int32_t threads) {
  const int64_t count = blocks.end - blocks.begin;
  return (zero1__range){blocks.begin + count * thread / threads,
                        blocks.begin + count * (thread + 1) / threads};
}

/* What a kernel's task carries. */
typedef struct reduce_task {
  zero1__reduce_job job;
  int64_t *elapsed_ns;
} reduce_task;

typedef struct update_task {
  zero1__update_job job;
  int64_t *elapsed_ns;
} update_task;

_Static_assert(sizeof(reduce_task) <= ZERO1__TASK_BYTES, "a task holds a reduce");
_Static_assert(sizeof(update_task) <= ZERO1__TASK_BYTES, "a task holds an update");

/* What a pool run works on. */
typedef struct split {
  host_device *host;
  const void *job;
} split;

static void clear_stats(host_device *host) {
  for (int32_t i = 0; i < zero1__pool_threads(host->pool); ++i) zero1__stats_clear(&host->stats[i]);
}

static void merge_stats(host_device *host, zero1__stats *stats) {
  for (int32_t i = 0; i < zero1__pool_threads(host->pool); ++i)
    zero1__stats_merge(stats, &host->stats[i]);
}

static void count_time(int64_t *elapsed_ns, int64_t begin_ns) {
  if (elapsed_ns) *elapsed_ns += zero1__now_ns() - begin_ns;
}

static void reduce_part(void *context, int32_t thread, int32_t threads) {
  const split *work = context;
  const zero1__reduce_job *job = work->job;
  work->host->kernels->reduce(job, part_of(job->blocks, thread, threads),
                              &work->host->stats[thread]);
}

static void reduce_run(void *context, const void *args) {
  const reduce_task *task = args;
  split work = {context, &task->job};
  if (task->job.lost && __atomic_load_n(task->job.lost, __ATOMIC_ACQUIRE)) return;
  const int64_t begin_ns = zero1__now_ns();
  clear_stats(work.host);
  zero1__pool_run(work.host->pool, reduce_part, &work);
  merge_stats(work.host, task->job.stats);
  count_time(task->elapsed_ns, begin_ns);
}

static void host_reduce(zero1__device *device, zero1__stream *stream, const zero1__reduce_job *job,
                        int64_t *elapsed_ns) {
  const reduce_task task = {*job, elapsed_ns};
  zero1__stream_push(stream, reduce_run, device, &task, sizeof task);
}

static void update_part(void *context, int32_t thread, int32_t threads) {
  const split *work = context;
  const zero1__update_job *job = work->job;
  work->host->kernels->update(job, part_of(job->blocks, thread, threads),
                              job->stats ? &work->host->stats[thread] : NULL);
}

static void update_run(void *context, const void *args) {
  const update_task *task = args;
  split work = {context, &task->job};
  if (task->job.verdict->skip) return;
  const int64_t begin_ns = zero1__now_ns();
  clear_stats(work.host);
  zero1__pool_run(work.host->pool, update_part, &work);
  if (task->job.stats) merge_stats(work.host, task->job.stats);
  count_time(task->elapsed_ns, begin_ns);
}

static void host_update(zero1__device *device, zero1__stream *stream, const zero1__update_job *job,
                        int64_t *elapsed_ns) {
  const update_task task = {*job, elapsed_ns};
  zero1__stream_push(stream, update_run, device, &task, sizeof task);
}

static void master_part(void *context, int32_t thread, int32_t threads) {
  const split *work = context;
  const zero1__master_job *job = work->job;
  work->host->kernels->master(job, part_of(job->blocks, thread, threads));
}

static void master_run(void *context, const void *args) {
  split work = {context, args};
  zero1__pool_run(work.host->pool, master_part, &work);
}

static void host_master(zero1__device *device, zero1__stream *stream,
                        const zero1__master_job *job) {
  zero1__stream_push(stream, master_run, device, job, sizeof *job);
}

static void round_part(void *context, int32_t thread, int32_t threads) {
  const split *work = context;
  const zero1__round_job *job = work->job;
  work->host->kernels->round_params(job, part_of(job->blocks, thread, threads));
}

static void round_run(void *context, const void *args) {
  split work = {context, args};
  zero1__pool_run(work.host->pool, round_part, &work);
}

static void host_round_params(zero1__device *device, zero1__stream *stream,
                              const zero1__round_job *job) {
  zero1__stream_push(stream, round_run, device, job, sizeof *job);
}

typedef struct int8_task {
  zero1__int8_job job;
  int64_t *elapsed_ns;
} int8_task;

_Static_assert(sizeof(int8_task) <= ZERO1__TASK_BYTES, "a task holds gradients of 8 bits");

static void int8_run(host_device *host, const int8_task *task, zero1__pool_fn part) {
  split work = {host, &task->job};
  const int64_t begin_ns = zero1__now_ns();
  zero1__pool_run(host->pool, part, &work);
  count_time(task->elapsed_ns, begin_ns);
}

static void encode_part(void *context, int32_t thread, int32_t threads) {
  const split *work = context;
  const zero1__int8_job *job = work->job;
  work->host->kernels->encode(job, part_of(job->blocks, thread, threads));
}

static void encode_run(void *context, const void *args) {
  int8_run(context, args, encode_part);
}

static void host_encode(zero1__device *device, zero1__stream *stream, const zero1__int8_job *job,
                        int64_t *elapsed_ns) {
  const int8_task task = {*job, elapsed_ns};
  zero1__stream_push(stream, encode_run, device, &task, sizeof task);
}

static void settle_part(void *context, int32_t thread, int32_t threads) {
  const split *work = context;
  const zero1__int8_job *job = work->job;
  work->host->kernels->settle(job, part_of(job->blocks, thread, threads));
}

static void settle_run(void *context, const void *args) {
  const int8_task *task = args;
  if (!task->job.verdict->skip) int8_run(context, task, settle_part);
}

static void host_settle(zero1__device *device, zero1__stream *stream, const zero1__int8_job *job,
                        int64_t *elapsed_ns) {
  const int8_task task = {*job, elapsed_ns};
  zero1__stream_push(stream, settle_run, device, &task, sizeof task);
}

static void hash_run(void *context, const void *args) {
  const host_device *host = context;
  const zero1__hash_job *job = args;
  *job->hash += host->kernels->hash(job, job->elements);
}

static void host_hash(zero1__device *device, zero1__stream *stream, const zero1__hash_job *job) {
  zero1__stream_push(stream, hash_run, device, job, sizeof *job);
}

typedef struct zero_task {
  void *memory;
  size_t bytes;
} zero_task;

static void zero_run(void *context, const void *args) {
  const zero_task *task = args;
  (void)context;
  if (task->bytes) memset(task->memory, 0, task->bytes);
}

static void host_zero(zero1__device *device, zero1__stream *stream, void *memory, size_t bytes) {
  const zero_task task = {memory, bytes};
  zero1__stream_push(stream, zero_run, device, &task, sizeof task);
}

/* The host's calls do not fail. */
static zero1_status host_check(zero1__device *device, zero1__error *error) {
  (void)device;
  (void)error;
  return ZERO1_OK;
}

static const zero1__device_ops host_ops = {
    .name = "host",
    .destroy = host_destroy,
    .memory_alloc = host_memory_alloc,
    .memory_free = host_memory_free,
    .pinned_alloc = host_memory_alloc,
    .pinned_free = host_memory_free,
    .transfer = host_transfer,
    .stream_create = host_stream_create,
    .stream_destroy = host_stream_destroy,
    .stream_of_caller = host_stream_of_caller,
    .stream_sync = host_stream_sync,
    .event_create = host_event_create,
    .event_destroy = host_event_destroy,
    .event_record = host_event_record,
    .stream_wait = host_stream_wait,
    .event_sync = host_event_sync,
    .host_call = host_host_call,
    .reduce = host_reduce,
    .update = host_update,
    .master = host_master,
    .round_params = host_round_params,
    .hash = host_hash,
    .zero = host_zero,
    .check = host_check,
    .encode = host_encode,
    .settle = host_settle,
};

zero1_status zero1__device_host_create(int32_t threads, zero1__device **device,
                                       zero1__error *error) {
  *device = NULL;
  host_device *host = calloc(1, sizeof *host);
  if (!host) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the host device");
  host->base.ops = &host_ops;
  host->base.is_host = 1;
  zero1_status status = zero1__kernels_pick(&host->kernels, error);
  if (!status) status = zero1__pool_create(threads, &host->pool, error);
  if (!status) status = zero1__stream_create(1, &host->caller, error);
  if (!status && !(host->stats = calloc((size_t)threads, sizeof *host->stats)))
    status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the host device");
  if (status) {
    host_destroy(&host->base);
    return status;
  }
  *device = &host->base;
  return ZERO1_OK;
}
