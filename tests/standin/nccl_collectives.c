/* The stand-in NCCL (no NCCL) in streams: a collective holds its stream back until all its ranks
 * have come, then each takes from the others' memory what it needs, and goes on when the others
 * have taken theirs.
 *
 * Sums are made in the data type, around the ring from the shard's next rank: in another order than
 * that of the ranks, as NCCL's own are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "nccl_group.h"
#include "standin.h"

typedef struct task {
  ncclComm_t comm;
  int32_t count;
  standin_call calls[];
} task;

/* ---- one rank's view of another ---- */

/* Its own communicator was aborted meanwhile, or the device has failed. */
static bool given_up(ncclComm_t comm) {
  return atomic_load(&comm->gone) || standin_device_failed();
}

/* Reads a peer's memory; a process's as the kernel lets it. */
static bool read_peer(ncclComm_t comm, int32_t peer, void *to, const char *from, size_t bytes) {
  const pid_t pid = (pid_t)atomic_load(&comm->group->seats[peer].pid);
  if (pid == getpid()) {
    memcpy(to, from, bytes);
    return true;
  }
  const struct iovec local = {to, bytes};
  const struct iovec remote = {(void *)(uintptr_t)from, bytes};
  if (!bytes || process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)bytes) return true;
  atomic_store(&comm->group->error, ncclSystemError);
  return false;
}

static bool wait_for(ncclComm_t comm, _Atomic uint64_t *word, uint64_t value) {
  while (atomic_load_explicit(word, memory_order_acquire) < value) {
    if (given_up(comm)) return false;
    standin_nccl_pause();
  }
  return true;
}

/* ---- sums ---- */

static float read_number(const char *data, size_t i, ncclDataType_t dtype) {
  float value = 0;
  if (dtype == ncclFloat32) {
    memcpy(&value, data + i * sizeof value, sizeof value);
  } else {
    uint16_t half;
    memcpy(&half, data + i * sizeof half, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
  }
  return value;
}

/* To the nearest bf16, ties to even; NaN stays one. */
static void write_number(char *data, size_t i, ncclDataType_t dtype, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == ncclFloat32) {
    memcpy(data + i * sizeof value, &value, sizeof value);
    return;
  }
  if (value == value) bits += 0x7fff + (bits >> 16 & 1);
  const uint16_t half = (uint16_t)(bits >> 16 | (value != value ? 0x40 : 0));
  memcpy(data + i * sizeof half, &half, sizeof half);
}

static void add(char *sum, const char *part, size_t count, ncclDataType_t dtype) {
  for (size_t i = 0; i < count; ++i)
    write_number(sum, i, dtype, read_number(sum, i, dtype) + read_number(part, i, dtype));
}

/* Sum over all ranks of `count` elements at `begin` of what they send. */
static bool sum_from_all(ncclComm_t comm, const standin_call *call, int32_t shard, char *sum) {
  const size_t bytes = call->count * standin_nccl_bytes(call->dtype);
  const size_t begin = call->kind == STANDIN_ALL_REDUCE ? 0 : (size_t)shard * bytes;
  char *part = malloc(bytes + 1);
  bool good = part != NULL;
  for (int32_t i = 1; i <= comm->world && good; ++i) {
    const int32_t peer = (shard + i) % comm->world;
    const char *from = comm->group->seats[peer].call.send + begin;
    good = read_peer(comm, peer, i == 1 ? sum : part, from, bytes);
    if (i > 1 && good) add(sum, part, call->count, call->dtype);
  }
  free(part);
  return good;
}

/* ---- collectives ---- */

static void complain(ncclComm_t comm, const char *what) {
  fprintf(stderr, "the stand-in NCCL: %s rank %d: %s\n", comm->name, comm->rank, what);
  atomic_store(&comm->group->error, ncclInvalidUsage);
}

static bool same_call(ncclComm_t comm, const standin_call *call) {
  for (int32_t peer = 0; peer < comm->world; ++peer) {
    const standin_call *other = &comm->group->seats[peer].call;
    if (other->kind == call->kind && other->count == call->count && other->dtype == call->dtype &&
        other->peer == call->peer)
      continue;
    complain(comm, "the ranks have made different calls");
    return false;
  }
  return true;
}

static void take_part(ncclComm_t comm, const standin_call *call) {
  const size_t bytes = call->count * standin_nccl_bytes(call->dtype);
  const standin_seat *seats = comm->group->seats;
  if (call->kind == STANDIN_ALL_GATHER) {
    for (int32_t peer = 0; peer < comm->world; ++peer) {
      char *to = call->recv + (size_t)peer * bytes;
      if (peer == comm->rank && to == call->send) continue;
      if (!read_peer(comm, peer, to, seats[peer].call.send, bytes)) return;
    }
  } else if (call->kind == STANDIN_BROADCAST) {
    if (call->recv != call->send || comm->rank != call->peer)
      read_peer(comm, call->peer, call->recv, seats[call->peer].call.send, bytes);
  } else {
    const int32_t shard = call->kind == STANDIN_ALL_REDUCE ? 0 : comm->rank;
    char *sum = malloc(bytes + 1);
    if (sum && sum_from_all(comm, call, shard, sum)) {
      /* In place, the peers may still be reading what an all-reduce overwrites. */
      standin_seat *own = &comm->group->seats[comm->rank];
      const uint64_t sequence = atomic_load_explicit(&own->arrived, memory_order_relaxed);
      bool good = true;
      if (call->kind == STANDIN_ALL_REDUCE) {
        atomic_store_explicit(&own->done, sequence, memory_order_release);
        for (int32_t peer = 0; peer < comm->world && good; ++peer)
          good = wait_for(comm, &comm->group->seats[peer].done, sequence);
      }
      if (good) memcpy(call->recv, sum, bytes);
    }
    free(sum);
  }
}

