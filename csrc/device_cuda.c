/* A GPU as a device: kernels of cuda/, through their launchers, in CUDA's streams. */
#include "device_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

/* ---- the calling thread ---- */

zero1__cuda_guard zero1__cuda_enter(zero1__cuda *cuda) {
  zero1__cuda_guard guard = {.device = cuda->index, .own = cuda->index};
  const cudaError_t result = cudaGetDevice(&guard.device);
  if (result) guard.device = guard.own;
  zero1__cuda_forget(result);
  if (guard.device != guard.own)
    zero1__cuda_failed(cuda, "cudaSetDevice", cudaSetDevice(guard.own));
  return guard;
}

zero1__cuda_guard zero1__cuda_enter_relaxed(zero1__cuda *cuda) {
  zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  guard.mode = cudaStreamCaptureModeRelaxed;
  guard.relaxed = !cudaThreadExchangeStreamCaptureMode(&guard.mode);
  return guard;
}

void zero1__cuda_leave(const zero1__cuda_guard *guard) {
  enum cudaStreamCaptureMode mode = guard->mode;
  if (guard->relaxed) zero1__cuda_forget(cudaThreadExchangeStreamCaptureMode(&mode));
  if (guard->device != guard->own) zero1__cuda_forget(cudaSetDevice(guard->device));
}

/* ---- failures ---- */

void zero1__cuda_forget(cudaError_t result) {
  if (result && cudaPeekAtLastError() == result) (void)cudaGetLastError();
}

static void note(zero1__cuda *cuda, zero1_status status, const char *what, const char *why) {
  pthread_mutex_lock(&cuda->failure_mutex);
  zero1__fail(&cuda->failure, status, "CUDA device %d: %s: %s", cuda->index, what, why);
  __atomic_store_n(&cuda->failed, 1, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&cuda->failure_mutex);
}

int zero1__cuda_failed(zero1__cuda *cuda, const char *call, cudaError_t result) {
  if (!result) return 0;
  zero1__cuda_forget(result);
  note(cuda, ZERO1_ERR_DEVICE, call, cudaGetErrorString(result));
  return 1;
}

void zero1__cuda_timed_out(zero1__cuda *cuda, const char *wait) {
  char after[64];
  snprintf(after, sizeof after, "not within %g s", (double)cuda->patience_ns / 1e9);
  note(cuda, ZERO1_ERR_TIMEOUT, wait, after);
}

/* A kernel's fault is told by whichever call comes next: this one asks a stream that is in no
 * capture and where nothing waits. */
zero1_status zero1__cuda_health(zero1__cuda *cuda, zero1__error *error) {
  if (__atomic_load_n(cuda->give_up, __ATOMIC_ACQUIRE) == ZERO1__CUDA_GAVE_UP)
    zero1__cuda_timed_out(cuda, "a stream waited for a thread of the host");
  if (!__atomic_load_n(&cuda->failed, __ATOMIC_ACQUIRE)) {
    const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
    const cudaError_t result = cudaStreamQuery(cuda->own_stream);
    if (result == cudaErrorNotReady)
      zero1__cuda_forget(result);
    else
      zero1__cuda_failed(cuda, "a kernel", result);
    zero1__cuda_leave(&guard);
  }
  if (!__atomic_load_n(&cuda->failed, __ATOMIC_ACQUIRE)) return ZERO1_OK;
  pthread_mutex_lock(&cuda->failure_mutex);
  const zero1_status status = zero1__fail(error, cuda->failure.status, "%s", cuda->failure.text);
  pthread_mutex_unlock(&cuda->failure_mutex);
  return status;
}

static zero1_status cuda_health(zero1__device *device, zero1__error *error) {
  return zero1__cuda_health(zero1__cuda_of(device), error);
}

static void cuda_lose(zero1__device *device) {
  uint32_t nobody = 0; /* who has given up is told by check */
  __atomic_compare_exchange_n(zero1__cuda_of(device)->give_up, &nobody, 1, 0, __ATOMIC_RELEASE,
                              __ATOMIC_RELAXED);
}

/* ---- the layout ---- */

static zero1_status upload(zero1__cuda *cuda, const void *from, size_t bytes, void **to,
                           zero1__error *error) {
  const zero1_status status = zero1__cuda_memory_alloc(&cuda->base, bytes, to, error);
  if (!status) zero1__cuda_transfer(&cuda->base, *to, from, bytes);
  return status;
}

