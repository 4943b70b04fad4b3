/* Graphs of the stand-in runtime (no GPU): the list of what a capture has recorded.
 *
 * A launch makes the captured calls again, in their order, on streams of the executable graph's
 * own, one for each stream that was captured; the dependencies between them are events. So branches
 * that were parallel are parallel in a replay, and nothing but their events orders them. */
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { GRAPH_MAGIC = 0x5357f9, EXEC_MAGIC = 0x5357fe };

/* ---- sets of places ---- */

static int ascending(const void *left, const void *right) {
  return *(const int32_t *)left - *(const int32_t *)right;
}

/* {1, 4} and {2, 4} become {1, 2, 4}. */
bool standin_places_merge(standin_places *places, const standin_places *others) {
  if (!others->count) return true;
  const size_t room = (size_t)places->count + (size_t)others->count;
  int32_t *items = realloc(places->items, room * sizeof *items);
  if (!items) return false;
  places->items = items;
  memcpy(items + places->count, others->items, (size_t)others->count * sizeof *items);
  qsort(items, room, sizeof *items, ascending);
  places->count = 1;
  for (size_t i = 1; i < room; ++i)
    if (items[i] != items[places->count - 1]) items[places->count++] = items[i];
  return true;
}

void standin_places_clear(standin_places *places) {
  free(places->items);
  *places = (standin_places){0};
}

/* ---- graphs ---- */

cudaError_t standin_graph_create(cudaGraph_t *graph) {
  *graph = calloc(1, sizeof **graph);
  if (!*graph) return cudaErrorMemoryAllocation;
  (*graph)->magic = GRAPH_MAGIC;
  return cudaSuccess;
}

void standin_graph_destroy(cudaGraph_t graph) {
  for (int32_t i = 0; i < graph->node_count; ++i) {
    standin_held(graph->nodes[i], -1);
    standin_places_clear(&graph->nodes[i]->needs);
    free(graph->nodes[i]);
  }
  free(graph->nodes);
  graph->magic = 0;
  free(graph);
}

static bool reserve(cudaGraph_t graph) {
  if (graph->node_count < graph->node_capacity) return true;
  const int32_t capacity = 2 * graph->node_capacity + 16;
  standin_node **nodes = realloc(graph->nodes, (size_t)capacity * sizeof *nodes);
  if (!nodes) return false;
  graph->nodes = nodes;
  graph->node_capacity = capacity;
  return true;
}

cudaError_t standin_graph_add(cudaGraph_t graph, const standin_node *node, const void *args) {
  standin_node *copy = malloc(sizeof *copy + node->bytes);
  if (!copy || !reserve(graph)) {
    free(copy);
    return cudaErrorMemoryAllocation;
  }
  *copy = *node;
  copy->needs = (standin_places){0};
  if (node->bytes) memcpy(copy->args, args, node->bytes);
  if (!standin_places_merge(&copy->needs, &node->needs)) {
    free(copy);
    return cudaErrorMemoryAllocation;
  }
  graph->nodes[graph->node_count++] = copy;
  standin_held(copy, 1);
  if (graph->lane_count <= node->lane) graph->lane_count = node->lane + 1;
  return cudaSuccess;
}

static cudaError_t graph_copy(cudaGraph_t graph, cudaGraph_t *copy) {
  cudaError_t error = standin_graph_create(copy);
  for (int32_t i = 0; !error && i < graph->node_count; ++i)
    error = standin_graph_add(*copy, graph->nodes[i], graph->nodes[i]->args);
  if (error && *copy) standin_graph_destroy(*copy);
  return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  cudaError_t error = standin_enter();
  if (!error && (!graph || graph->magic != GRAPH_MAGIC)) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  standin_graph_destroy(graph);
  STANDIN_ADD(graphs, -1);
  return cudaSuccess;
}

/* The number of nodes, and as many of them as *count says. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
  cudaError_t error = standin_enter();
  if (!error && (!graph || graph->magic != GRAPH_MAGIC || !count)) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  const size_t all = (size_t)graph->node_count;
  for (size_t i = 0; nodes && i < *count; ++i) nodes[i] = i < all ? graph->nodes[i] : NULL;
  if (!nodes || *count > all) *count = all;
  return cudaSuccess;
}

/* ---- executable graphs ---- */

struct CUgraphExec_st {
  uint32_t magic;
  cudaGraph_t graph;
  cudaStream_t *lanes;   /* [graph->lane_count] */
  cudaEvent_t *lane_end; /* [graph->lane_count] */
  cudaEvent_t *node_end; /* [graph->node_count]; NULL where only its own lane follows the node */
  cudaEvent_t begin;
  cudaEvent_t end; /* of the launch before */
  pthread_mutex_t launch_lock;
};

static void event_release(cudaEvent_t event) {
  if (event) atomic_store_explicit(&event->live, false, memory_order_relaxed);
}

/* What is still running goes on: streams end when they are empty. */
static void exec_destroy(cudaGraphExec_t exec) {
  for (int32_t i = 0; exec->lanes && i < exec->graph->lane_count; ++i)
    if (exec->lanes[i]) standin_stream_destroy(exec->lanes[i]);
  for (int32_t i = 0; exec->lane_end && i < exec->graph->lane_count; ++i)
    event_release(exec->lane_end[i]);
  for (int32_t i = 0; exec->node_end && i < exec->graph->node_count; ++i)
    event_release(exec->node_end[i]);
  event_release(exec->begin);
  event_release(exec->end);
  free(exec->lanes);
  free(exec->lane_end);
  free(exec->node_end);
  if (exec->graph) standin_graph_destroy(exec->graph);
  pthread_mutex_destroy(&exec->launch_lock);
  exec->magic = 0;
  free(exec);
}

