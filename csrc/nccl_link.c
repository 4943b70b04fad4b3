#include "nccl_link.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"

/* Peers that destroy theirs later are not waited for much longer than that: none needs this rank
 * any more once its own streams are idle, but for what NCCL itself may have under way. */
#define CLOSE_SECONDS 2.0

/* ---- failures ---- */

zero1_status zero1__nccl_fail(zero1__error *error, ncclResult_t result, const char *what) {
  const char *last = zero1__nccl.ncclGetLastError(NULL);
  return zero1__fail(error, ZERO1_ERR_COMM, "%s: %s%s%.250s", what,
                     zero1__nccl.ncclGetErrorString(result), last && last[0] ? ": " : "",
                     last ? last : "");
}

zero1_status zero1__nccl_cuda_fail(zero1__error *error, cudaError_t code, const char *what) {
  const zero1_status status = code == cudaErrorMemoryAllocation ? ZERO1_ERR_MEMORY
                              : code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver ||
                                      code == cudaErrorInvalidDevice
                                  ? ZERO1_ERR_NO_DEVICE
                                  : ZERO1_ERR_DEVICE;
  return zero1__fail(error, status, "%s: %s", what, cudaGetErrorString(code));
}

/* ---- waiting ---- */

static void sleep_ns(int64_t ns) {
  const struct timespec time = {ns / 1000000000, ns % 1000000000};
  nanosleep(&time, NULL);
}

/* Most waits are over in no time. */
static void pause_since(int64_t begin_ns) {
  if (zero1__now_ns() - begin_ns < 200000)
    sched_yield();
  else
    sleep_ns(50000);
}

ncclComm_t zero1__nccl_enter(zero1__nccl_link *link, zero1__error *error) {
  pthread_mutex_lock(&link->mutex);
  if (link->nccl) return link->nccl;
  pthread_mutex_unlock(&link->mutex);
  zero1__fail(error, ZERO1_ERR_ABORTED, "the communicator of NCCL was aborted");
  return NULL;
}

/* Of what was called before: ncclInProgress for as long as it is not enqueued. */
static zero1_status poll(zero1__nccl_link *link, ncclResult_t *state, zero1__error *error) {
  ncclComm_t nccl = zero1__nccl_enter(link, error);
  if (!nccl) return error->status;
  *state = ncclSuccess;
  const ncclResult_t result = zero1__nccl.ncclCommGetAsyncError(nccl, state);
  pthread_mutex_unlock(&link->mutex);
  if (result) return zero1__nccl_fail(error, result, "ncclCommGetAsyncError");
  if (*state && *state != ncclInProgress) return zero1__nccl_fail(error, *state, "NCCL");
  return ZERO1_OK;
}

static zero1_status too_late(const zero1__nccl_link *link, double seconds, const char *what,
                             zero1__error *error) {
  return zero1__fail(error, ZERO1_ERR_TIMEOUT,
                     "%s: some of %d ranks did not come within %g s (this is rank %d)", what,
                     link->world_size, seconds, link->rank);
}

static zero1_status wait_enqueued(zero1__nccl_link *link, double timeout_seconds, const char *what,
                                  zero1__error *error) {
  const int64_t begin_ns = zero1__now_ns(), timeout_ns = zero1__seconds_ns(timeout_seconds);
  for (;;) {
    ncclResult_t state;
    const zero1_status status = poll(link, &state, error);
    if (status || state != ncclInProgress) return status;
    if (zero1__now_ns() - begin_ns > timeout_ns)
      return too_late(link, timeout_seconds, what, error);
    pause_since(begin_ns);
  }
}

zero1_status zero1__nccl_leave(zero1__nccl_link *link, ncclResult_t result, const char *what,
                               zero1__error *error) {
  pthread_mutex_unlock(&link->mutex);
  if (result && result != ncclInProgress) return zero1__nccl_fail(error, result, what);
  /* ncclSuccess may say that it has begun (ncclCommSplit of NCCL 2.28 does): the state tells. */
  return wait_enqueued(link, link->timeout_seconds, what, error);
}

zero1_status zero1__nccl_link_look(zero1__nccl_link *link, zero1__error *error) {
  ncclResult_t state;
  const zero1_status status = poll(link, &state, error);
  if (status || !link->node) return status;
  return zero1__node_look(link->node, error);
}

zero1_status zero1__nccl_link_left(const zero1__nccl_link *link, zero1__error *error) {
  const zero1__node *node = link->node;
  for (int32_t i = 0; node && i < node->shape.size; ++i)
    if (zero1__node_has_left(node, i))
      return zero1__fail(error, ZERO1_ERR_PEER,
                         "rank %d closed its end while this rank waited for a collective of NCCL",
                         node->shape.rank_begin + i);
  return ZERO1_OK;
}

