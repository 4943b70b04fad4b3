/* Streams of the stand-in runtime (no GPU): queues of tasks, each with a worker thread.
 *
 * A queue is a list that pushers extend and the worker follows. The only order that it makes is
 * that of CUDA: what came before a push happens before its task, and tasks happen one after
 * another. Nothing flows back from the worker to those who push. */
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

enum { STREAM_MAGIC = 0x5357a3 };

static pthread_mutex_t create_lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUstream_st *_Atomic all_streams;
static cudaStream_t _Atomic null_streams[STANDIN_MAX_DEVICES];
static _Atomic unsigned long long last_id;
static _Atomic pid_t workers_of; /* the process that has workers; 0: none has */

_Thread_local bool standin_in_host_function;

void standin_sleep(_Atomic uint32_t *word, uint32_t value) {
  static const struct timespec longest = {1, 0};
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &longest, NULL, 0);
}

void standin_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* ---- the worker ---- */

/* xorshift64*: any seed but 0. */
static uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1d;
}

static void delay(cudaStream_t stream) {
  if (!stream->delay_us) return;
  const uint64_t us = random_next(&stream->random) % (stream->delay_us + 1);
  const struct timespec time = {(time_t)(us / 1000000), (long)(us % 1000000 * 1000)};
  nanosleep(&time, NULL);
}

/* The next task; the one before it is freed. `taken` tasks came before. */
static standin_task *take(cudaStream_t stream, uint32_t taken) {
  standin_task *task;
  while (atomic_load_explicit(&stream->pushed, memory_order_relaxed) == taken)
    standin_sleep(&stream->pushed, taken);
  while (!(task = atomic_load_explicit(&stream->first->next, memory_order_acquire))) sched_yield();
  free(stream->first);
  stream->first = task;
  return task;
}

/* Either this sees that the device has failed, or who lets it fail sees that this works. */
static void work(cudaStream_t stream, standin_task *task) {
  atomic_store(&stream->working, 1);
  if (task->life == standin_life() && task->life % 2 == 0) task->fn(task->args);
  atomic_store(&stream->working, 0);
}

static void *worker(void *context) {
  const cudaStream_t stream = context;
  for (uint32_t taken = 0;;) {
    standin_task *task = take(stream, taken++);
    if (task->kind != STANDIN_SIGNAL) delay(stream);
    if (task->kind == STANDIN_WORK) work(stream, task);
    if (task->kind == STANDIN_WAIT) task->fn(task->args);
    atomic_store_explicit(&stream->completed, taken, memory_order_release);
    if (!task->fn) break;
    if (task->kind == STANDIN_SIGNAL) task->fn(task->args);
  }
  free(stream->first);
  return NULL;
}

/* ---- the queue ---- */

static _Noreturn void out_of_memory(void) {
  fputs("the stand-in CUDA runtime: the host is out of memory\n", stderr);
  abort();
}

static standin_task *task_create(standin_task_kind kind, standin_fn fn, const void *args,
                                 size_t bytes) {
  standin_task *task = malloc(sizeof *task + bytes);
  if (!task) out_of_memory();
  atomic_init(&task->next, NULL);
  task->fn = fn;
  task->kind = kind;
  task->life = standin_life();
  if (bytes) memcpy(task->args, args, bytes);
  return task;
}

/* False: the stream has ended, and nothing that is pushed would run. */
static bool push(cudaStream_t stream, standin_task *task) {
  pthread_mutex_lock(&stream->push_lock);
  const bool open = !stream->ended;
  if (open) {
    stream->ended = !task->fn;
    atomic_store_explicit(&stream->last->next, task, memory_order_release);
    stream->last = task;
    atomic_fetch_add_explicit(&stream->pushed, 1, memory_order_relaxed);
  }
  pthread_mutex_unlock(&stream->push_lock);
  if (open) {
    standin_wake(&stream->pushed);
  } else {
    free(task);
  }
  return open;
}

void standin_stream_push(cudaStream_t stream, standin_task_kind kind, standin_fn fn,
                         const void *args, size_t bytes) {
  push(stream, task_create(kind, fn, args, bytes));
}

bool standin_stream_idle(cudaStream_t stream) {
  const uint32_t pushed = atomic_load_explicit(&stream->pushed, memory_order_relaxed);
  if (atomic_load_explicit(&stream->completed, memory_order_relaxed) != pushed) return false;
  (void)atomic_load_explicit(&stream->completed, memory_order_acquire);
  return true;
}

/* A mark in a queue, on the stack of the one who waits for it. */
typedef struct mark_task {
  _Atomic uint32_t *reached;
} mark_task;

