/* Stream capture of the stand-in runtime (no GPU): calls become nodes of a graph.
 *
 * Each stream of a capture has a front: the nodes that its next node follows. A task is put behind
 * the front and is the front then; recording an event notes the front; waiting for such an event
 * joins the stream to the capture and adds what was noted to its front. At the end everything that
 * was captured must be before the front of the stream where the capture began. */
#include <stdlib.h>

#include "runtime.h"

typedef struct standin_capture {
  unsigned long long id;
  enum cudaStreamCaptureMode mode;
  pthread_t thread;
  bool invalid;
  cudaStream_t *streams; /* [lanes]; the first is where it began */
  standin_places *fronts;
  int32_t lanes;
  cudaGraph_t graph;
  struct standin_capture *next;
} standin_capture;

/* All captures are under one lock; without any, and on streams outside, nobody takes it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static standin_capture *captures;
static _Atomic int capture_count;
static unsigned long long last_id;

static _Thread_local enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

static bool capturing(cudaStream_t stream) {
  return atomic_load_explicit(&stream->capture, memory_order_relaxed);
}

/* The stream's capture, with the lock held, or NULL without. */
static standin_capture *enter(cudaStream_t stream) {
  if (!capturing(stream)) return NULL;
  pthread_mutex_lock(&lock);
  standin_capture *capture = atomic_load_explicit(&stream->capture, memory_order_relaxed);
  if (!capture) pthread_mutex_unlock(&lock);
  return capture;
}

static void leave(void) {
  pthread_mutex_unlock(&lock);
}

static cudaError_t invalidate(standin_capture *capture, cudaError_t error) {
  capture->invalid = true;
  return error;
}

/* ---- begin and end ---- */

static bool join(standin_capture *capture, cudaStream_t stream) {
  const size_t count = (size_t)capture->lanes + 1;
  cudaStream_t *streams = realloc(capture->streams, count * sizeof *streams);
  if (!streams) return false;
  capture->streams = streams;
  standin_places *fronts = realloc(capture->fronts, count * sizeof *fronts);
  if (!fronts) return false;
  capture->fronts = fronts;
  streams[capture->lanes] = stream;
  fronts[capture->lanes] = (standin_places){0};
  stream->lane = capture->lanes++;
  atomic_store_explicit(&stream->capture, capture, memory_order_relaxed);
  return true;
}

static cudaError_t begin(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  standin_capture *capture = calloc(1, sizeof *capture);
  if (!capture) return cudaErrorMemoryAllocation;
  if (standin_graph_create(&capture->graph) || !join(capture, stream)) abort();
  capture->id = ++last_id;
  capture->mode = mode;
  capture->thread = pthread_self();
  capture->next = captures;
  captures = capture;
  atomic_fetch_add_explicit(&capture_count, 1, memory_order_relaxed);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error && (!handle || handle == cudaStreamLegacy)) error = cudaErrorStreamCaptureUnsupported;
  if (!error) error = standin_stream_of(handle, &stream);
  if (error) return standin_leave(error);
  pthread_mutex_lock(&lock);
  error = capturing(stream) ? cudaErrorIllegalState : begin(stream, mode);
  leave();
  return standin_leave(error);
}

/* Marks what comes before the front of the first lane: needs point backwards, so one pass does. */
static bool all_joined(const standin_capture *capture) {
  const cudaGraph_t graph = capture->graph;
  bool all = true;
  bool *before = calloc((size_t)graph->node_count + 1, sizeof *before);
  if (!before) abort();
  for (int32_t k = 0; k < capture->fronts[0].count; ++k) before[capture->fronts[0].items[k]] = true;
  for (int32_t i = graph->node_count - 1; i >= 0; --i) {
    const standin_places *needs = &graph->nodes[i]->needs;
    all = all && before[i];
    for (int32_t k = 0; before[i] && k < needs->count; ++k) before[needs->items[k]] = true;
  }
  free(before);
  return all;
}

/* Takes the capture apart; its graph stays. */
static void end(standin_capture *capture) {
  standin_capture **link = &captures;
  while (*link != capture) link = &(*link)->next;
  *link = capture->next;
  for (int32_t i = 0; i < capture->lanes; ++i) {
    atomic_store_explicit(&capture->streams[i]->capture, NULL, memory_order_relaxed);
    standin_places_clear(&capture->fronts[i]);
  }
  free(capture->streams);
  free(capture->fronts);
  free(capture);
  atomic_fetch_sub_explicit(&capture_count, 1, memory_order_relaxed);
}

