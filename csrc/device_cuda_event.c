/* Events of the CUDA device: between streams of the device, of the caller and of host calls.
 *
 * Between streams of the device an event is CUDA's. Where one side is a host call, it is a counter
 * in memory that both sides see:
 *
 *   recorded on    waited for by      how
 *   the device     the device         cudaEventRecord, cudaStreamWaitEvent
 *   the device     host calls         a kernel sets by_device; a task looks at it
 *   host calls     the device         a task sets by_host; a kernel waits for it
 *   host calls     host calls         the event of stream_host.c
 *
 * Captures. What is recorded in a capture happens when its graph is launched, and a graph is
 * launched when nothing else of the library is under way. So an event that was recorded in a
 * capture holds nobody outside of it, and one from outside holds nobody in it. Only a stream that
 * waits for an event of a capture that goes on is drawn into that capture: so the library's own
 * streams enter it. */
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "device_cuda.h"
#include "stream_host.h"

/* On cache lines of their own: both sides look at them all the time. */
typedef struct flag_pair {
  _Alignas(64) uint32_t by_device;
  uint32_t by_host;
} flag_pair;

#define PAGE_PAIRS 1024

/* Pinned pages of pairs. A pair is never given a second time: a kernel in a stream of the caller
 * may look at it after its event is gone. */
struct zero1__cuda_flags {
  flag_pair *pairs; /* [PAGE_PAIRS] */
  int32_t used;
  zero1__cuda_flags *next;
};

typedef enum { NEVER, ON_DEVICE, ON_HOST } recorded_on;

typedef struct cuda_event {
  cudaEvent_t handle;
  zero1__event *host;
  flag_pair *flags;
  uint32_t device_count, host_count; /* records of each kind that set a flag */
  /* of the last record */
  recorded_on last;
  int posted;            /* ON_DEVICE: by_device is set after it */
  uint64_t capture;      /* ON_DEVICE: that it was made in; 0: none */
  cudaStream_t recorder; /* ON_DEVICE */
} cuda_event;

static cuda_event *event_of(zero1__event *event) {
  return (cuda_event *)event;
}

static int reached(const uint32_t *flag, uint32_t value) {
  return (int32_t)(__atomic_load_n(flag, __ATOMIC_ACQUIRE) - value) >= 0;
}

/* ---- life ---- */

static zero1_status take_pair(zero1__cuda *cuda, flag_pair **pair, zero1__error *error) {
  if (!cuda->flags || cuda->flags->used == PAGE_PAIRS) {
    zero1__cuda_flags *page = calloc(1, sizeof *page);
    if (!page) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for events");
    void *memory;
    const zero1_status status =
        zero1__cuda_pinned_alloc(&cuda->base, PAGE_PAIRS * sizeof(flag_pair), &memory, error);
    if (status) {
      free(page);
      return status;
    }
    page->pairs = memory;
    page->next = cuda->flags;
    cuda->flags = page;
  }
  *pair = &cuda->flags->pairs[cuda->flags->used++];
  return ZERO1_OK;
}

void zero1__cuda_flags_end(zero1__cuda *cuda) {
  while (cuda->flags) {
    zero1__cuda_flags *page = cuda->flags;
    cuda->flags = page->next;
    zero1__cuda_pinned_free(&cuda->base, page->pairs, PAGE_PAIRS * sizeof(flag_pair));
    free(page);
  }
}

zero1_status zero1__cuda_event_create(zero1__device *device, zero1__event **out,
                                      zero1__error *error) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  *out = NULL;
  cuda_event *event = calloc(1, sizeof *event);
  if (!event) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for an event");
  zero1_status status = take_pair(cuda, &event->flags, error);
  if (!status) status = zero1__event_create(&event->host, error);
  if (!status) {
    const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
    const cudaError_t result =
        cudaEventCreateWithFlags(&event->handle, cudaEventDisableTiming | cudaEventBlockingSync);
    zero1__cuda_forget(result);
    zero1__cuda_leave(&guard);
    if (result)
      status = zero1__fail(error, ZERO1_ERR_DEVICE, "an event of CUDA device %d: %s", cuda->index,
                           cudaGetErrorString(result));
  }
  if (status) {
    zero1__event_destroy(event->host);
    free(event);
    return status;
  }
  *out = (zero1__event *)event;
  return ZERO1_OK;
}

void zero1__cuda_event_destroy(zero1__device *device, zero1__event *out) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  cuda_event *event = event_of(out);
  if (!event) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(cuda, "cudaEventDestroy", cudaEventDestroy(event->handle));
  zero1__cuda_leave(&guard);
  zero1__event_destroy(event->host);
  free(event);
}

/* ---- record ---- */

/* Between enter and leave. The flag is set before the event, so that who has waited for the event
 * finds the flag set; and after the last record, though that was in another stream. */