/* 600 elements of slot 7 are {7, 256} {7, 256} {7, 88}; padding is {0, 0}. */
static void fill_blocks(const zero1__layout *layout, zero1__cuda_block *blocks) {
  zero1__walk walk = zero1__walk_begin(layout, (zero1__range){0, layout->trainable_blocks});
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    zero1__cuda_block *block = &blocks[segment.block];
    for (int64_t left = segment.numel; left > 0; left -= ZERO1__BLOCK) {
      block->slot = (int32_t)segment.slot;
      block->numel = (int32_t)(left < ZERO1__BLOCK ? left : ZERO1__BLOCK);
      ++block;
    }
  }
}

static zero1_status cuda_set_layout(zero1__device *device, const zero1__layout *layout,
                                    zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const size_t blocks_bytes = (size_t)layout->trainable_blocks * sizeof(zero1__cuda_block);
  const size_t slots_bytes = (size_t)layout->slot_count * sizeof(zero1__slot);
  void *device_blocks = NULL, *device_slots = NULL;
  zero1__cuda_block *blocks = calloc((size_t)layout->trainable_blocks + 1, sizeof *blocks);
  if (!blocks) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the block table");
  fill_blocks(layout, blocks);
  zero1_status status = upload(cuda, blocks, blocks_bytes, &device_blocks, error);
  if (!status) status = upload(cuda, layout->slots, slots_bytes, &device_slots, error);
  free(blocks);
  cuda->layout.blocks = device_blocks; /* freed with the device, after a failure too */
  cuda->layout.slots = device_slots;
  return status ? status : zero1__cuda_health(cuda, error);
}

/* ---- memory, in stream order ---- */

static void cuda_write(zero1__device *device, zero1__stream *stream, void *to, const void *from,
                       size_t bytes) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  for (size_t begin = 0; begin < bytes; begin += ZERO1__CUDA_WRITE_BYTES) {
    const size_t left = bytes - begin;
    const size_t piece = left < ZERO1__CUDA_WRITE_BYTES ? left : ZERO1__CUDA_WRITE_BYTES;
    zero1__cuda_failed(cuda, "kernel write",
                       zero1__cuda_write((char *)to + begin, (const char *)from + begin, piece,
                                         zero1__cuda_queue_of(stream)->handle));
  }
  zero1__cuda_leave(&guard);
}

static void cuda_copy(zero1__device *device, zero1__stream *stream, void *to, const void *from,
                      size_t bytes) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const cudaStream_t handle = zero1__cuda_queue_of(stream)->handle;
  if (!bytes) return;
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(cuda, "cudaMemcpyAsync",
                     cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle));
  zero1__cuda_leave(&guard);
}

static void cuda_zero(zero1__device *device, zero1__stream *stream, void *memory, size_t bytes) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const cudaStream_t handle = zero1__cuda_queue_of(stream)->handle;
  if (!bytes) return;
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(cuda, "cudaMemsetAsync", cudaMemsetAsync(memory, 0, bytes, handle));
  zero1__cuda_leave(&guard);
}

/* ---- kernels ---- */

/* A kernel that goes by the layout, and whose time is asked for. */
#define LAUNCH_TIMED(noun, job_type)                                                           \
  static void cuda_##noun(zero1__device *device, zero1__stream *stream, const job_type *job,   \
                          int64_t *elapsed_ns) {                                               \
    zero1__cuda *cuda = zero1__cuda_of(device);                                                \
    const cudaStream_t handle = zero1__cuda_queue_of(stream)->handle;                          \
    const zero1__cuda_guard guard = zero1__cuda_enter(cuda);                                   \
    zero1__cuda_time_begin(device, stream, elapsed_ns);                                        \
    zero1__cuda_failed(cuda, "kernel " #noun, zero1__cuda_##noun(&cuda->layout, job, handle)); \
    if (elapsed_ns) zero1__cuda_time_end(device, stream);                                      \
    zero1__cuda_leave(&guard);                                                                 \
  }

LAUNCH_TIMED(reduce, zero1__reduce_job)
LAUNCH_TIMED(update, zero1__update_job)

static void cuda_master(zero1__device *device, zero1__stream *stream,
                        const zero1__master_job *job) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(cuda, "kernel master",
                     zero1__cuda_master(&cuda->layout, job, zero1__cuda_queue_of(stream)->handle));
  zero1__cuda_leave(&guard);
}

static void cuda_round_params(zero1__device *device, zero1__stream *stream,
                              const zero1__round_job *job) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(
      cuda, "kernel round_params",
      zero1__cuda_round_params(&cuda->layout, job, zero1__cuda_queue_of(stream)->handle));
  zero1__cuda_leave(&guard);
}

/* A kernel that takes nothing but its job and its stream. */
#define LAUNCH(noun, job_type)                                                                 \
  static void cuda_##noun(zero1__device *device, zero1__stream *stream, const job_type *job) { \
    zero1__cuda *cuda = zero1__cuda_of(device);                                                \
    const zero1__cuda_guard guard = zero1__cuda_enter(cuda);                                   \
    zero1__cuda_failed(cuda, "kernel " #noun,                                                  \
                       zero1__cuda_##noun(job, zero1__cuda_queue_of(stream)->handle));         \
    zero1__cuda_leave(&guard);                                                                 \
  }