static cudaError_t check_end(const standin_capture *capture, cudaStream_t stream) {
  if (capture->streams[0] != stream) return cudaErrorStreamCaptureUnmatched;
  if (capture->mode != cudaStreamCaptureModeRelaxed &&
      !pthread_equal(capture->thread, pthread_self()))
    return cudaErrorStreamCaptureWrongThread;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *result) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error && !result) error = cudaErrorInvalidValue;
  if (!error) error = standin_stream_of(handle, &stream);
  if (error) return standin_leave(error);
  *result = NULL;
  standin_capture *capture = enter(stream);
  if (!capture) return standin_leave(cudaErrorIllegalState);
  error = check_end(capture, stream);
  if (!error) {
    const cudaGraph_t graph = capture->graph;
    if (capture->invalid) {
      error = cudaErrorStreamCaptureInvalidated;
    } else if (!all_joined(capture)) {
      error = cudaErrorStreamCaptureUnjoined;
    }
    end(capture);
    if (error) {
      standin_graph_destroy(graph);
    } else {
      STANDIN_ADD(graphs, 1);
      *result = graph;
    }
  }
  leave();
  return standin_leave(error);
}

/* ---- what is captured ---- */

static cudaError_t add_node(standin_capture *capture, standin_node *node, const void *args) {
  standin_places *front = &capture->fronts[node->lane];
  const standin_places added = {&capture->graph->node_count, 1};
  standin_places next = {0};
  node->needs = *front;
  if (!standin_places_merge(&next, &added)) return cudaErrorMemoryAllocation;
  const cudaError_t error = standin_graph_add(capture->graph, node, args);
  if (error) {
    standin_places_clear(&next);
    return error;
  }
  standin_places_clear(front);
  *front = next;
  return cudaSuccess;
}

bool standin_capture_task(cudaStream_t stream, standin_node_kind kind, standin_fn fn,
                          cudaEvent_t event, const void *args, size_t bytes, cudaError_t *error) {
  standin_capture *capture = enter(stream);
  if (!capture) return false;
  standin_node node = {
      .kind = kind, .lane = stream->lane, .fn = fn, .event = event, .bytes = bytes};
  *error = capture->invalid ? cudaErrorStreamCaptureInvalidated : add_node(capture, &node, args);
  leave();
  return true;
}

bool standin_capture_record(cudaEvent_t event, cudaStream_t stream, cudaError_t *error) {
  standin_capture *capture = enter(stream);
  if (!capture) return false;
  if (capture->invalid) {
    *error = cudaErrorStreamCaptureInvalidated;
  } else {
    pthread_mutex_lock(&event->lock);
    event->capture_id = capture->id;
    standin_places_clear(&event->captured);
    if (!standin_places_merge(&event->captured, &capture->fronts[stream->lane]))
      *error = cudaErrorMemoryAllocation;
    pthread_mutex_unlock(&event->lock);
  }
  leave();
  return true;
}

/* With both locks held: the event's last record is one of a capture. */
static cudaError_t wait_for_captured(cudaStream_t stream, standin_capture *own, cudaEvent_t event) {
  standin_capture *capture = captures;
  while (capture && capture->id != event->capture_id) capture = capture->next;
  if (!capture)
    return own ? invalidate(own, cudaErrorStreamCaptureIsolation) : cudaErrorCapturedEvent;
  if (own && own != capture) {
    invalidate(capture, cudaSuccess);
    return invalidate(own, cudaErrorStreamCaptureMerge);
  }
  if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (!own && !join(capture, stream)) return cudaErrorMemoryAllocation;
  return standin_places_merge(&capture->fronts[stream->lane], &event->captured)
             ? cudaSuccess
             : cudaErrorMemoryAllocation;
}

