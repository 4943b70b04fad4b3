/* What the files of the stand-in runtime know of each other. CUDA's opaque handles are its structs.
 *
 * Handles and events' records are never freed, so a handle that was destroyed is recognised and
 * never read after free, and no lock or counter has to tell threads who is last: each of these
 * would order threads that CUDA does not order, and hide a race from ThreadSanitizer. */
#ifndef ZERO1_TESTS_STANDIN_RUNTIME_H
#define ZERO1_TESTS_STANDIN_RUNTIME_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "standin.h"

/* ---- configuration, errors (device.c, error.c) ---- */

enum { STANDIN_MAX_DEVICES = 16 };

typedef enum standin_failure {
  STANDIN_FAIL_NO_DEVICE = 1,
  STANDIN_FAIL_NO_DRIVER = 2,
  STANDIN_FAIL_OLD_DRIVER = 4,
  STANDIN_FAIL_IPC = 8,
  STANDIN_FAIL_PEER = 16
} standin_failure;

typedef struct standin_config {
  int devices;
  size_t memory_bytes;
  uint64_t delay_us;
  uint64_t seed;
  unsigned failures; /* of standin_failure */
} standin_config;

const standin_config *standin_configuration(void);

/* Current device of this thread. */
int standin_device(void);

/* Which life of the device this is (standin_device_fault): odd where it is dead. What was enqueued
 * in another one does not run. */
uint32_t standin_life(void);

/* Every call begins with it: cudaSuccess, or why no call can work. A fault is told once nothing
 * runs any more. */
cudaError_t standin_enter(void);

/* Every call ends with it: notes an error for cudaGetLastError, and returns it. */
cudaError_t standin_leave(cudaError_t error);

/* ---- sleeping (stream.c) ---- */

/* Sleeps while *word is `value`, for a second at most. */
void standin_sleep(_Atomic uint32_t *word, uint32_t value);
void standin_wake(_Atomic uint32_t *word);

/* ---- streams (stream.c) ---- */

typedef enum standin_task_kind {
  STANDIN_WORK,  /* of the device: not once it has failed */
  STANDIN_WAIT,  /* for an event */
  STANDIN_SIGNAL /* it only tells others that it was reached */
} standin_task_kind;

typedef struct standin_task {
  struct standin_task *_Atomic next;
  standin_fn fn; /* NULL ends the worker */
  standin_task_kind kind;
  uint32_t life; /* of the device, as it was enqueued */
  _Alignas(16) unsigned char args[];
} standin_task;

struct standin_capture;

struct CUstream_st {
  uint32_t magic;
  _Atomic bool live;
  int device;
  unsigned flags;
  int priority;
  unsigned long long id;
  struct CUstream_st *next; /* of all streams; never changes */

  uint64_t delay_us; /* a task's longest delay */
  uint64_t random;   /* the worker's */

  pthread_mutex_t push_lock; /* of those who push; the worker never takes it */
  bool ended;                /* nothing more may be pushed; under push_lock, as is `last` */
  standin_task *last;
  standin_task *first;     /* the worker's: the task that ran last */
  _Atomic uint32_t pushed; /* tasks, modulo 2^32 */
  _Atomic uint32_t completed;
  _Atomic uint32_t working; /* 1: the worker is in a task of STANDIN_WORK */

  struct standin_capture *_Atomic capture; /* changes under the capture lock */
  int32_t lane;                            /* place in the capture; under the capture lock */
};

/* The stream that a handle means, or cudaErrorInvalidResourceHandle. */
cudaError_t standin_stream_of(cudaStream_t handle, cudaStream_t *stream);

cudaError_t standin_stream_create(int device, unsigned flags, int priority, cudaStream_t *stream);
void standin_stream_destroy(cudaStream_t stream);

/* Into the queue, capture or not. A signal counts as completed when it runs, so that whoever is told
 * finds the stream idle; it is not delayed. */
void standin_stream_push(cudaStream_t stream, standin_task_kind kind, standin_fn fn,
                         const void *args, size_t bytes);

/* Waits until what the stream, or each stream of the device, has been given so far is done. `who`
 * waits: it is named where that takes long. */
void standin_stream_sync(cudaStream_t stream, const char *who);
void standin_device_sync(int device, const char *who);
bool standin_stream_idle(cudaStream_t stream);

/* Waits until no stream works: of a device that has just failed. */
void standin_streams_still(void);

/* Into the queue, or into the capture that the stream is in. */
cudaError_t standin_submit(cudaStream_t stream, standin_fn fn, const void *args, size_t bytes);

/* True in the child of a process that had streams: its workers are not there. */
bool standin_was_forked(void);

/* True in a function of cudaLaunchHostFunc, which may not call CUDA. */
extern _Thread_local bool standin_in_host_function;

/* ---- events (event.c) ---- */

/* One recording of an event. The references are those of tasks and of callers that wait. */
typedef struct standin_record {
  _Atomic uint32_t done;
  _Atomic uint32_t references;
  _Atomic int64_t time_ns;
  struct standin_record *next; /* of the event's; never changes */
} standin_record;