static void record_on_device(zero1__cuda *cuda, cuda_event *event, cudaStream_t handle) {
  const uint64_t capture = zero1__cuda_capture_of(handle);
  const int post = cuda->host_streams && !capture;
  if (post && event->posted && event->recorder != handle)
    zero1__cuda_failed(cuda, "cudaStreamWaitEvent", cudaStreamWaitEvent(handle, event->handle, 0));
  if (post) {
    event->device_count += 1;
    zero1__cuda_failed(
        cuda, "post_host",
        zero1__cuda_post_host(&event->flags->by_device, event->device_count, handle));
  }
  zero1__cuda_failed(cuda, "cudaEventRecord", cudaEventRecord(event->handle, handle));
  event->last = ON_DEVICE;
  event->posted = post;
  event->capture = capture;
  event->recorder = handle;
}

static void post_task(void *context, const void *args) {
  flag_pair *flags = context;
  const uint32_t *value = args;
  __atomic_store_n(&flags->by_host, *value, __ATOMIC_RELEASE);
}

static void record_on_host(cuda_event *event, zero1__stream *host) {
  const uint32_t value = ++event->host_count;
  zero1__stream_push(host, post_task, event->flags, &value, sizeof value);
  zero1__event_record(event->host, host);
  event->last = ON_HOST;
  event->posted = 0;
  event->capture = 0;
}

void zero1__cuda_event_record(zero1__device *device, zero1__event *out, zero1__stream *stream) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1__cuda_queue *queue = zero1__cuda_queue_of(stream);
  if (queue->host) {
    record_on_host(event_of(out), queue->host);
    return;
  }
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  record_on_device(cuda, event_of(out), queue->handle);
  zero1__cuda_leave(&guard);
}

/* ---- wait ---- */

/* Whether a stream in `capture` (0: in none) is to wait for the event. */
static int holds(const cuda_event *event, uint64_t capture) {
  if (event->last == NEVER) return 0;
  if (event->capture == capture) return 1;
  return !capture && zero1__cuda_capture_of(event->recorder) == event->capture;
}

/* Between enter and leave. */
static void wait_on_device(zero1__cuda *cuda, cudaStream_t handle, const cuda_event *event) {
  if (!holds(event, zero1__cuda_capture_of(handle))) return;
  if (event->last == ON_DEVICE) {
    zero1__cuda_failed(cuda, "cudaStreamWaitEvent", cudaStreamWaitEvent(handle, event->handle, 0));
  } else if (!reached(&event->flags->by_host, event->host_count)) {
    zero1__cuda_failed(cuda, "await_host",
                       zero1__cuda_await_host(&event->flags->by_host, event->host_count,
                                              cuda->give_up, cuda->patience_ns, handle));
  }
}

typedef struct look_args {
  const uint32_t *flag;
  uint32_t value;
} look_args;

/* A device that has failed sets no flags: that is seen, too, if not at every look. So is one that
 * does not come: what sets the flag may sit in a hardware queue behind a kernel that waits for this
 * thread, for streams share queues where there are many. */
static void look_task(void *context, const void *args) {
  zero1__cuda *cuda = context;
  const look_args *look = args;
  const struct timespec pause = {0, 20000};
  const int64_t check_ns = 20000000;
  const int64_t begin_ns = zero1__now_ns();
  int64_t next_ns = begin_ns + check_ns;
  while (!reached(look->flag, look->value)) {
    nanosleep(&pause, NULL);
    const int64_t now = zero1__now_ns();
    if (now < next_ns) continue;
    if (now - begin_ns > cuda->patience_ns)
      zero1__cuda_timed_out(cuda, "a thread of the host waited for a stream");
    if (zero1__cuda_health(cuda, NULL)) return;
    next_ns = now + check_ns;
  }
}

/* Inline, it is this thread that waits. Otherwise it does only where there was no worker yet when
 * the event was recorded, and then for nothing where that was in a capture. */
static void wait_on_host(zero1__cuda *cuda, const zero1__cuda_queue *queue, cuda_event *event) {
  if (event->last == ON_HOST) {
    zero1__stream_wait(queue->host, event->host);
  } else if (!queue->has_worker || !event->posted) {
    zero1__cuda_event_sync(&cuda->base, (zero1__event *)event);
  } else {
    const look_args look = {&event->flags->by_device, event->device_count};
    zero1__stream_push(queue->host, look_task, cuda, &look, sizeof look);
  }
}

void zero1__cuda_stream_wait(zero1__device *device, zero1__stream *stream, zero1__event *out) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_queue *queue = zero1__cuda_queue_of(stream);
  if (queue->host) {
    wait_on_host(cuda, queue, event_of(out));
    return;
  }
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  wait_on_device(cuda, queue->handle, event_of(out));
  zero1__cuda_leave(&guard);
}

void zero1__cuda_event_sync(zero1__device *device, zero1__event *out) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const cuda_event *event = event_of(out);
  if (event->last == ON_HOST) zero1__event_sync(event->host);
  if (event->last != ON_DEVICE || event->capture) return;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  zero1__cuda_failed(cuda, "cudaEventSynchronize", cudaEventSynchronize(event->handle));
  zero1__cuda_leave(&guard);
}