LAUNCH(hash, zero1__hash_job)
LAUNCH(open, zero1__open_job)
LAUNCH(record, zero1__record_job)
LAUNCH(check, zero1__check_job)
LAUNCH(decide, zero1__decide_job)
LAUNCH(tell, zero1__tell_job)
LAUNCH(post, zero1__post_job)
LAUNCH(pull, zero1__pull_job)

#undef LAUNCH

static void cuda_await(zero1__device *device, zero1__stream *stream, const zero1__await_job *job) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(cuda, "kernel await",
                     zero1__cuda_await(job, cuda->give_up, zero1__cuda_queue_of(stream)->handle));
  zero1__cuda_leave(&guard);
}

static void cuda_mail(zero1__device *device, zero1__stream *stream, const zero1__mail_job *job) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(cuda, "kernel mail",
                     zero1__cuda_mail(job, cuda->give_up, zero1__cuda_queue_of(stream)->handle));
  zero1__cuda_leave(&guard);
}

/* ---- life ---- */

/* The library's streams are gone by now, the caller's may still hold kernels of ours that look at
 * flags. (cudaFree waits for the whole device by itself.) */
static void cuda_destroy(zero1__device *device) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_callers_end(cuda);
  zero1__cuda_times_end(cuda);
  zero1__cuda_flags_end(cuda);
  zero1__cuda_memory_free(device, (void *)(uintptr_t)cuda->layout.blocks, 0);
  zero1__cuda_memory_free(device, (void *)(uintptr_t)cuda->layout.slots, 0);
  zero1__cuda_pinned_free(device, cuda->give_up, sizeof *cuda->give_up);
  if (cuda->own_stream) zero1__cuda_forget(cudaStreamDestroy(cuda->own_stream));
  zero1__cuda_leave(&guard);
  pthread_mutex_destroy(&cuda->failure_mutex);
  pthread_mutex_destroy(&cuda->own_mutex);
  free(cuda);
}

static const zero1__device_ops cuda_ops = {
    .name = "cuda",
    .destroy = cuda_destroy,
    .memory_check = zero1__cuda_memory_check,
    .memory_alloc = zero1__cuda_memory_alloc,
    .memory_free = zero1__cuda_memory_free,
    .pinned_alloc = zero1__cuda_pinned_alloc,
    .pinned_free = zero1__cuda_pinned_free,
    .transfer = zero1__cuda_transfer,
    .stream_create = zero1__cuda_stream_create,
    .stream_destroy = zero1__cuda_stream_destroy,
    .stream_of_caller = zero1__cuda_stream_of_caller,
    .stream_sync = zero1__cuda_stream_sync,
    .event_create = zero1__cuda_event_create,
    .event_destroy = zero1__cuda_event_destroy,
    .event_record = zero1__cuda_event_record,
    .stream_wait = zero1__cuda_stream_wait,
    .event_sync = zero1__cuda_event_sync,
    .host_call = zero1__cuda_host_call,
    .reduce = cuda_reduce,
    .update = cuda_update,
    .master = cuda_master,
    .round_params = cuda_round_params,
    .hash = cuda_hash,
    .zero = cuda_zero,
    .set_layout = cuda_set_layout,
    .check = cuda_health,
    .lose = cuda_lose,
    .capturing = zero1__cuda_capturing,
    .native = zero1__cuda_native,
    .memory_share = zero1__cuda_memory_share,
    .memory_map = zero1__cuda_memory_map,
    .memory_unmap = zero1__cuda_memory_unmap,
    .flush_writes = zero1__cuda_flush_writes,
    .write = cuda_write,
    .copy = cuda_copy,
    .time_begin = zero1__cuda_time_begin,
    .time_end = zero1__cuda_time_end,
    .times = zero1__cuda_times_read,
    .times_forget = zero1__cuda_times_forget,
    .open = cuda_open,
    .record = cuda_record,
    .agree_check = cuda_check,
    .decide = cuda_decide,
    .tell = cuda_tell,
    .post = cuda_post,
    .await = cuda_await,
    .mail = cuda_mail,
    .pull = cuda_pull,
};

