/* Events of the stand-in runtime (no GPU): each record is a flag that a worker raises.
 *
 * A wait is for the record that was the last one at the call, so every recording has a flag of its
 * own; recording again leaves earlier waiters with theirs. */
#include <stdlib.h>
#include <time.h>

#include "runtime.h"

enum { EVENT_MAGIC = 0x5357e7 };

static struct CUevent_st *_Atomic all_events;

cudaError_t standin_event_of(cudaEvent_t event) {
  if (!event || event->magic != EVENT_MAGIC ||
      !atomic_load_explicit(&event->live, memory_order_relaxed))
    return cudaErrorInvalidResourceHandle;
  return cudaSuccess;
}

cudaError_t standin_event_create(unsigned flags, cudaEvent_t *created) {
  struct CUevent_st *event = calloc(1, sizeof *event);
  if (!event) return cudaErrorMemoryAllocation;
  event->magic = EVENT_MAGIC;
  event->device = standin_device();
  event->flags = flags;
  pthread_mutex_init(&event->lock, NULL);
  atomic_init(&event->live, true);
  event->next = atomic_load_explicit(&all_events, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&all_events, &event->next, event,
                                                memory_order_release, memory_order_relaxed))
    ;
  *created = event;
  return cudaSuccess;
}

/* ---- records ---- */

/* A record that nobody refers to. That is read without acquiring: whoever gave it up has nothing
 * left to do with it, and is not to be ordered before the one who takes it. */
static standin_record *free_record(cudaEvent_t event) {
  standin_record *record = event->records;
  for (; record; record = record->next)
    if (record != event->last && !atomic_load_explicit(&record->references, memory_order_relaxed))
      return record;
  record = calloc(1, sizeof *record);
  if (!record) abort();
  record->next = event->records;
  event->records = record;
  return record;
}

static void refer(standin_record *record) {
  atomic_fetch_add_explicit(&record->references, 1, memory_order_relaxed);
}

static void give_up(standin_record *record) {
  atomic_fetch_sub_explicit(&record->references, 1, memory_order_release);
}

/* Acquires once only, when the flag is up: before that the flag may still carry the order of the
 * record's former use. */
static bool is_done(standin_record *record) {
  if (!atomic_load_explicit(&record->done, memory_order_relaxed)) return false;
  (void)atomic_load_explicit(&record->done, memory_order_acquire);
  return true;
}

static void wait_for(standin_record *record) {
  while (!is_done(record)) standin_sleep(&record->done, 0);
}

typedef struct record_task {
  standin_record *record;
} record_task;

static void record_run(void *args) {
  standin_record *record = ((const record_task *)args)->record;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  atomic_store_explicit(&record->time_ns, now.tv_sec * INT64_C(1000000000) + now.tv_nsec,
                        memory_order_relaxed);
  atomic_store_explicit(&record->done, 1, memory_order_release);
  standin_wake(&record->done);
  give_up(record);
}

static void wait_run(void *args) {
  standin_record *record = ((const record_task *)args)->record;
  wait_for(record);
  give_up(record);
}

/* The last record, referred to; NULL where there is none. */
static standin_record *last_record(cudaEvent_t event) {
  pthread_mutex_lock(&event->lock);
  standin_record *record = event->last;
  if (record) refer(record);
  pthread_mutex_unlock(&event->lock);
  return record;
}

void standin_event_push_record(cudaEvent_t event, cudaStream_t stream) {
  pthread_mutex_lock(&event->lock);
  standin_record *record = free_record(event);
  atomic_store_explicit(&record->done, 0, memory_order_relaxed);
  refer(record);
  event->last = record;
  event->capture_id = 0;
  const record_task task = {record};
  standin_stream_push(stream, STANDIN_SIGNAL, record_run, &task, sizeof task);
  pthread_mutex_unlock(&event->lock);
}

