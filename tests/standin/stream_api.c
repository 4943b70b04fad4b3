/* The runtime's functions on streams, and what is put into them (no GPU). */
#include <string.h>

#include "runtime.h"

standin_counts standin_count;

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority) {
  cudaError_t error = standin_enter();
  if (!error && (!stream || (flags & ~(unsigned)cudaStreamNonBlocking)))
    error = cudaErrorInvalidValue;
  if (!error) error = standin_stream_create(standin_device(), flags, priority, stream);
  if (!error) STANDIN_ADD(streams, 1);
  return standin_leave(error);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  const cudaError_t error = standin_enter();
  if (!error && least) *least = 0;
  if (!error && greatest) *greatest = -5;
  return standin_leave(error);
}

/* Returns at once; what is in the queue still runs. */
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error && (!handle || handle == cudaStreamLegacy)) error = cudaErrorInvalidResourceHandle;
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) error = standin_capture_refuses(stream);
  if (error) return standin_leave(error);
  standin_stream_destroy(stream);
  STANDIN_ADD(streams, -1);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) error = standin_capture_implicit(stream);
  if (!error) error = standin_capture_refuses(stream);
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_stream_sync(stream, "cudaStreamSynchronize");
  return standin_leave(standin_enter());
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) error = standin_capture_implicit(stream);
  if (!error) error = standin_capture_refuses(stream);
  if (!error && !standin_stream_idle(stream)) error = cudaErrorNotReady;
  if (!error) error = standin_enter(); /* what has failed has not been done */
  return standin_leave(error);
}

cudaError_t cudaDeviceSynchronize(void) {
  cudaError_t error = standin_enter();
  if (!error) error = standin_capture_unsafe_call();
  if (error) return standin_leave(error);
  standin_device_sync(standin_device(), "cudaDeviceSynchronize");
  return standin_leave(standin_enter());
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int *device) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) *device = stream->device;
  return standin_leave(error);
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned int *flags) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) *flags = stream->flags;
  return standin_leave(error);
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int *priority) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) *priority = stream->priority;
  return standin_leave(error);
}

cudaError_t cudaStreamGetId(cudaStream_t handle, unsigned long long *id) {
  cudaStream_t stream;
  cudaError_t error = standin_enter();
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) *id = stream->id;
  return standin_leave(error);
}

/* ---- tasks ---- */

cudaError_t standin_submit(cudaStream_t stream, standin_fn fn, const void *args, size_t bytes) {
  cudaError_t error = standin_capture_implicit(stream);
  if (error) return error;
  if (!standin_capture_task(stream, STANDIN_NODE_TASK, fn, NULL, args, bytes, &error))
    standin_stream_push(stream, STANDIN_WORK, fn, args, bytes);
  return error;
}

/* A launch is a task that counts itself, so that each replay counts. */
typedef struct launch_task {
  standin_fn fn;
  _Alignas(16) unsigned char args[4096]; /* what CUDA allows a kernel's parameters */
} launch_task;

static void launch_run(void *context) {
  launch_task *launch = context;
  STANDIN_ADD(launches, 1);
  launch->fn(launch->args);
}

cudaError_t standin_launch(cudaStream_t handle, standin_fn fn, const void *args,
                           size_t args_bytes) {
  cudaStream_t stream;
  launch_task launch = {.fn = fn};
  cudaError_t error = standin_enter();
  if (!error && args_bytes > sizeof launch.args) error = cudaErrorInvalidValue;
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error && stream->device != standin_device()) error = cudaErrorInvalidResourceHandle;
  if (error) return standin_leave(error);
  if (args_bytes) memcpy(launch.args, args, args_bytes);
  return standin_leave(
      standin_submit(stream, launch_run, &launch, offsetof(launch_task, args) + args_bytes));
}

static _Atomic(standin_held_fn) told_held;

void standin_tell_held(standin_held_fn told) {
  atomic_store(&told_held, told);
}

void standin_held(const standin_node *node, int32_t change) {
  const launch_task *launch = (const launch_task *)node->args;
  const standin_held_fn told = atomic_load(&told_held);
  if (told && node->kind == STANDIN_NODE_TASK && node->fn == launch_run)
    told(launch->fn, launch->args, change);
}

uint64_t standin_launch_count(void) {
  return atomic_load_explicit(&standin_count.launches, memory_order_relaxed);
}

typedef struct host_task {
  cudaHostFn_t fn;
  void *user_data;
} host_task;

static void host_run(void *args) {
  const host_task *task = args;
  standin_in_host_function = true;
  task->fn(task->user_data);
  standin_in_host_function = false;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t fn, void *user_data) {
  cudaStream_t stream;
  const host_task task = {fn, user_data};
  cudaError_t error = standin_enter();
  if (!error && !fn) error = cudaErrorInvalidValue;
  if (!error) error = standin_stream_of(handle, &stream);
  if (!error) error = standin_submit(stream, host_run, &task, sizeof task);
  return standin_leave(error);
}

standin_live standin_live_objects(void) {
  return (standin_live){standin_count.device_memories, standin_count.host_memories,
                        standin_count.ipc_mappings,    standin_count.streams,
                        standin_count.events,          standin_count.graphs};
}