bool standin_capture_wait(cudaStream_t stream, cudaEvent_t event, cudaError_t *error) {
  bool answered = true;
  pthread_mutex_lock(&event->lock);
  const bool captured = event->capture_id;
  pthread_mutex_unlock(&event->lock);
  if (!captured && !capturing(stream)) return false;
  pthread_mutex_lock(&lock);
  standin_capture *own = atomic_load_explicit(&stream->capture, memory_order_relaxed);
  pthread_mutex_lock(&event->lock);
  if (own && own->invalid) {
    *error = cudaErrorStreamCaptureInvalidated;
  } else if (event->capture_id) {
    *error = wait_for_captured(stream, own, event);
  } else if (own) {
    *error = invalidate(own, cudaErrorStreamCaptureIsolation);
  } else {
    answered = false;
  }
  pthread_mutex_unlock(&event->lock);
  leave();
  return answered;
}

/* ---- what is refused ---- */

cudaError_t standin_capture_refuses(cudaStream_t stream) {
  standin_capture *capture = enter(stream);
  if (!capture) return cudaSuccess;
  const cudaError_t error = capture->invalid
                                ? cudaErrorStreamCaptureInvalidated
                                : invalidate(capture, cudaErrorStreamCaptureUnsupported);
  leave();
  return error;
}

/* A thread in mode Global is bound by its own captures and by everybody's that are Global; in mode
 * ThreadLocal, by its own; in mode Relaxed, by none. Captures that are Relaxed bind nobody. */
cudaError_t standin_capture_unsafe_call(void) {
  cudaError_t error = cudaSuccess;
  if (!atomic_load_explicit(&capture_count, memory_order_relaxed)) return cudaSuccess;
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  pthread_mutex_lock(&lock);
  for (standin_capture *capture = captures; capture; capture = capture->next) {
    const bool mine = pthread_equal(capture->thread, pthread_self());
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (!mine && (capture->mode != cudaStreamCaptureModeGlobal ||
                  thread_mode != cudaStreamCaptureModeGlobal))
      continue;
    error = invalidate(capture, cudaErrorStreamCaptureUnsupported);
  }
  leave();
  return error;
}

cudaError_t standin_capture_implicit(cudaStream_t stream) {
  cudaStream_t null_stream;
  cudaError_t error = cudaSuccess;
  if (!atomic_load_explicit(&capture_count, memory_order_relaxed)) return cudaSuccess;
  if (standin_stream_of(NULL, &null_stream) || stream != null_stream) return cudaSuccess;
  pthread_mutex_lock(&lock);
  for (standin_capture *capture = captures; capture; capture = capture->next)
    for (int32_t i = 0; i < capture->lanes; ++i)
      if (capture->streams[i]->device == stream->device &&
          !(capture->streams[i]->flags & cudaStreamNonBlocking))
        error = invalidate(capture, cudaErrorStreamCaptureImplicit);
  leave();
  return error;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
  cudaError_t error = standin_enter();
  if (!error && !mode) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  const enum cudaStreamCaptureMode before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  return cudaSuccess;
}

/* ---- what is asked ---- */

/* Status and id; with `dependencies`, the front as nodes that live until this thread's next call.
 */
static cudaError_t capture_info(cudaStream_t handle, enum cudaStreamCaptureStatus *status,
                                unsigned long long *id, cudaGraph_t *graph,
                                const cudaGraphNode_t **dependencies, size_t *dependency_count) {
  static _Thread_local cudaGraphNode_t front[64];
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error && !status) error = cudaErrorInvalidValue;
  if (!error) error = standin_stream_of(handle, &stream);
  if (error) return standin_leave(error);
  standin_capture *capture = enter(stream);
  *status = cudaStreamCaptureStatusNone;
  if (dependency_count) *dependency_count = 0;
  if (!capture) return cudaSuccess;
  *status = capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
  if (id) *id = capture->id;
  if (graph) *graph = capture->graph;
  const standin_places *places = &capture->fronts[stream->lane];
  const int32_t room = (int32_t)(sizeof front / sizeof *front);
  for (int32_t k = 0; k < places->count && k < room; ++k)
    front[k] = capture->graph->nodes[places->items[k]];
  if (dependency_count) *dependency_count = (size_t)(places->count < room ? places->count : room);
  if (dependencies) *dependencies = front;
  leave();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  return capture_info(stream, status, NULL, NULL, NULL, NULL);
}

#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *dependency_count) {
  if (edges) *edges = NULL;
  return capture_info(stream, status, id, graph, dependencies, dependency_count);
}
#else
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies,
                                     size_t *dependency_count) {
  return capture_info(stream, status, id, graph, dependencies, dependency_count);
}
#endif
