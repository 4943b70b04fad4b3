/* What a test needs to run on either device: which one, a caller's streams, and its way to tensors.
 *
 * On the host a tensor is written and read where it is, and a stream is ZERO1_STREAM_DEFAULT. On
 * CUDA a caller writes into memory of the host that is copied in stream order, without waiting, and
 * reads through a copy that it waits for:
 *
 *   void *grad = device_begin_write(&caller, tensor, bytes);
 *   ... writes all of grad's bytes ...
 *   device_end_write(&caller, tensor, grad, bytes, stream);
 *   const void *param = device_read(&caller, tensor, bytes, stream);    until the next call
 *
 * ZERO1_TESTS_CUDA is defined where a CUDA runtime, or the stand-in, is linked. */
#ifndef ZERO1_TESTS_DEVICE_H
#define ZERO1_TESTS_DEVICE_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "zero1/zero1.h"

#if defined(ZERO1_TESTS_CUDA)
  #include <cuda_runtime_api.h>

  #define CHECK_CUDA(call) device__check(__FILE__, __LINE__, #call, (call))

static inline void device__check(const char *file, int line, const char *call, cudaError_t error) {
  if (error == cudaSuccess) return;
  check__place(file, line);
  fprintf(stderr, "%s returned %s\n", call, cudaGetErrorString(error));
  check__exit(1);
}
#endif

/* 1 where ThreadSanitizer would tell of what is meant to be: where the host decides for a device,
 * kernels do not see that a peer was lost (schedule.c, lost_of); they sum what is there while its
 * last messages may still come, and nobody uses the sum. */
#if defined(ZERO1_TESTS_STANDIN) && defined(__SANITIZE_THREAD__)
enum { device_sums_after_a_loss_are_races = 1 };
#else
enum { device_sums_after_a_loss_are_races = 0 };
#endif

/* Of the environment: ZERO1_TEST_DEVICE=cuda, or host. */
static inline int32_t device_of_test(void) {
  const char *const name = getenv("ZERO1_TEST_DEVICE");
  return name && !strcmp(name, "cuda") ? ZERO1_DEVICE_CUDA : ZERO1_DEVICE_HOST;
}

static inline int device_is_cuda(void) {
  return device_of_test() == ZERO1_DEVICE_CUDA;
}

/* Ends the process as skipped where there is no such device, in the library's words. The first line
 * of main. */
static inline void device_skip_without(void) {
  const int64_t numel = 1;
  const zero1_param_spec spec = {.name = "w", .shape = &numel, .ndim = 1};
  zero1_config config;
  zero1_optimizer *optimizer;
  zero1_comm *comm;
  if (!device_is_cuda()) return;
  CHECK_STATUS(zero1_config_init(&config, sizeof config), ZERO1_OK);
  CHECK_STATUS(zero1_comm_create_self(NULL, &comm), ZERO1_OK);
  config.device = device_of_test();
  config.threads = 1;
  const zero1_status status =
      zero1_optimizer_create(comm, &config, &spec, sizeof spec, 1, &optimizer);
  if (status == ZERO1_ERR_NO_DEVICE || status == ZERO1_ERR_UNSUPPORTED)
    SKIP(zero1_comm_last_error(comm));
  CHECK_STATUS(status, ZERO1_OK);
  zero1_optimizer_destroy(&optimizer);
  zero1_comm_destroy(&comm);
}

/* Of `ranks` threads, so many as one GPU serves at once. What a process enqueues there goes through
 * 32 hardware queues at most, a rank takes up to 7 streams, and one that waits for a rank holds up
 * all streams of its queue. */
static inline int32_t device_ranks(int32_t ranks) {
#if defined(ZERO1_TESTS_STANDIN)
  return ranks;
#else
  return device_is_cuda() && ranks > 4 ? 4 : ranks;
#endif
}

/* Ranks that are threads and share a GPU: memory there is given and taken back only once no kernel
 * of the process waits any more, whoever's it is. So none trains before all are made, and none is
 * ended before all have trained. */
static inline void device_meet(void) {
#if !defined(ZERO1_TESTS_STANDIN)
  if (device_is_cuda()) check_meet();
#endif
}

/* ---- a stream of the calling thread's own, for tests without a caller ----
 *
 * Ranks are threads: in one stream, a rank that waits would hold up the one that it waits for. */

#if defined(ZERO1_TESTS_CUDA)
static pthread_key_t device__stream_key;
static pthread_once_t device__stream_once = PTHREAD_ONCE_INIT;

static inline void device__stream_end(void *stream) {
  CHECK_CUDA(cudaStreamDestroy((cudaStream_t)stream));
}

static inline void device__stream_begin(void) {
  CHECK(!pthread_key_create(&device__stream_key, device__stream_end));
}
#endif

