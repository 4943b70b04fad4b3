/* What the files of the stand-in NCCL know of each other. IT IS NO NCCL: see nccl.c. */
#ifndef ZERO1_TESTS_STANDIN_NCCL_GROUP_H
#define ZERO1_TESTS_STANDIN_NCCL_GROUP_H

#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "standin_nccl.h"

enum {
  STANDIN_NCCL_RANKS = 8,
  STANDIN_NCCL_NAME = 96,
  STANDIN_NCCL_PENDING = 32,
  STANDIN_NCCL_REGISTERED = 16
};

typedef enum standin_kind {
  STANDIN_REDUCE_SCATTER,
  STANDIN_ALL_GATHER,
  STANDIN_ALL_REDUCE,
  STANDIN_BROADCAST,
  STANDIN_SEND,
  STANDIN_RECV
} standin_kind;

/* A call. Of a group of sends and receives, each. */
typedef struct standin_call {
  standin_kind kind;
  const char *send;
  char *recv;
  size_t count;
  ncclDataType_t dtype;
  int32_t peer; /* root, or the other end */
} standin_call;

/* What a rank shows the others. */
typedef struct standin_seat {
  _Atomic int64_t pid;
  _Atomic int32_t device;
  _Atomic uint64_t arrived, done; /* collectives that it has come to, and read its peers' part of */
  standin_call call;              /* of `arrived` */
  _Atomic uint64_t split_arrived;
  _Atomic int32_t split_color[2], split_key[2]; /* by the parity of the split */
  struct {
    _Atomic uint64_t posted, taken; /* sends from this rank to that one */
    standin_call call;              /* of `posted` */
  } sends[STANDIN_NCCL_RANKS];
} standin_seat;

/* What the ranks of a communicator share: in shared memory, mapped once per process. */
typedef struct standin_group {
  _Atomic int32_t joined;
  _Atomic int32_t error; /* an ncclResult_t for all of them */
  standin_seat seats[STANDIN_NCCL_RANKS];
} standin_group;

/* A rank's communicator. Never freed: a handle that is gone is recognised, and what is still queued
 * finds out that it is too late. */
struct ncclComm {
  uint32_t magic;
  struct ncclComm *next; /* of all; never changes */
  pthread_mutex_t mutex; /* of the calls */
  char name[STANDIN_NCCL_NAME];
  standin_group *group;
  int32_t rank, world, device;
  bool blocking;
  _Atomic bool gone;       /* aborted, or destroyed */
  _Atomic int32_t running; /* tasks in streams */
  _Atomic int32_t error;   /* of this rank alone */
  _Atomic int32_t held;    /* operations that live graphs hold */

  /* under mutex: what a communicator that does not block still has to do */
  bool joining;
  int32_t polls; /* after so many, it does it */
  struct {
    standin_call calls[STANDIN_NCCL_PENDING];
    cudaStream_t stream;
  } pending;
  int32_t pending_count;
  char registered[STANDIN_NCCL_REGISTERED]; /* 1: the handle is its address */
  uint64_t splits;
  struct ncclComm **split_to; /* NULL: no split is under way */
  bool split_blocking;

  /* of the tasks, one after another */
  _Atomic uint64_t sequence, exchanges;
  _Atomic uint64_t sent[STANDIN_NCCL_RANKS], received[STANDIN_NCCL_RANKS];
  standin_kind fail_kind; /* the fail_at-th of these fails on every rank; 0: none */
  uint64_t fail_at;
};

/* From now on graphs that hold operations count for their communicators. */
void standin_nccl_count_held(void);

/* Enqueues the calls as one operation of the stream. */
ncclResult_t standin_nccl_launch(ncclComm_t comm, const standin_call *calls, int32_t count,
                                 cudaStream_t stream);

size_t standin_nccl_bytes(ncclDataType_t dtype);

/* What the ranks that come with this name share; NULL: no memory. */
standin_group *standin_nccl_group_open(const char *name);
void standin_nccl_group_close(const char *name);

/* Notes why, for ncclGetLastError; returns the result. */
ncclResult_t standin_nccl_fail(ncclResult_t result, const char *why);

/* Says so, and ends the program: with NCCL one that does this may crash, or hang. */
_Noreturn void standin_nccl_misused(const char *call, const char *why);

/* A handle that is none, or is gone, is a misuse. */
void standin_nccl_check(ncclComm_t comm, const char *call);

/* Takes the mutex where all is well; leave ends it, of a call that has left something to do. */
ncclResult_t standin_nccl_enter(ncclComm_t comm, const char *call);
ncclResult_t standin_nccl_leave(ncclComm_t comm);

/* Sleeps a little. */
void standin_nccl_pause(void);

#endif