/* Places of nodes in a capture, ascending. */
typedef struct standin_places {
  int32_t *items;
  int32_t count;
} standin_places;

struct CUevent_st {
  uint32_t magic;
  _Atomic bool live;
  int device;
  unsigned flags;
  struct CUevent_st *next; /* of all events; never changes */

  pthread_mutex_t lock; /* of those who record and wait; workers never take it */
  standin_record *records;
  standin_record *last;          /* NULL: never recorded outside a capture */
  unsigned long long capture_id; /* of its last record; 0: that was outside any capture */
  standin_places captured;       /* what that record stands for */
};

cudaError_t standin_event_of(cudaEvent_t handle);
cudaError_t standin_event_create(unsigned flags, cudaEvent_t *event);

/* Into the queue, capture or not. */
void standin_event_push_record(cudaEvent_t event, cudaStream_t stream);
void standin_event_push_wait(cudaEvent_t event, cudaStream_t stream);

/* ---- captures and graphs (capture.c, graph.c) ---- */

typedef enum standin_node_kind {
  STANDIN_NODE_TASK,
  STANDIN_NODE_RECORD, /* of an event outside the graph */
  STANDIN_NODE_WAIT    /* for an event outside the graph */
} standin_node_kind;

/* What a captured call has become. A node is pointed to by its graph alone. */
typedef struct CUgraphNode_st {
  standin_node_kind kind;
  int32_t lane;
  standin_places needs; /* all nodes that it follows directly */
  standin_fn fn;
  cudaEvent_t event;
  size_t bytes;
  _Alignas(16) unsigned char args[];
} standin_node;

struct CUgraph_st {
  uint32_t magic;
  int32_t lane_count; /* streams that were captured */
  int32_t node_count;
  int32_t node_capacity;
  standin_node **nodes; /* in the order of the calls */
};

/* For standin_tell_held, of each node that a graph gains (1) or loses (-1). */
void standin_held(const standin_node *node, int32_t change);

cudaError_t standin_graph_create(cudaGraph_t *graph);
void standin_graph_destroy(cudaGraph_t graph);

/* Adds a copy of the node, with these arguments. */
cudaError_t standin_graph_add(cudaGraph_t graph, const standin_node *node, const void *args);

bool standin_places_merge(standin_places *places, const standin_places *others);
void standin_places_clear(standin_places *places);

/* True where the stream is in a capture, which then has answered the call with *error. */
bool standin_capture_task(cudaStream_t stream, standin_node_kind kind, standin_fn fn,
                          cudaEvent_t event, const void *args, size_t bytes, cudaError_t *error);
bool standin_capture_record(cudaEvent_t event, cudaStream_t stream, cudaError_t *error);
bool standin_capture_wait(cudaStream_t stream, cudaEvent_t event, cudaError_t *error);

/* A call that would wait for the stream or ask for its state: refused in a capture. */
cudaError_t standin_capture_refuses(cudaStream_t stream);

/* A call that CUDA calls unsafe during captures, by their modes: cudaMalloc, cudaFree and more. */
cudaError_t standin_capture_unsafe_call(void);

/* A call on the NULL stream: refused while a stream of its device that waits for it is capturing.
 */
cudaError_t standin_capture_implicit(cudaStream_t stream);

/* ---- memory (memory.c, ipc.c) ---- */

typedef enum standin_memory_kind {
  STANDIN_MEMORY_DEVICE,
  STANDIN_MEMORY_MAPPED, /* another process's, through its handle */
  STANDIN_MEMORY_PINNED,
  STANDIN_MEMORY_REGISTERED
} standin_memory_kind;

typedef struct standin_memory {
  standin_memory_kind kind;
  char *base;
  size_t bytes;
  size_t mapped_bytes; /* whole pages, and one behind them that cannot be touched */
  int device;
  int fd;            /* -1: none */
  uint64_t owner[2]; /* MAPPED: inode of the memory, and its file system */
  int32_t opened;    /* MAPPED: times */
  struct standin_memory *next;
} standin_memory;

/* The registry's lock, shared by those who look. */
void standin_memory_read_lock(void);
void standin_memory_write_lock(void);
void standin_memory_unlock(void);

/* These under the lock. */
standin_memory *standin_memory_first(void);
standin_memory *standin_memory_find(const void *pointer);
void standin_memory_add(standin_memory *memory);
void standin_memory_remove(standin_memory *memory);

/* The whole of the descriptor's file, with a page behind it that cannot be touched; or NULL. */
char *standin_map(int fd, size_t bytes, size_t *mapped_bytes);
void standin_unmap(char *base, size_t mapped_bytes);

/* ---- counts of standin_live_objects ---- */

typedef struct standin_counts {
  _Atomic int64_t device_memories, host_memories, ipc_mappings, streams, events, graphs;
  _Atomic uint64_t launches;
} standin_counts;

extern standin_counts standin_count;

#define STANDIN_ADD(counter, value) \
  atomic_fetch_add_explicit(&standin_count.counter, (value), memory_order_relaxed)

#endif
