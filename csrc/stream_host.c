#include "stream_host.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "flag.h"

#define QUEUE_TASKS 1024

typedef struct task {
  zero1__host_fn fn; /* NULL: the worker ends */
  void *context;
  _Alignas(16) unsigned char args[ZERO1__TASK_BYTES];
} task;

/* Positions only grow; a task's place is its position modulo QUEUE_TASKS. */
struct zero1__stream {
  int inline_calls;
  pthread_t worker;
  pthread_mutex_t mutex;
  pthread_cond_t pushed, popped;
  uint64_t begin, end; /* under mutex: [begin, end) are queued or, begin, running */
  task *tasks;
};

struct zero1__event {
  uint32_t recorded; /* records enqueued; by the enqueuing thread alone */
  zero1__flag done;  /* records that their stream has reached */
};

/* Messages are sent from here: wire_mpi.c says why, and need not do it for each then. */
static void block_sigpipe(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void *worker_main(void *argument) {
  zero1__stream *stream = argument;
  block_sigpipe();
  for (;;) {
    pthread_mutex_lock(&stream->mutex);
    while (stream->begin == stream->end) pthread_cond_wait(&stream->pushed, &stream->mutex);
    task *next = &stream->tasks[stream->begin % QUEUE_TASKS];
    pthread_mutex_unlock(&stream->mutex);
    if (!next->fn) return NULL;
    next->fn(next->context, next->args);
    pthread_mutex_lock(&stream->mutex);
    stream->begin += 1;
    pthread_cond_broadcast(&stream->popped);
    pthread_mutex_unlock(&stream->mutex);
  }
}

zero1_status zero1__stream_create(int inline_calls, zero1__stream **out, zero1__error *error) {
  *out = NULL;
  zero1__stream *stream = calloc(1, sizeof *stream);
  if (!stream) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a stream");
  stream->inline_calls = inline_calls;
  *out = stream;
  if (inline_calls) return ZERO1_OK;
  stream->tasks = calloc(QUEUE_TASKS, sizeof *stream->tasks);
  if (!stream->tasks) {
    free(stream);
    *out = NULL;
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a stream");
  }
  pthread_mutex_init(&stream->mutex, NULL);
  pthread_cond_init(&stream->pushed, NULL);
  pthread_cond_init(&stream->popped, NULL);
  const int failure = pthread_create(&stream->worker, NULL, worker_main, stream);
  if (failure) {
    free(stream->tasks);
    free(stream);
    *out = NULL;
    return zero1__fail(error, ZERO1_ERR_DEVICE, "the thread of a stream cannot be started: %s",
                       strerror(failure));
  }
  return ZERO1_OK;
}

void zero1__stream_destroy(zero1__stream *stream) {
  if (!stream) return;
  if (!stream->inline_calls) {
    zero1__stream_push(stream, NULL, NULL, NULL, 0);
    pthread_join(stream->worker, NULL);
    pthread_mutex_destroy(&stream->mutex);
    pthread_cond_destroy(&stream->pushed);
    pthread_cond_destroy(&stream->popped);
    free(stream->tasks);
  }
  free(stream);
}

void zero1__stream_push(zero1__stream *stream, zero1__host_fn fn, void *context, const void *args,
                        size_t args_bytes) {
  if (stream->inline_calls) {
    fn(context, args);
    return;
  }
  pthread_mutex_lock(&stream->mutex);
  while (stream->end - stream->begin == QUEUE_TASKS)
    pthread_cond_wait(&stream->popped, &stream->mutex);
  task *next = &stream->tasks[stream->end % QUEUE_TASKS];
  next->fn = fn;
  next->context = context;
  if (args_bytes) memcpy(next->args, args, args_bytes);
  stream->end += 1;
  pthread_cond_signal(&stream->pushed);
  pthread_mutex_unlock(&stream->mutex);
}

void zero1__stream_sync(zero1__stream *stream) {
  if (stream->inline_calls) return;
  pthread_mutex_lock(&stream->mutex);
  const uint64_t end = stream->end;
  while (stream->begin < end) pthread_cond_wait(&stream->popped, &stream->mutex);
  pthread_mutex_unlock(&stream->mutex);
}

zero1_status zero1__event_create(zero1__event **event, zero1__error *error) {
  *event = calloc(1, sizeof **event);
  if (!*event) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for an event");
  return ZERO1_OK;
}

void zero1__event_destroy(zero1__event *event) {
  free(event);
}

static void post_task(void *context, const void *args) {
  zero1__event *event = context;
  uint32_t value;
  memcpy(&value, args, sizeof value);
  zero1__flag_post(&event->done, value);
}

static void wait_task(void *context, const void *args) {
  zero1__event *event = context;
  uint32_t value;
  memcpy(&value, args, sizeof value);
  zero1__flag_await(&event->done, value);
}

void zero1__event_record(zero1__event *event, zero1__stream *stream) {
  const uint32_t value = ++event->recorded;
  zero1__stream_push(stream, post_task, event, &value, sizeof value);
}

void zero1__stream_wait(zero1__stream *stream, zero1__event *event) {
  const uint32_t value = event->recorded;
  if (zero1__flag_reached(&event->done, value)) return;
  zero1__stream_push(stream, wait_task, event, &value, sizeof value);
}

void zero1__event_sync(zero1__event *event) {
  zero1__flag_await(&event->done, event->recorded);
}
