/* A stand-in for the CUDA runtime, for tests. IT IS NO GPU: everything runs on the host's
 * processors, and no figure measured over it says anything about a GPU.
 *
 * It has the symbols of the CUDA runtime's functions that zero1 calls, declared by the real
 * cuda_runtime_api.h, and is linked where libcudart would be. It really executes: a stream is a
 * queue with a worker thread, events order the queues, device memory is host memory that other
 * processes can map, a capture is a recorded list. What it is for is order: a missing event, wait
 * or flag shows as a wrong result, or to ThreadSanitizer, which sees the order that CUDA promises
 * and as little more as could be arranged.
 *
 * Environment, read at the first call:
 *   ZERO1_STANDIN_DEVICES=n     devices; default 1
 *   ZERO1_STANDIN_MEMORY=bytes  memory of each device, counted per process; default 4 GiB
 *   ZERO1_STANDIN_DELAY_US=n    each task first sleeps for 0 to n microseconds at random; default 0
 *   ZERO1_STANDIN_SEED=n        seed of these delays; default 1
 *   ZERO1_STANDIN_FAIL=what     a list, with commas, of: no-device, no-driver, old-driver,
 *                               ipc (no memory handles), peer (no access between devices)
 *
 * Where it differs from CUDA:
 *   - The NULL stream is a stream like others: nothing orders it against streams made without
 *     cudaStreamNonBlocking. What holds here holds there. cudaStreamPerThread is refused.
 *   - Copies always run at their turn in the queue, those from pageable host memory too, where
 *     CUDA may read the source within the call.
 *   - cudaFree and cudaIpcCloseMemHandle wait until the device is idle, as CUDA does, so a stream
 *     that is blocked for ever blocks them for ever: they say so on stderr every 10 seconds.
 *     Memory that was freed stays unmapped for a while: a late access is a segmentation fault.
 *   - In a capture, waiting for an event that was never recorded is refused, as is waiting for
 *     any event from outside; what is outside counts as unsafe to ask or to wait for.
 *   - A graph's streams each replay on a stream of the graph's own. A graph cannot be launched
 *     into a stream that is capturing, nor be built or changed by hand.
 *   - The processes that share a device do not share its memory limit. */
#ifndef ZERO1_TESTS_STANDIN_H
#define ZERO1_TESTS_STANDIN_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*standin_fn)(void *args);

/* Enqueues fn on a copy of args, as a kernel would be: it runs at its turn in the stream, or is
 * recorded where the stream is capturing. A stream that is not one, or is not of the current
 * device, is cudaErrorInvalidResourceHandle, also for cudaGetLastError. A fn that waits for memory
 * to change should give up its processor as it does (sched_yield), and must end where the device
 * has failed. */
cudaError_t standin_launch(cudaStream_t stream, standin_fn fn, const void *args, size_t args_bytes);

/* Called with 1 for each launch that a graph, or an executable one, comes to hold, and with -1 when
 * that is destroyed; NULL: no one asks. */
typedef void (*standin_held_fn)(standin_fn fn, const void *args, int32_t change);
void standin_tell_held(standin_held_fn told);

/* Launches so far by this process: a captured one counts at each replay. */
uint64_t standin_launch_count(void);

/* Device memory that has no IPC handle, as that of ncclMemAlloc; cudaFree frees it. */
cudaError_t standin_malloc_unshareable(void **memory, size_t bytes);

/* From now on every call fails with this error, as after a fault in a kernel, and nothing that is
 * queued runs: no kernel, copy or host function. What runs comes to its end before anyone is told,
 * so who is told may do as he likes with memory. cudaSuccess ends it: what is enqueued after that
 * runs. Not for a fn to call. */
void standin_device_fault(cudaError_t error);

/* For a fn that waits: 1 once the device has failed. */
int standin_device_failed(void);

/* What lives in this process: a test of a clean-up compares them. */
typedef struct standin_live {
  int64_t device_memories;
  int64_t host_memories; /* pinned and registered */
  int64_t ipc_mappings;
  int64_t streams;
  int64_t events;
  int64_t graphs; /* and executable graphs */
} standin_live;

standin_live standin_live_objects(void);

/* Reads the environment again. No other thread may be in a call. Streams keep their delays. */
void standin_reload(void);

#ifdef __cplusplus
}
#endif
#endif
