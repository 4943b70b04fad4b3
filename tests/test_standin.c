/* The stand-in CUDA runtime (no GPU) keeps CUDA's order, and its errors where
 * that is broken. */
// devices: standin
// sanitizers: address undefined thread
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "standin.h"

static void check_cuda(const char *file, int line, const char *call, cudaError_t error,
                       cudaError_t expected) {
  if (error == expected) return;
  check__place(file, line);
  fprintf(stderr, "%s gave %s, not %s\n", call, cudaGetErrorName(error),
          cudaGetErrorName(expected));
  check__exit(1);
}

#define CHECK_CUDA(call, expected) check_cuda(__FILE__, __LINE__, #call, (call), (expected))
#define DO(call) CHECK_CUDA(call, cudaSuccess)

/* ---- kernels ---- */

/* *cell = *cell * 10 + digit: tells the order of its launches. */
typedef struct append_args {
  int64_t *cell;
  int64_t digit;
} append_args;

static void append_run(void *args) {
  const append_args *append = args;
  *append->cell = *append->cell * 10 + append->digit;
}

static void append(cudaStream_t stream, int64_t *cell, int64_t digit) {
  const append_args args = {cell, digit};
  DO(standin_launch(stream, append_run, &args, sizeof args));
}

/* Waits until *gate is `open`. */
typedef struct gate_args {
  _Atomic int *gate;
  int open;
} gate_args;

static void gate_run(void *args) {
  const gate_args *gate = args;
  while (atomic_load_explicit(gate->gate, memory_order_acquire) < gate->open) sched_yield();
}

static void hold(cudaStream_t stream, _Atomic int *gate, int open) {
  const gate_args args = {gate, open};
  DO(standin_launch(stream, gate_run, &args, sizeof args));
}

static void open_gate(_Atomic int *gate, int value) {
  atomic_store_explicit(gate, value, memory_order_release);
}

