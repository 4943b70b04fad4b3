/* Watches over the collectives of a link that kernels wait for: a thread looks every 20 ms at what
 * NCCL has found out, at the peers, and at whether anything has come to an end lately.
 *
 * A collective is one of `count` places. Before and after it the stream posts the step's epoch to
 * two words of the host: they differ while it is under way. So that nothing of it names a step by a
 * value from the host, and a captured graph is watched like any other. */
#ifndef ZERO1__NCCL_GUARD_H
#define ZERO1__NCCL_GUARD_H

#include "device_ops.h"
#include "lookout.h"
#include "nccl_link.h"

typedef struct zero1__nccl_guard {
  zero1__nccl_link *link; /* the rest of this part is set by the owner, before the start */
  zero1__device *device;
  zero1__step *step;
  int64_t count;
  double timeout_seconds;
  void (*fail)(void *context, const zero1__error *error); /* called once at most */
  void *context;

  uint32_t *words; /* [2 * count] of the host: epochs before, then after */
  void *table;     /* of one address, that of words, in memory of the device */
  zero1__lookout *lookout;
  uint64_t seen;    /* of the lookout: what the words were, */
  int64_t since_ns; /* and since when they are so */
} zero1__nccl_guard;

zero1_status zero1__nccl_guard_start(zero1__nccl_guard *guard, zero1__error *error);

/** Also of one that was not started, or only in part; the streams are idle. */
void zero1__nccl_guard_stop(zero1__nccl_guard *guard);

/** Around collective `place`, in its stream. Each place once in a step. */
void zero1__nccl_guard_enter(zero1__nccl_guard *guard, zero1__stream *stream, int64_t place);
void zero1__nccl_guard_leave(zero1__nccl_guard *guard, zero1__stream *stream, int64_t place);

/** From any thread, and before what kernels wait for is aborted: from now on nothing is summed, and
 *  every verdict is to skip. */
void zero1__nccl_lose(zero1__device *device, zero1__step *step);

static inline uint64_t zero1__nccl_guard_bytes(const zero1__nccl_guard *guard) {
  return 2 * (uint64_t)guard->count * sizeof *guard->words;
}

#endif