/* 12040 is 12.4. */
static zero1_status fail_no_device(cudaError_t result, zero1__error *error) {
  int driver = 0, runtime = 0;
  zero1__cuda_forget(result);
  if (result != cudaErrorInsufficientDriver)
    return zero1__fail(error, ZERO1_ERR_NO_DEVICE, "CUDA: %s", cudaGetErrorString(result));
  zero1__cuda_forget(cudaDriverGetVersion(&driver));
  zero1__cuda_forget(cudaRuntimeGetVersion(&runtime));
  if (!driver)
    return zero1__fail(error, ZERO1_ERR_NO_DEVICE,
                       "CUDA: %s (no driver is installed; the runtime is CUDA %d.%d)",
                       cudaGetErrorString(result), runtime / 1000, runtime % 1000 / 10);
  return zero1__fail(error, ZERO1_ERR_NO_DEVICE,
                     "CUDA: %s (the driver's is CUDA %d.%d, the runtime's %d.%d)",
                     cudaGetErrorString(result), driver / 1000, driver % 1000 / 10, runtime / 1000,
                     runtime % 1000 / 10);
}

static zero1_status find_device(int32_t asked, int *index, zero1__error *error) {
  int count = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  if (!result && !count) result = cudaErrorNoDevice;
  *index = asked;
  if (!result && asked == -1) result = cudaGetDevice(index);
  if (result) return fail_no_device(result, error);
  if (*index < 0 || *index >= count)
    return zero1__fail(error, ZERO1_ERR_INVALID,
                       "config.device_index is %d, and there are %d CUDA devices, from 0", *index,
                       count);
  return ZERO1_OK;
}

/* A hardware queue is of one priority: in the library's own, and in the one that callers' streams
 * mostly have, a transfer could sit behind a kernel that waits for it. */
static cudaError_t create_own_stream(zero1__cuda *cuda) {
  int least = 0, greatest = 0; /* 0 and -5, say: -4 */
  const cudaError_t result = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (result) return result;
  return cudaStreamCreateWithPriority(&cuda->own_stream, cudaStreamNonBlocking,
                                      greatest < least ? greatest + 1 : greatest);
}

/* Whether the device must be asked to order what a network card writes against its kernels, and
 * can be. */
static cudaError_t ask_flushes(zero1__cuda *cuda) {
  int ordering = 0, options = 0;
  cudaError_t result =
      cudaDeviceGetAttribute(&ordering, cudaDevAttrGPUDirectRDMAWritesOrdering, cuda->index);
  if (!result)
    result =
        cudaDeviceGetAttribute(&options, cudaDevAttrGPUDirectRDMAFlushWritesOptions, cuda->index);
  cuda->flushes = !result && ordering < cudaGPUDirectRDMAWritesOrderingOwner &&
                  (options & cudaFlushGPUDirectRDMAWritesOptionHost);
  return result;
}

static zero1_status start(zero1__cuda *cuda, zero1__error *error) {
  cudaError_t result = cudaDeviceGetPCIBusId(cuda->bus_id, sizeof cuda->bus_id, cuda->index);
  if (!result) result = create_own_stream(cuda);
  if (!result) result = ask_flushes(cuda);
  if (!result) result = zero1__cuda_load();
  zero1__cuda_forget(result);
  if (result == cudaErrorNoKernelImageForDevice || result == cudaErrorUnsupportedPtxVersion)
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "CUDA device %d: %s: this library was not built for it", cuda->index,
                       cudaGetErrorString(result));
  if (result)
    return zero1__fail(error, ZERO1_ERR_DEVICE, "CUDA device %d: %s", cuda->index,
                       cudaGetErrorString(result));
  void *give_up;
  zero1_status status =
      zero1__cuda_pinned_alloc(&cuda->base, sizeof *cuda->give_up, &give_up, error);
  cuda->give_up = give_up;
  if (!status) status = zero1__cuda_times_begin(cuda, error);
  return status ? status : zero1__cuda_health(cuda, error);
}

/* Who waits for a peer gives up first, and says whom for. */
static int64_t patience_of(double timeout_seconds) {
  return timeout_seconds > 0 ? 2 * zero1__seconds_ns(timeout_seconds) : INT64_MAX;
}

zero1_status zero1__device_cuda_create(const zero1__device_config *config, zero1__device **device,
                                       zero1__error *error) {
  int index;
  *device = NULL;
  zero1_status status = find_device(config->index, &index, error);
  if (status) return status;
  zero1__cuda *cuda = calloc(1, sizeof *cuda);
  if (!cuda) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the CUDA device");
  cuda->base.ops = &cuda_ops;
  cuda->index = index;
  cuda->caller_stream = config->stream;
  cuda->patience_ns = patience_of(config->timeout_seconds);
  pthread_mutex_init(&cuda->failure_mutex, NULL);
  pthread_mutex_init(&cuda->own_mutex, NULL);
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  status = start(cuda, error);
  zero1__cuda_leave(&guard);
  if (status) {
    cuda_destroy(&cuda->base);
    return status;
  }
  *device = &cuda->base;
  return ZERO1_OK;
}