void standin_event_push_wait(cudaEvent_t event, cudaStream_t stream) {
  const record_task task = {last_record(event)};
  if (task.record) standin_stream_push(stream, STANDIN_WAIT, wait_run, &task, sizeof task);
}

/* ---- the runtime's functions ---- */

static cudaError_t event_create(unsigned flags, cudaEvent_t *event) {
  cudaError_t error = standin_enter();
  const unsigned known =
      cudaEventBlockingSync | cudaEventDisableTiming | (unsigned)cudaEventInterprocess;
  if (!error && (!event || (flags & ~known))) error = cudaErrorInvalidValue;
  if (!error && (flags & cudaEventInterprocess)) error = cudaErrorNotSupported;
  if (!error) error = standin_event_create(flags, event);
  if (!error) STANDIN_ADD(events, 1);
  return standin_leave(error);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  return event_create(cudaEventDefault, event);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
  return event_create(flags, event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_event_of(event);
  if (!error) {
    atomic_store_explicit(&event->live, false, memory_order_relaxed);
    STANDIN_ADD(events, -1);
  }
  return standin_leave(error);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned int flags) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_event_of(event);
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error && (flags & ~(unsigned)cudaEventRecordExternal)) error = cudaErrorInvalidValue;
  if (!error && event->device != stream->device) error = cudaErrorInvalidResourceHandle;
  if (!error) error = standin_capture_implicit(stream);
  if (error) return standin_leave(error);
  const bool captured =
      flags == cudaEventRecordExternal
          ? standin_capture_task(stream, STANDIN_NODE_RECORD, NULL, event, NULL, 0, &error)
          : standin_capture_record(event, stream, &error);
  if (!captured) standin_event_push_record(event, stream);
  return standin_leave(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int flags) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_event_of(event);
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error && (flags & ~(unsigned)cudaEventWaitExternal)) error = cudaErrorInvalidValue;
  if (!error) error = standin_capture_implicit(stream);
  if (error) return standin_leave(error);
  const bool captured =
      flags == cudaEventWaitExternal
          ? standin_capture_task(stream, STANDIN_NODE_WAIT, NULL, event, NULL, 0, &error)
          : standin_capture_wait(stream, event, &error);
  if (!captured) standin_event_push_wait(event, stream);
  return standin_leave(error);
}

/* cudaErrorCapturedEvent where the last record is one of a capture: it has no state to ask for. */
static cudaError_t check_state(cudaEvent_t event) {
  cudaError_t error = standin_event_of(event);
  if (error) return error;
  pthread_mutex_lock(&event->lock);
  if (event->capture_id) error = cudaErrorCapturedEvent;
  pthread_mutex_unlock(&event->lock);
  return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  cudaError_t error = standin_enter();
  if (!error) error = check_state(event);
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_record *record = last_record(event);
  if (!record) return cudaSuccess;
  if (!is_done(record)) error = cudaErrorNotReady;
  give_up(record);
  if (!error) error = standin_enter(); /* what has failed has not been done */
  return standin_leave(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  cudaError_t error = standin_enter();
  if (!error) error = check_state(event);
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_record *record = last_record(event);
  if (record) {
    wait_for(record);
    give_up(record);
  }
  return standin_leave(standin_enter());
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
  cudaError_t error = standin_enter();
  if (!error) error = check_state(start);
  if (!error) error = check_state(end);
  if (!error && ((start->flags | end->flags) & cudaEventDisableTiming))
    error = cudaErrorInvalidResourceHandle;
  if (error) return standin_leave(error);
  standin_record *from = last_record(start);
  standin_record *to = last_record(end);
  if (!from || !to) {
    error = cudaErrorInvalidResourceHandle;
  } else if (!is_done(from) || !is_done(to)) {
    error = cudaErrorNotReady;
  } else {
    *ms = (float)((double)(atomic_load(&to->time_ns) - atomic_load(&from->time_ns)) / 1e6);
  }
  if (from) give_up(from);
  if (to) give_up(to);
  return standin_leave(error);
}