static void mark_run(void *args) {
  const mark_task *mark = args;
  /* The waiting thread may be gone once it reads 1: then the wake-up is for nobody. */
  _Atomic uint32_t *reached = mark->reached;
  atomic_store_explicit(reached, 1, memory_order_release);
  standin_wake(reached);
}

static void complain(const char *who, cudaStream_t stream, time_t seconds) {
  fprintf(stderr, "the stand-in CUDA runtime: %s has waited %lld s for stream %llu of device %d\n",
          who, (long long)seconds, stream->id, stream->device);
}

void standin_stream_sync(cudaStream_t stream, const char *who) {
  _Atomic uint32_t reached = 0;
  if (standin_stream_idle(stream)) return;
  const mark_task mark = {&reached};
  const bool marked = push(stream, task_create(STANDIN_SIGNAL, mark_run, &mark, sizeof mark));
  const time_t begin = time(NULL);
  time_t patience = 10;
  while (marked ? !atomic_load_explicit(&reached, memory_order_acquire)
                : !standin_stream_idle(stream)) {
    if (marked) {
      standin_sleep(&reached, 0);
    } else {
      usleep(100);
    }
    if (time(NULL) - begin < patience) continue;
    complain(who, stream, patience);
    patience += 10;
  }
}

/* ---- creation and destruction ---- */

bool standin_was_forked(void) {
  const pid_t owner = atomic_load_explicit(&workers_of, memory_order_relaxed);
  return owner && owner != getpid();
}

cudaError_t standin_stream_create(int device, unsigned flags, int priority, cudaStream_t *created) {
  pthread_t thread;
  struct CUstream_st *stream = calloc(1, sizeof *stream);
  if (!stream) return cudaErrorMemoryAllocation;
  stream->magic = STREAM_MAGIC;
  stream->device = device;
  stream->flags = flags;
  stream->priority = priority;
  stream->id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
  stream->delay_us = standin_configuration()->delay_us;
  stream->random = (standin_configuration()->seed + stream->id) * 0x9e3779b97f4a7c15 | 1;
  stream->first = stream->last = task_create(STANDIN_SIGNAL, NULL, NULL, 0);
  pthread_mutex_init(&stream->push_lock, NULL);
  atomic_init(&stream->live, true);
  if (pthread_create(&thread, NULL, worker, stream)) {
    free(stream->first);
    free(stream);
    return cudaErrorMemoryAllocation;
  }
  pthread_detach(thread);
  atomic_store_explicit(&workers_of, getpid(), memory_order_relaxed);
  stream->next = atomic_load_explicit(&all_streams, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&all_streams, &stream->next, stream,
                                                memory_order_release, memory_order_relaxed))
    ;
  *created = stream;
  return cudaSuccess;
}

void standin_stream_destroy(cudaStream_t stream) {
  atomic_store_explicit(&stream->live, false, memory_order_relaxed);
  push(stream, task_create(STANDIN_SIGNAL, NULL, NULL, 0));
}

static cudaError_t null_stream(int device, cudaStream_t *stream) {
  cudaError_t error = cudaSuccess;
  *stream = atomic_load_explicit(&null_streams[device], memory_order_acquire);
  if (*stream) return cudaSuccess;
  pthread_mutex_lock(&create_lock);
  *stream = atomic_load_explicit(&null_streams[device], memory_order_relaxed);
  if (!*stream) {
    error = standin_stream_create(device, cudaStreamDefault, 0, stream);
    if (!error) atomic_store_explicit(&null_streams[device], *stream, memory_order_release);
  }
  pthread_mutex_unlock(&create_lock);
  return error;
}

cudaError_t standin_stream_of(cudaStream_t handle, cudaStream_t *stream) {
  if (!handle || handle == cudaStreamLegacy) return null_stream(standin_device(), stream);
  if (handle == cudaStreamPerThread) return cudaErrorNotSupported;
  if (handle->magic != STREAM_MAGIC || !atomic_load_explicit(&handle->live, memory_order_relaxed))
    return cudaErrorInvalidResourceHandle;
  *stream = handle;
  return cudaSuccess;
}

void standin_device_sync(int device, const char *who) {
  cudaStream_t stream = atomic_load_explicit(&all_streams, memory_order_acquire);
  for (; stream; stream = stream->next)
    if (stream->device == device) standin_stream_sync(stream, who);
}

void standin_streams_still(void) {
  cudaStream_t stream = atomic_load_explicit(&all_streams, memory_order_acquire);
  for (; stream; stream = stream->next)
    while (atomic_load(&stream->working)) usleep(20);
}