static cudaStream_t stream_create(void) {
  cudaStream_t stream;
  DO(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

static cudaEvent_t event_create(void) {
  cudaEvent_t event;
  DO(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

static int64_t *cell_create(void) {
  int64_t *cell;
  DO(cudaMalloc((void **)&cell, sizeof *cell));
  *cell = 0;
  return cell;
}

/* ---- streams and events ---- */

static void a_stream_runs_in_order(void) {
  int64_t *cell = cell_create();
  cudaStream_t stream = stream_create();
  for (int64_t i = 1; i < 8; ++i) append(stream, cell, i);
  DO(cudaStreamSynchronize(stream));
  CHECK_EQ(*cell, 1234567);
  DO(cudaStreamDestroy(stream));
  CHECK_CUDA(cudaStreamQuery(stream), cudaErrorInvalidResourceHandle);
  DO(cudaFree(cell));
}

static void the_null_stream_runs(void) {
  int64_t *cell = cell_create();
  int64_t value = 7, result = 0;
  DO(cudaMemcpy(cell, &value, sizeof value, cudaMemcpyHostToDevice));
  append(NULL, cell, 3);
  DO(cudaMemcpy(&result, cell, sizeof value, cudaMemcpyDeviceToHost));
  CHECK_EQ(result, 73);
  DO(cudaFree(cell));
}

static void streams_do_not_wait_for_each_other(void) {
  _Atomic int gate = 0;
  int64_t *cell = cell_create();
  cudaStream_t held = stream_create(), other = stream_create();
  hold(held, &gate, 1);
  append(other, cell, 1);
  DO(cudaStreamSynchronize(other));
  CHECK_EQ(*cell, 1);
  CHECK_CUDA(cudaStreamQuery(held), cudaErrorNotReady);
  CHECK_CUDA(cudaGetLastError(), cudaErrorNotReady);
  open_gate(&gate, 1);
  DO(cudaStreamSynchronize(held));
  DO(cudaStreamQuery(held));
  DO(cudaStreamDestroy(held));
  DO(cudaStreamDestroy(other));
  DO(cudaFree(cell));
}

static void an_event_orders_two_streams(void) {
  _Atomic int gate = 0;
  int64_t *cell = cell_create();
  cudaStream_t first = stream_create(), second = stream_create();
  cudaEvent_t event = event_create();
  DO(cudaStreamWaitEvent(second, event, 0)); /* never recorded: no wait */
  hold(first, &gate, 1);
  append(first, cell, 1);
  DO(cudaEventRecord(event, first));
  DO(cudaStreamWaitEvent(second, event, 0));
  append(second, cell, 2);
  CHECK_CUDA(cudaEventQuery(event), cudaErrorNotReady);
  open_gate(&gate, 1);
  DO(cudaStreamSynchronize(second));
  CHECK_EQ(*cell, 12);
  DO(cudaEventQuery(event));
  DO(cudaEventDestroy(event));
  CHECK_CUDA(cudaEventQuery(event), cudaErrorInvalidResourceHandle);
  DO(cudaStreamDestroy(first));
  DO(cudaStreamDestroy(second));
  DO(cudaFree(cell));
}

/* The waiter goes on at gate 1, though the event's second record waits for
 * gate 2. */
static void a_wait_is_for_the_last_record_at_the_call(void) {
  _Atomic int gate = 0;
  int64_t *cell = cell_create();
  cudaStream_t first = stream_create(), second = stream_create();
  cudaEvent_t event = event_create();
  hold(first, &gate, 1);
  append(first, cell, 1);
  DO(cudaEventRecord(event, first));
  DO(cudaStreamWaitEvent(second, event, 0));
  hold(first, &gate, 2);
  DO(cudaEventRecord(event, first));
  append(second, cell, 2);
  open_gate(&gate, 1);
  DO(cudaStreamSynchronize(second));
  CHECK_EQ(*cell, 12);
  CHECK_CUDA(cudaEventQuery(event), cudaErrorNotReady);
  open_gate(&gate, 2);
  DO(cudaEventSynchronize(event));
  DO(cudaEventDestroy(event));
  DO(cudaStreamDestroy(first));
  DO(cudaStreamDestroy(second));
  DO(cudaFree(cell));
}

/* 400 steps of two streams that hand a cell to each other, with no host in
 * between. */
static void events_are_recorded_again_and_again(void) {
  int64_t *cell = cell_create();
  cudaStream_t streams[2] = {stream_create(), stream_create()};
  cudaEvent_t events[2] = {event_create(), event_create()};
  for (int i = 0; i < 400; ++i) {
    const int turn = i % 2;
    DO(cudaStreamWaitEvent(streams[turn], events[!turn], 0));
    if (i % 100 == 0) DO(cudaMemsetAsync(cell, 0, sizeof *cell, streams[turn]));
    if (i % 100 < 8) append(streams[turn], cell, i % 100 + 1);
    DO(cudaEventRecord(events[turn], streams[turn]));
  }
  DO(cudaEventSynchronize(events[1]));
  CHECK_EQ(*cell, 12345678);
  for (int i = 0; i < 2; ++i) {
    DO(cudaEventDestroy(events[i]));
    DO(cudaStreamDestroy(streams[i]));
  }
  DO(cudaFree(cell));
}

static void a_copy_reads_at_its_turn(void) {
  _Atomic int gate = 0;
  int64_t *host, *cell = cell_create();
  DO(cudaMallocHost((void **)&host, sizeof *host));
  cudaStream_t stream = stream_create();
  *host = 1;
  hold(stream, &gate, 1);
  DO(cudaMemcpyAsync(cell, host, sizeof *host, cudaMemcpyHostToDevice, stream));
  *host = 2; /* the mistake that a missing wait is */
  open_gate(&gate, 1);
  DO(cudaStreamSynchronize(stream));
  CHECK_EQ(*cell, 2);
  DO(cudaStreamDestroy(stream));
  DO(cudaFreeHost(host));
  DO(cudaFree(cell));
}

static void call_cuda(void *result) {
  void *memory;
  *(cudaError_t *)result = cudaMalloc(&memory, 8);
}

static void host_functions_run_in_order_and_may_not_call(void) {
  cudaError_t result = cudaSuccess;
  DO(cudaLaunchHostFunc(NULL, call_cuda, &result));
  DO(cudaDeviceSynchronize());
  CHECK_CUDA(result, cudaErrorNotPermitted);
}

static void launches_are_counted(void) {
  int64_t *cell = cell_create();
  const uint64_t before = standin_launch_count();
  append(NULL, cell, 1);
  append(NULL, cell, 2);
  DO(cudaDeviceSynchronize());
  CHECK_EQ(standin_launch_count() - before, 2);
  DO(cudaFree(cell));
}

/* ---- memory ---- */

static void memory_is_poisoned_bounded_and_counted(void) {
  unsigned char *memory;
  size_t free_before, free_after, total;
  struct cudaPointerAttributes attributes;
  const standin_live before = standin_live_objects();
  DO(cudaMemGetInfo(&free_before, &total));
  DO(cudaMalloc((void **)&memory, 5000));
  DO(cudaMemGetInfo(&free_after, &total));
  CHECK_EQ(free_before - free_after, 5000);
  CHECK_EQ((uintptr_t)memory % 4096, 0);
  for (int i = 0; i < 5000; ++i) CHECK_EQ(memory[i], 0xab);
  CHECK_CUDA(cudaMemset(memory + 1, 0, 5000), cudaErrorInvalidValue);
  DO(cudaPointerGetAttributes(&attributes, memory + 4999));
  CHECK_EQ(attributes.type, cudaMemoryTypeDevice);
  DO(cudaPointerGetAttributes(&attributes, &total));
  CHECK_EQ(attributes.type, cudaMemoryTypeUnregistered);
  CHECK_EQ(standin_live_objects().device_memories, before.device_memories + 1);
  DO(cudaFree(memory));
  CHECK_EQ(standin_live_objects().device_memories, before.device_memories);
  CHECK_CUDA(cudaFree(memory), cudaErrorInvalidValue);
  CHECK_CUDA(cudaMalloc((void **)&memory, total + 1), cudaErrorMemoryAllocation);
  CHECK_CUDA(cudaGetLastError(), cudaErrorMemoryAllocation);
  CHECK_CUDA(cudaGetLastError(), cudaSuccess);
}

static void a_stream_of_another_device_is_refused(void) {
  int64_t *cell = cell_create();
  const append_args args = {cell, 1};
  cudaStream_t stream = stream_create();
  cudaEvent_t event = event_create();
  DO(cudaSetDevice(1));
  CHECK_CUDA(standin_launch(stream, append_run, &args, sizeof args),
             cudaErrorInvalidResourceHandle);
  CHECK_CUDA(cudaEventRecord(event, NULL), cudaErrorInvalidResourceHandle);
  CHECK_CUDA(cudaSetDevice(2), cudaErrorInvalidDevice);
  DO(cudaSetDevice(0));
  DO(cudaEventDestroy(event));
  DO(cudaStreamDestroy(stream));
  DO(cudaFree(cell));
}

static void a_fault_stays(void) {
  standin_device_fault(cudaErrorIllegalAddress);
  CHECK_CUDA(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  CHECK_CUDA(cudaGetLastError(), cudaErrorIllegalAddress);
  CHECK_CUDA(cudaGetLastError(), cudaErrorIllegalAddress);
  standin_device_fault(cudaSuccess);
  DO(cudaDeviceSynchronize());
}

static _Atomic int lingers;

/* A kernel that the fault finds at work, and that takes its time to end. */
static void linger_run(void *args) {
  atomic_store_explicit(&lingers, 1, memory_order_relaxed);
  while (!standin_device_failed()) sched_yield();
  usleep(3000);
  append_run(args);
}

static void *let_it_fail(void *arg) {
  (void)arg;
  while (!atomic_load_explicit(&lingers, memory_order_relaxed)) sched_yield();
  usleep(3000);
  standin_device_fault(cudaErrorIllegalAddress);
  return NULL;
}

/* 1 where it waits for the stream, 0 where it asks again and again. */
static void check_told_when_over(int waits) {
  pthread_t thread;
  int64_t *cell = cell_create(), seven = 7;
  cudaStream_t stream = stream_create();
  const append_args args = {cell, 1};
  cudaError_t told;
  atomic_store(&lingers, 0);
  DO(standin_launch(stream, linger_run, &args, sizeof args));
  DO(cudaMemcpyAsync(cell, &seven, sizeof seven, cudaMemcpyHostToDevice, stream));
  append(stream, cell, 2);
  CHECK(!pthread_create(&thread, NULL, let_it_fail, NULL));
  do told = waits ? cudaStreamSynchronize(stream) : cudaStreamQuery(stream);
  while (told == cudaErrorNotReady);
  CHECK_CUDA(told, cudaErrorIllegalAddress);
  CHECK_EQ(*cell, 1); /* it has ended, and nothing came after it */
  CHECK(!pthread_join(thread, NULL));
  standin_device_fault(cudaSuccess);
  append(stream, cell, 3);
  DO(cudaStreamSynchronize(stream));
  CHECK_EQ(*cell, 13);
  DO(cudaStreamDestroy(stream));
  DO(cudaFree(cell));
}

static void a_fault_is_told_when_all_is_over(void) {
  check_told_when_over(1);
  check_told_when_over(0);
}

/* ---- capture ---- */

static cudaGraphExec_t instantiate(cudaGraph_t graph) {
  cudaGraphExec_t exec;
  DO(cudaGraphInstantiate(&exec, graph, 0));
  DO(cudaGraphDestroy(graph));
  return exec;
}

/* origin: 1, then 2 on a stream that joins, then 3 on the origin again. */
static void a_capture_is_replayed(void) {
  int64_t *cell = cell_create();
  cudaStream_t origin = stream_create(), joined = stream_create();
  cudaEvent_t fork = event_create(), join = event_create();
  cudaGraph_t graph;
  size_t node_count;
  enum cudaStreamCaptureStatus status;
  DO(cudaStreamBeginCapture(origin, cudaStreamCaptureModeThreadLocal));
  append(origin, cell, 1);
  DO(cudaEventRecord(fork, origin));
  DO(cudaStreamWaitEvent(joined, fork, 0));
  DO(cudaStreamIsCapturing(joined, &status));
  CHECK_EQ(status, cudaStreamCaptureStatusActive);
  append(joined, cell, 2);
  DO(cudaEventRecord(join, joined));
  DO(cudaStreamWaitEvent(origin, join, 0));
  append(origin, cell, 3);
  DO(cudaStreamEndCapture(origin, &graph));
  DO(cudaStreamIsCapturing(joined, &status));
  CHECK_EQ(status, cudaStreamCaptureStatusNone);
  DO(cudaDeviceSynchronize());
  CHECK_EQ(*cell, 0); /* recorded, not run */
  DO(cudaGraphGetNodes(graph, NULL, &node_count));
  CHECK_EQ(node_count, 3);
  CHECK_CUDA(cudaEventQuery(join), cudaErrorCapturedEvent);

  cudaGraphExec_t exec = instantiate(graph);
  const uint64_t before = standin_launch_count();
  append(origin, cell, 9);
  DO(cudaGraphLaunch(exec, origin));
  DO(cudaGraphLaunch(exec, joined)); /* launches of one graph follow one another */
  append(joined, cell, 8);
  DO(cudaStreamSynchronize(joined));
  CHECK_EQ(*cell, 91231238);
  CHECK_EQ(standin_launch_count() - before, 8);
  DO(cudaGraphExecDestroy(exec));
  DO(cudaEventRecord(fork, origin)); /* an event of its own again */
  DO(cudaEventSynchronize(fork));
  DO(cudaEventDestroy(fork));
  DO(cudaEventDestroy(join));
  DO(cudaStreamDestroy(origin));
  DO(cudaStreamDestroy(joined));
  DO(cudaFree(cell));
}

static void branches_of_a_graph_are_parallel(void) {
  _Atomic int gate = 0;
  cudaStream_t origin = stream_create(), joined = stream_create();
  cudaEvent_t fork = event_create(), join = event_create();
  cudaGraph_t graph;
  DO(cudaStreamBeginCapture(origin, cudaStreamCaptureModeRelaxed));
  DO(cudaEventRecord(fork, origin));
  DO(cudaStreamWaitEvent(joined, fork, 0));
  hold(origin, &gate, 1);
  DO(cudaMemcpyAsync(&gate, &(int){1}, 0, cudaMemcpyDefault, joined)); /* no bytes, no node */
  DO(cudaEventRecordWithFlags(fork, joined, cudaEventRecordExternal));
  DO(cudaEventRecord(join, joined));
  DO(cudaStreamWaitEvent(origin, join, 0));
  DO(cudaStreamEndCapture(origin, &graph));
  cudaGraphExec_t exec = instantiate(graph);
  DO(cudaGraphLaunch(exec, origin));
  DO(cudaEventSynchronize(fork)); /* the origin's branch is held */
  CHECK_CUDA(cudaStreamQuery(origin), cudaErrorNotReady);
  open_gate(&gate, 1);
  DO(cudaStreamSynchronize(origin));
  DO(cudaGraphExecDestroy(exec));
  DO(cudaEventDestroy(fork));
  DO(cudaEventDestroy(join));
  DO(cudaStreamDestroy(origin));
  DO(cudaStreamDestroy(joined));
}

static void expect_end(cudaStream_t stream, cudaError_t expected) {
  cudaGraph_t graph;
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph), expected);
  CHECK(!graph);
}

static void what_a_capture_refuses(void) {
  void *memory;
  cudaStream_t origin = stream_create(), joined = stream_create();
  cudaEvent_t outside = event_create(), inside = event_create();
  int64_t *cell = cell_create();
  DO(cudaEventRecord(outside, joined));

  DO(cudaStreamBeginCapture(origin, cudaStreamCaptureModeGlobal));
  CHECK_CUDA(cudaStreamWaitEvent(origin, outside, 0), cudaErrorStreamCaptureIsolation);
  CHECK_CUDA(cudaEventRecord(inside, origin), cudaErrorStreamCaptureInvalidated);
  expect_end(origin, cudaErrorStreamCaptureInvalidated);

  DO(cudaStreamBeginCapture(origin, cudaStreamCaptureModeGlobal));
  CHECK_CUDA(cudaStreamSynchronize(origin), cudaErrorStreamCaptureUnsupported);
  expect_end(origin, cudaErrorStreamCaptureInvalidated);

  DO(cudaStreamBeginCapture(origin, cudaStreamCaptureModeGlobal));
  CHECK_CUDA(cudaMalloc(&memory, 8), cudaErrorStreamCaptureUnsupported);
  expect_end(origin, cudaErrorStreamCaptureInvalidated);

  DO(cudaStreamBeginCapture(origin, cudaStreamCaptureModeRelaxed));
  DO(cudaMalloc(&memory, 8));
  DO(cudaEventRecord(inside, origin));
  CHECK_CUDA(cudaEventSynchronize(inside), cudaErrorCapturedEvent);
  DO(cudaStreamWaitEvent(joined, inside, 0));
  append(joined, cell, 1);
  expect_end(origin, cudaErrorStreamCaptureUnjoined);
  DO(cudaFree(memory));

  CHECK_CUDA(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal),
             cudaErrorStreamCaptureUnsupported);
  expect_end(origin, cudaErrorIllegalState);
  append(joined, cell, 2);
  DO(cudaStreamSynchronize(joined));
  CHECK_EQ(*cell, 2);
  DO(cudaEventDestroy(outside));
  DO(cudaEventDestroy(inside));
  DO(cudaStreamDestroy(origin));
  DO(cudaStreamDestroy(joined));
  DO(cudaFree(cell));
}

/* ---- between processes ---- */

static void child_of(int from_parent, int to_parent) {
  cudaIpcMemHandle_t handle;
  _Atomic int *flags, *again;
  char dead;
  CHECK(read(from_parent, &handle, sizeof handle) == sizeof handle);
  DO(cudaIpcOpenMemHandle((void **)&flags, handle, cudaIpcMemLazyEnablePeerAccess));
  DO(cudaIpcOpenMemHandle((void **)&again, handle, cudaIpcMemLazyEnablePeerAccess));
  CHECK(flags == again);
  DO(cudaIpcCloseMemHandle(again));
  hold(NULL, &flags[0], 1);
  DO(cudaDeviceSynchronize());
  open_gate(&flags[1], 2);
  DO(cudaIpcCloseMemHandle(flags));
  CHECK_EQ(standin_live_objects().ipc_mappings, 0);
  CHECK(write(to_parent, "x", 1) == 1);
  CHECK(read(from_parent, &dead, 1) == 1); /* the parent has freed it */
  CHECK_CUDA(cudaIpcOpenMemHandle((void **)&flags, handle, cudaIpcMemLazyEnablePeerAccess),
             cudaErrorMapBufferObjectFailed);
  check__exit(0);
}

static void a_handle_opens_in_another_process(int from_child, int to_child, pid_t child) {
  cudaIpcMemHandle_t handle;
  _Atomic int *flags;
  void *mapped, *unshared;
  char done;
  int result;
  DO(cudaMalloc((void **)&flags, 2 * sizeof *flags));
  DO(cudaMemset(flags, 0, 2 * sizeof *flags));
  DO(cudaDeviceSynchronize());
  DO(cudaIpcGetMemHandle(&handle, flags));
  CHECK_CUDA(cudaIpcOpenMemHandle(&mapped, handle, cudaIpcMemLazyEnablePeerAccess),
             cudaErrorDeviceUninitialized);
  CHECK(write(to_child, &handle, sizeof handle) == sizeof handle);
  open_gate(&flags[0], 1);
  hold(NULL, &flags[1], 2);
  DO(cudaDeviceSynchronize());
  CHECK(read(from_child, &done, 1) == 1);
  DO(cudaFree(flags));
  CHECK(write(to_child, "x", 1) == 1);
  CHECK(waitpid(child, &result, 0) == child);
  CHECK_EQ(result, 0);
  DO(standin_malloc_unshareable(&unshared, 8));
  CHECK_CUDA(cudaIpcGetMemHandle(&handle, unshared), cudaErrorInvalidValue);
  DO(cudaFree(unshared));
}

static void a_child_of_fork_has_no_device(void) {
  int result;
  DO(cudaDeviceSynchronize());
  const pid_t child = fork();
  CHECK(child >= 0);
  if (!child) _exit(cudaDeviceSynchronize() != cudaErrorInitializationError);
  CHECK(waitpid(child, &result, 0) == child);
  CHECK_EQ(result, 0);
}

static void failures_are_as_asked_for(void) {
  int count, version;
  cudaIpcMemHandle_t handle;
  int64_t *cell = cell_create();
  setenv("ZERO1_STANDIN_FAIL", "ipc", 1);
  standin_reload();
  CHECK_CUDA(cudaIpcGetMemHandle(&handle, cell), cudaErrorNotSupported);
  setenv("ZERO1_STANDIN_FAIL", "no-device", 1);
  standin_reload();
  CHECK_CUDA(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  setenv("ZERO1_STANDIN_FAIL", "old-driver", 1);
  standin_reload();
  CHECK_CUDA(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
  DO(cudaDriverGetVersion(&version));
  CHECK(version < CUDART_VERSION);
  unsetenv("ZERO1_STANDIN_FAIL");
  standin_reload();
  DO(cudaFree(cell));
}

static void run_all(void) {
  RUN(a_stream_runs_in_order);
  RUN(the_null_stream_runs);
  RUN(streams_do_not_wait_for_each_other);
  RUN(an_event_orders_two_streams);
  RUN(a_wait_is_for_the_last_record_at_the_call);
  RUN(events_are_recorded_again_and_again);
  RUN(a_copy_reads_at_its_turn);
  RUN(host_functions_run_in_order_and_may_not_call);
  RUN(launches_are_counted);
  RUN(memory_is_poisoned_bounded_and_counted);
  RUN(a_stream_of_another_device_is_refused);
  RUN(a_fault_stays);
  RUN(a_fault_is_told_when_all_is_over);
  RUN(a_capture_is_replayed);
  RUN(branches_of_a_graph_are_parallel);
  RUN(what_a_capture_refuses);
  RUN(a_child_of_fork_has_no_device);
  RUN(failures_are_as_asked_for);
}

int main(void) {
  int to_child[2], from_child[2];
  setenv("ZERO1_STANDIN_DEVICES", "2", 1);
  CHECK(!pipe(to_child) && !pipe(from_child));
  const pid_t child = fork(); /* before there are threads */
  CHECK(child >= 0);
  if (!child) child_of(to_child[0], from_child[1]);
  a_handle_opens_in_another_process(from_child[0], to_child[1], child);
  run_all();
  setenv("ZERO1_STANDIN_DELAY_US", "200", 1);
  standin_reload();
  run_all();
  const standin_live left = standin_live_objects();
  CHECK_EQ(left.device_memories + left.host_memories + left.ipc_mappings, 0);
  CHECK_EQ(left.streams + left.events + left.graphs, 0);
  return check_summary();
}