static cudaError_t create_lanes(cudaGraphExec_t exec) {
  const size_t count = (size_t)exec->graph->lane_count;
  cudaError_t error = cudaSuccess;
  exec->lanes = calloc(count + 1, sizeof *exec->lanes);
  exec->lane_end = calloc(count + 1, sizeof *exec->lane_end);
  if (!exec->lanes || !exec->lane_end) return cudaErrorMemoryAllocation;
  for (size_t i = 0; !error && i < count; ++i) {
    error = standin_stream_create(standin_device(), cudaStreamNonBlocking, 0, &exec->lanes[i]);
    if (!error) error = standin_event_create(cudaEventDisableTiming, &exec->lane_end[i]);
  }
  if (!error) error = standin_event_create(cudaEventDisableTiming, &exec->begin);
  if (!error) error = standin_event_create(cudaEventDisableTiming, &exec->end);
  return error;
}

/* An event behind each node that another lane waits for. */
static cudaError_t create_node_ends(cudaGraphExec_t exec) {
  const cudaGraph_t graph = exec->graph;
  exec->node_end = calloc((size_t)graph->node_count + 1, sizeof *exec->node_end);
  if (!exec->node_end) return cudaErrorMemoryAllocation;
  for (int32_t i = 0; i < graph->node_count; ++i) {
    const standin_node *node = graph->nodes[i];
    for (int32_t k = 0; k < node->needs.count; ++k) {
      const int32_t need = node->needs.items[k];
      if (graph->nodes[need]->lane == node->lane || exec->node_end[need]) continue;
      const cudaError_t error = standin_event_create(cudaEventDisableTiming, &exec->node_end[need]);
      if (error) return error;
    }
  }
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *created, cudaGraph_t graph,
                                 unsigned long long flags) {
  cudaError_t error = standin_enter();
  (void)flags;
  if (!error && (!created || !graph || graph->magic != GRAPH_MAGIC)) error = cudaErrorInvalidValue;
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  cudaGraphExec_t exec = calloc(1, sizeof *exec);
  if (!exec) return standin_leave(cudaErrorMemoryAllocation);
  exec->magic = EXEC_MAGIC;
  pthread_mutex_init(&exec->launch_lock, NULL);
  error = graph_copy(graph, &exec->graph);
  if (error) {
    free(exec);
    return standin_leave(error);
  }
  error = create_lanes(exec);
  if (!error) error = create_node_ends(exec);
  if (error) {
    exec_destroy(exec);
    return standin_leave(error);
  }
  STANDIN_ADD(graphs, 1);
  *created = exec;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  cudaError_t error = standin_enter();
  if (!error && (!exec || exec->magic != EXEC_MAGIC)) error = cudaErrorInvalidValue;
  if (error) return standin_leave(error);
  exec_destroy(exec);
  STANDIN_ADD(graphs, -1);
  return cudaSuccess;
}

static void launch_node(cudaGraphExec_t exec, int32_t place) {
  const standin_node *node = exec->graph->nodes[place];
  const cudaStream_t lane = exec->lanes[node->lane];
  for (int32_t k = 0; k < node->needs.count; ++k) {
    const int32_t need = node->needs.items[k];
    if (exec->graph->nodes[need]->lane != node->lane)
      standin_event_push_wait(exec->node_end[need], lane);
  }
  switch (node->kind) {
    case STANDIN_NODE_TASK:
      standin_stream_push(lane, STANDIN_WORK, node->fn, node->args, node->bytes);
      break;
    case STANDIN_NODE_RECORD:
      standin_event_push_record(node->event, lane);
      break;
    case STANDIN_NODE_WAIT:
      standin_event_push_wait(node->event, lane);
      break;
  }
  if (exec->node_end[place]) standin_event_push_record(exec->node_end[place], lane);
}

/* Launches of one executable graph follow one another, whatever their streams. */
static void launch(cudaGraphExec_t exec, cudaStream_t stream) {
  standin_event_push_wait(exec->end, stream);
  standin_event_push_record(exec->begin, stream);
  for (int32_t i = 0; i < exec->graph->lane_count; ++i)
    standin_event_push_wait(exec->begin, exec->lanes[i]);
  for (int32_t i = 0; i < exec->graph->node_count; ++i) launch_node(exec, i);
  for (int32_t i = 0; i < exec->graph->lane_count; ++i) {
    standin_event_push_record(exec->lane_end[i], exec->lanes[i]);
    standin_event_push_wait(exec->lane_end[i], stream);
  }
  standin_event_push_record(exec->end, stream);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error && (!exec || exec->magic != EXEC_MAGIC)) error = cudaErrorInvalidValue;
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) error = standin_capture_implicit(stream);
  if (!error && atomic_load_explicit(&stream->capture, memory_order_relaxed))
    error = cudaErrorNotSupported;
  if (error) return standin_leave(error);
  pthread_mutex_lock(&exec->launch_lock);
  launch(exec, stream);
  pthread_mutex_unlock(&exec->launch_lock);
  return cudaSuccess;
}
