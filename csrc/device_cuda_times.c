/* How long the device took between two places of a stream: pairs of CUDA's events. */
#include <stdlib.h>

#include "device_cuda.h"

/* Beyond so many that have not been read, times are too short: nothing is made in steps for ever.
 */
#define MOST_PAIRS 4096

typedef struct time_pair {
  cudaEvent_t begin, end;
  const zero1__stream *stream;
  int64_t *elapsed_ns;
  int open; /* time_end has not come */
} time_pair;

/* [0, used) are under way, [used, made) are to be used again. */
struct zero1__cuda_times {
  int32_t used, made;
  time_pair pairs[MOST_PAIRS];
};

zero1_status zero1__cuda_times_begin(zero1__cuda *cuda, zero1__error *error) {
  cuda->times = calloc(1, sizeof *cuda->times);
  if (!cuda->times) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for timing");
  return ZERO1_OK;
}

/* Between enter and leave. */
void zero1__cuda_times_end(zero1__cuda *cuda) {
  zero1__cuda_times *times = cuda->times;
  for (int32_t i = 0; times && i < times->made; ++i) {
    zero1__cuda_forget(cudaEventDestroy(times->pairs[i].begin));
    zero1__cuda_forget(cudaEventDestroy(times->pairs[i].end));
  }
  free(times);
}

/* Between enter and leave. */
static int make_pair(zero1__cuda *cuda, time_pair *pair) {
  cudaError_t result = cudaEventCreateWithFlags(&pair->begin, cudaEventDefault);
  if (zero1__cuda_failed(cuda, "cudaEventCreateWithFlags", result)) return 0;
  result = cudaEventCreateWithFlags(&pair->end, cudaEventDefault);
  if (!zero1__cuda_failed(cuda, "cudaEventCreateWithFlags", result)) return 1;
  zero1__cuda_forget(cudaEventDestroy(pair->begin));
  return 0;
}

/* Between enter and leave. */
static time_pair *take_pair(zero1__cuda *cuda) {
  zero1__cuda_times *times = cuda->times;
  if (times->used == MOST_PAIRS) return NULL;
  time_pair *pair = &times->pairs[times->used];
  if (times->used == times->made) {
    if (!make_pair(cuda, pair)) return NULL;
    times->made += 1;
  }
  times->used += 1;
  return pair;
}

void zero1__cuda_time_begin(zero1__device *device, zero1__stream *stream, int64_t *elapsed_ns) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  const zero1__cuda_queue *queue = zero1__cuda_queue_of(stream);
  if (!elapsed_ns || queue->host) return;
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  time_pair *pair = zero1__cuda_capture_of(queue->handle) ? NULL : take_pair(cuda);
  if (pair) {
    pair->stream = stream;
    pair->elapsed_ns = elapsed_ns;
    pair->open = 1;
    zero1__cuda_failed(cuda, "cudaEventRecord", cudaEventRecord(pair->begin, queue->handle));
  }
  zero1__cuda_leave(&guard);
}

void zero1__cuda_time_end(zero1__device *device, zero1__stream *stream) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  time_pair *pair = cuda->times->pairs + cuda->times->used;
  do {
    if (pair-- == cuda->times->pairs) return;
  } while (!pair->open || pair->stream != stream);
  const zero1__cuda_guard guard = zero1__cuda_enter(cuda);
  zero1__cuda_failed(cuda, "cudaEventRecord",
                     cudaEventRecord(pair->end, zero1__cuda_queue_of(stream)->handle));
  pair->open = 0;
  zero1__cuda_leave(&guard);
}

/* What is not done yet is read the next time. */
void zero1__cuda_times_read(zero1__device *device) {
  zero1__cuda *cuda = zero1__cuda_of(device);
  zero1__cuda_times *times = cuda->times;
  const zero1__cuda_guard guard = zero1__cuda_enter_relaxed(cuda);
  for (int32_t i = times->used - 1; i >= 0; --i) {
    const time_pair pair = times->pairs[i];
    if (pair.open) continue;
    float ms = 0;
    const cudaError_t result = cudaEventElapsedTime(&ms, pair.begin, pair.end);
    if (result == cudaErrorNotReady) {
      zero1__cuda_forget(result);
      continue;
    }
    if (!zero1__cuda_failed(cuda, "cudaEventElapsedTime", result))
      *pair.elapsed_ns += (int64_t)((double)ms * 1e6);
    times->pairs[i] = times->pairs[--times->used];
    times->pairs[times->used] = pair;
  }
  zero1__cuda_leave(&guard);
}

void zero1__cuda_times_forget(zero1__device *device) {
  zero1__cuda_of(device)->times->used = 0;
}