zero1_status zero1__nccl_link_finish(zero1__nccl_link *link, cudaStream_t stream, const char *what,
                                     zero1__error *error) {
  const int64_t begin_ns = zero1__now_ns();
  const int64_t timeout_ns = zero1__seconds_ns(link->timeout_seconds);
  int64_t looked_ns = begin_ns;
  for (;;) {
    const cudaError_t code = cudaStreamQuery(stream);
    const int64_t now_ns = zero1__now_ns();
    if (!code) return ZERO1_OK;
    if (code != cudaErrorNotReady) return zero1__nccl_cuda_fail(error, code, what);
    if (now_ns - begin_ns > timeout_ns) return too_late(link, link->timeout_seconds, what, error);
    if (now_ns - looked_ns > ZERO1__LOOK_NS) {
      zero1_status status = zero1__nccl_link_look(link, error);
      if (!status) status = zero1__nccl_link_left(link, error);
      if (status) return status;
      looked_ns = now_ns;
    }
    pause_since(begin_ns);
  }
}

/* ---- life ---- */

void zero1__nccl_link_borrow(zero1__nccl_link *link, ncclComm_t nccl, double timeout_seconds) {
  memset(link, 0, sizeof *link);
  pthread_mutex_init(&link->mutex, NULL);
  link->nccl = nccl;
  link->timeout_seconds = timeout_seconds;
}

static ncclConfig_t never_blocking(void) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

zero1_status zero1__nccl_link_init(zero1__nccl_link *link, const ncclUniqueId *id, int32_t rank,
                                   int32_t world_size, double timeout_seconds,
                                   zero1__error *error) {
  ncclConfig_t config = never_blocking();
  zero1__nccl_link_borrow(link, NULL, timeout_seconds);
  link->rank = rank;
  link->world_size = world_size;
  const ncclResult_t result =
      zero1__nccl.ncclCommInitRankConfig(&link->nccl, world_size, *id, rank, &config);
  if (result && result != ncclInProgress)
    return zero1__nccl_fail(error, result, "ncclCommInitRankConfig");
  return wait_enqueued(link, timeout_seconds, "ncclCommInitRankConfig", error);
}

zero1_status zero1__nccl_link_split(zero1__nccl_link *link, zero1__nccl_link *from,
                                    int32_t max_ctas, double timeout_seconds, zero1__error *error) {
  ncclConfig_t config = never_blocking();
  if (max_ctas) config.minCTAs = config.maxCTAs = max_ctas;
  zero1__nccl_link_borrow(link, NULL, timeout_seconds);
  link->rank = from->rank;
  link->world_size = from->world_size;
  /* NCCL may fill it in later than this rank has lost patience: then it is never freed. */
  ncclComm_t *child = calloc(1, sizeof *child);
  if (!child) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a communicator");
  ncclComm_t parent = zero1__nccl_enter(from, error);
  if (!parent) {
    free(child);
    return error->status;
  }
  const ncclResult_t result = zero1__nccl.ncclCommSplit(parent, 0, from->rank, child, &config);
  const zero1_status status = zero1__nccl_leave(from, result, "ncclCommSplit", error);
  if (status == ZERO1_ERR_TIMEOUT) return status;
  link->nccl = *child;
  free(child);
  if (status) return status;
  if (!link->nccl) return zero1__fail(error, ZERO1_ERR_COMM, "ncclCommSplit gave no communicator");
  return wait_enqueued(link, timeout_seconds, "ncclCommSplit", error);
}

/* The communicator, which from now on is nobody's but the caller's of this function. */
static ncclComm_t take(zero1__nccl_link *link) {
  pthread_mutex_lock(&link->mutex);
  ncclComm_t nccl = link->nccl;
  link->nccl = NULL;
  pthread_mutex_unlock(&link->mutex);
  return nccl;
}

void zero1__nccl_link_abort(zero1__nccl_link *link, const zero1__error *why) {
  if (link->node) zero1__node_abort(link->node, why);
  ncclComm_t nccl = take(link);
  if (nccl) zero1__nccl.ncclCommAbort(nccl);
}

/* Whether NCCL is done with it, on this rank and on its peers. */
static int finalize(zero1__nccl_link *link) {
  const double patience =
      link->timeout_seconds < CLOSE_SECONDS ? link->timeout_seconds : CLOSE_SECONDS;
  ncclResult_t state;
  zero1__error error;
  zero1__error_clear(&error);
  if (poll(link, &state, &error) || state) return 0;
  ncclComm_t nccl = zero1__nccl_enter(link, &error);
  if (!nccl) return 0;
  const ncclResult_t result = zero1__nccl.ncclCommFinalize(nccl);
  pthread_mutex_unlock(&link->mutex);
  if (result && result != ncclInProgress) return 0;
  return !wait_enqueued(link, patience, "ncclCommFinalize", &error);
}

void zero1__nccl_link_close(zero1__nccl_link *link) {
  if (!link->world_size) return; /* was never made */
  const int quiet = finalize(link);
  ncclComm_t nccl = take(link);
  if (nccl && quiet) {
    zero1__nccl.ncclCommDestroy(nccl);
  } else if (nccl) {
    zero1__nccl.ncclCommAbort(nccl);
  }
  zero1__node_close(link->node);
  pthread_mutex_destroy(&link->mutex);
  memset(link, 0, sizeof *link);
}