/* Host: NULL. It ends with the thread. */
static inline void *device_thread_stream(void) {
  if (!device_is_cuda()) return NULL;
#if defined(ZERO1_TESTS_CUDA)
  cudaStream_t stream;
  CHECK(!pthread_once(&device__stream_once, device__stream_begin));
  if (!pthread_getspecific(device__stream_key)) {
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(!pthread_setspecific(device__stream_key, stream));
  }
  return pthread_getspecific(device__stream_key);
#else
  CHECK(!"a test of CUDA in a build without");
  return NULL;
#endif
}

/* ---- a caller: a rank's own streams, and memory of the host that copies go through ---- */

enum { DEVICE_STREAMS = 2 };

typedef struct device_caller {
  int32_t kind;                  /* ZERO1_DEVICE_ */
  void *streams[DEVICE_STREAMS]; /* owned; host: ZERO1_STREAM_DEFAULT */
  char *stage;                   /* what copies under way read and write */
  size_t stage_bytes, stage_used;
} device_caller;

/* stage_bytes: what is written without waiting. */
static inline void device_caller_begin(device_caller *caller, int32_t kind, size_t stage_bytes) {
  *caller = (device_caller){.kind = kind};
  for (int i = 0; i < DEVICE_STREAMS; ++i) caller->streams[i] = ZERO1_STREAM_DEFAULT;
  if (kind == ZERO1_DEVICE_HOST) return;
#if defined(ZERO1_TESTS_CUDA)
  void *stage;
  for (int i = 0; i < DEVICE_STREAMS; ++i) {
    cudaStream_t stream;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    caller->streams[i] = stream;
  }
  caller->stage_bytes = (stage_bytes | 4095) + 1;
  CHECK_CUDA(cudaHostAlloc(&stage, caller->stage_bytes, cudaHostAllocDefault));
  caller->stage = (char *)stage;
#else
  (void)stage_bytes;
  CHECK(!"a test of CUDA in a build without");
#endif
}

/* The calling thread waits for what this caller has enqueued. */
static inline void device_sync(device_caller *caller) {
#if defined(ZERO1_TESTS_CUDA)
  for (int i = 0; i < DEVICE_STREAMS && caller->kind == ZERO1_DEVICE_CUDA; ++i)
    CHECK_CUDA(cudaStreamSynchronize((cudaStream_t)caller->streams[i]));
#endif
  caller->stage_used = 0;
}

static inline void device_caller_end(device_caller *caller) {
#if defined(ZERO1_TESTS_CUDA)
  if (caller->stage) {
    device_sync(caller);
    for (int i = 0; i < DEVICE_STREAMS; ++i)
      CHECK_CUDA(cudaStreamDestroy((cudaStream_t)caller->streams[i]));
    CHECK_CUDA(cudaFreeHost(caller->stage));
  }
#endif
  memset(caller, 0, sizeof *caller);
}

/* ---- tensors ---- */

/* Memory of the stage, 16 bytes aligned. Where there is none left, what is under way is awaited. */
static inline void *device__stage(device_caller *caller, size_t bytes) {
  const size_t rounded = (bytes + 15) / 16 * 16;
  if (caller->stage_used + rounded > caller->stage_bytes) device_sync(caller);
  CHECK(caller->stage_used + rounded <= caller->stage_bytes);
  char *const memory = caller->stage + caller->stage_used;
  caller->stage_used += rounded;
  return memory;
}

/* In stream order; memory of the host stays as it is until then. */
static inline void device_copy(void *to, const void *from, size_t bytes, void *stream) {
#if defined(ZERO1_TESTS_CUDA)
  if (bytes) CHECK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream));
#else
  (void)to, (void)from, (void)bytes, (void)stream;
#endif
}

/* Where to write a tensor's bytes, all of them. */
static inline void *device_begin_write(device_caller *caller, void *tensor, size_t bytes) {
  return caller->kind == ZERO1_DEVICE_HOST ? tensor : device__stage(caller, bytes);
}

/* They are in the tensor, in stream order. */
static inline void device_end_write(device_caller *caller, void *tensor, const void *written,
                                    size_t bytes, void *stream) {
  if (caller->kind == ZERO1_DEVICE_CUDA) device_copy(tensor, written, bytes, stream);
}

/* A tensor's bytes as they are at this place of the stream; waits for them. Valid until the next
 * call. */
static inline const void *device_read(device_caller *caller, const void *tensor, size_t bytes,
                                      void *stream) {
  if (caller->kind == ZERO1_DEVICE_HOST) return tensor;
#if defined(ZERO1_TESTS_CUDA)
  void *const copy = device__stage(caller, bytes);
  device_copy(copy, tensor, bytes, stream);
  CHECK_CUDA(cudaStreamSynchronize((cudaStream_t)stream));
  return copy;
#else
  (void)bytes, (void)stream;
  return NULL;
#endif
}

/* Where to change a tensor's bytes, some of them; device_end_write follows. */
static inline void *device_begin_change(device_caller *caller, void *tensor, size_t bytes,
                                        void *stream) {
  return (void *)(uintptr_t)device_read(caller, tensor, bytes, stream);
}

#endif