static void run_collective(ncclComm_t comm, const standin_call *call) {
  standin_seat *own = &comm->group->seats[comm->rank];
  const uint64_t sequence = atomic_fetch_add_explicit(&comm->sequence, 1, memory_order_relaxed) + 1;
  own->call = *call;
  atomic_store_explicit(&own->arrived, sequence, memory_order_release);
  for (int32_t peer = 0; peer < comm->world; ++peer)
    if (!wait_for(comm, &comm->group->seats[peer].arrived, sequence)) return;
  if (same_call(comm, call)) take_part(comm, call);
  atomic_store_explicit(&own->done, sequence, memory_order_release);
  for (int32_t peer = 0; peer < comm->world; ++peer)
    if (!wait_for(comm, &comm->group->seats[peer].done, sequence)) return;
}

/* ---- sends and receives: one of each kind per peer in a group ---- */

static bool take_message(ncclComm_t comm, const standin_call *call) {
  standin_seat *from = &comm->group->seats[call->peer];
  const uint64_t number =
      atomic_fetch_add_explicit(&comm->received[call->peer], 1, memory_order_relaxed) + 1;
  if (!wait_for(comm, &from->sends[comm->rank].posted, number)) return false;
  const standin_call *send = &from->sends[comm->rank].call;
  if (send->count != call->count || send->dtype != call->dtype)
    complain(comm, "a send and its receive differ");
  else
    read_peer(comm, call->peer, call->recv, send->send,
              call->count * standin_nccl_bytes(call->dtype));
  atomic_store_explicit(&from->sends[comm->rank].taken, number, memory_order_release);
  return true;
}

static void run_messages(ncclComm_t comm, const standin_call *calls, int32_t count) {
  standin_seat *own = &comm->group->seats[comm->rank];
  for (int32_t i = 0; i < count; ++i) {
    if (calls[i].kind != STANDIN_SEND) continue;
    const int32_t to = calls[i].peer;
    own->sends[to].call = calls[i];
    const uint64_t number = atomic_fetch_add_explicit(&comm->sent[to], 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&own->sends[to].posted, number, memory_order_release);
  }
  for (int32_t i = 0; i < count; ++i)
    if (calls[i].kind == STANDIN_RECV && !take_message(comm, &calls[i])) return;
  for (int32_t i = 0; i < count; ++i) {
    if (calls[i].kind != STANDIN_SEND) continue;
    const int32_t to = calls[i].peer;
    const uint64_t number = atomic_load_explicit(&comm->sent[to], memory_order_relaxed);
    if (!wait_for(comm, &own->sends[to].taken, number)) return;
  }
}

/* ---- as tasks of streams ---- */

/* What fails stays in its stream until it is aborted, as a kernel of NCCL would. */
static bool fails(ncclComm_t comm, const standin_call *call) {
  if (!comm->fail_at || call->kind != comm->fail_kind || call->dtype == ncclUint8) return false;
  const uint64_t number = atomic_fetch_add_explicit(&comm->exchanges, 1, memory_order_relaxed) + 1;
  if (number != comm->fail_at) return false;
  atomic_store(&comm->group->error, ncclRemoteError);
  while (!given_up(comm)) standin_nccl_pause();
  return true;
}

static void run(void *args) {
  const task *self = args;
  ncclComm_t comm = self->comm;
  if (atomic_fetch_add(&comm->running, 1) > 0 && !given_up(comm))
    complain(comm, "two operations at once: their order is up to chance");
  if (self->calls[0].kind == STANDIN_SEND || self->calls[0].kind == STANDIN_RECV) {
    if (!given_up(comm) && !fails(comm, &self->calls[0]))
      run_messages(comm, self->calls, self->count);
  } else {
    for (int32_t i = 0; i < self->count; ++i)
      if (!given_up(comm) && !fails(comm, &self->calls[i])) run_collective(comm, &self->calls[i]);
  }
  atomic_fetch_sub(&comm->running, 1);
}

static void count_held(standin_fn fn, const void *args, int32_t change) {
  const task *self = args;
  if (fn == run) atomic_fetch_add(&self->comm->held, change);
}

void standin_nccl_count_held(void) {
  standin_tell_held(count_held);
}

ncclResult_t standin_nccl_launch(ncclComm_t comm, const standin_call *calls, int32_t count,
                                 cudaStream_t stream) {
  const size_t bytes = sizeof(task) + (size_t)count * sizeof *calls;
  task *launch = malloc(bytes);
  int before = comm->device;
  if (!launch) return ncclSystemError;
  launch->comm = comm;
  launch->count = count;
  memcpy(launch->calls, calls, (size_t)count * sizeof *calls);
  cudaGetDevice(&before);
  cudaSetDevice(comm->device);
  const cudaError_t error = standin_launch(stream, run, launch, bytes);
  cudaSetDevice(before);
  free(launch);
  return error ? ncclUnhandledCudaError : ncclSuccess;
}
