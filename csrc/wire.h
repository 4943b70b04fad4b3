/* Messages between any two ranks of a comm: what the path between nodes is built on. Two carriers:
 * MPI (wire_mpi.c), and memory, for ranks that are threads (wire_threads.c). Messages of one
 * sender, receiver and tag arrive in the order in which they were sent.
 *
 * Tags belong to ports: each lane and channel opens its own, in the same order on every rank. */
#ifndef ZERO1__WIRE_H
#define ZERO1__WIRE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "node.h"

typedef struct zero1__wire zero1__wire;

/** One side of a message between threads, waiting for the other. */
typedef struct zero1__message {
  struct zero1__message *next;
  int32_t from, to, tag, is_send, done;
  void *data;
  size_t bytes;
} zero1__message;

/** A send or receive under way; all zero: none. Stays where it is until it is done or cancelled. */
typedef struct zero1__request {
  union { /* the carrier's */
    uint64_t word[2];
    zero1__message message;
  };
  int32_t peer;
  int32_t active;
} zero1__request;

typedef struct zero1__wire_ops {
  zero1_status (*send)(zero1__wire *wire, const void *data, size_t bytes, int32_t peer, int32_t tag,
                       zero1__request *request, zero1__error *error);
  zero1_status (*recv)(zero1__wire *wire, void *data, size_t bytes, int32_t peer, int32_t tag,
                       zero1__request *request, zero1__error *error);
  /** Clears request->active where it is done. */
  zero1_status (*test)(zero1__wire *wire, zero1__request *request, zero1__error *error);
  /** Gives a request up; 1: its memory is free, 0: the carrier may still touch it. */
  int (*cancel)(zero1__wire *wire, zero1__request *request);
  /** Sends every peer `why` under `tag`, best effort; returns at once. */
  void (*abort)(zero1__wire *wire, int32_t tag, const zero1__error *why);
  /** A rank that has sent it, or -1. */
  int32_t (*aborted)(zero1__wire *wire, int32_t tag, zero1__error *why);
  /** Tells every peer whom this rank waits for, -1: for nobody any more; best effort, returns at
   *  once. NULL: peers are told nothing, and who waits too long may name who waits itself. */
  void (*tell)(zero1__wire *wire, int32_t awaited);
  /** Takes what a peer has told: 1, or 0 where there is nothing. */
  int (*told)(zero1__wire *wire, int32_t *who, int32_t *awaited);
  void (*destroy)(zero1__wire *wire);
} zero1__wire_ops;

/** Every carrier's handle begins with these. */
struct zero1__wire {
  const zero1__wire_ops *ops;
  int32_t rank, world_size;
  int32_t next_port, port_count; /* ports are used again after port_count of them */
  int32_t device_memory;         /* 1: messages may lie in memory of devices, too */
  _Atomic(int32_t) *awaited;     /* [world_size] whom each rank, this one too, says that it waits
                                    for, or -1; owned by the carrier; NULL where it tells nothing */
};

/** What a message is for: the tag within its port. */
enum {
  ZERO1__TAG_LANE,
  ZERO1__TAG_EXCHANGE,
  ZERO1__TAG_GATHER,
  ZERO1__TAG_BROADCAST,
  ZERO1__TAG_ABORT,
  ZERO1__TAGS = 8
};

/** A port of a wire, with what a wait on it must know. */
typedef struct zero1__port {
  zero1__wire *wire;
  int32_t number;
  double timeout_seconds;
  const zero1__watch *watch; /* of world_size: the ranks on this machine; or NULL */
  atomic_int *stop;          /* the owner's: 1: this rank gives its own waits up; or NULL */
} zero1__port;

/** The next port. Every rank opens its ports in the same order. */
zero1__port zero1__port_open(zero1__wire *wire, double timeout_seconds, const zero1__watch *watch);

zero1_status zero1__port_send(const zero1__port *port, const void *data, size_t bytes, int32_t peer,
                              int32_t tag, zero1__request *request, zero1__error *error);
zero1_status zero1__port_recv(const zero1__port *port, void *data, size_t bytes, int32_t peer,
                              int32_t tag, zero1__request *request, zero1__error *error);

/** Waits for [count] requests, inactive ones among them. Sleeps between looks.
 *  ZERO1_ERR_PEER, _ABORTED, _TIMEOUT (without any progress), _COMM: naming the rank. What is still
 *  under way then must be cancelled. */
zero1_status zero1__port_wait(const zero1__port *port, zero1__request *requests, int64_t count,
                              const char *what, zero1__error *error);

/** Gives up [count] requests; 0: some memory must never be freed. */
int zero1__port_cancel(const zero1__port *port, zero1__request *requests, int64_t count);

void zero1__port_abort(const zero1__port *port, const zero1__error *why);

/** All-gather of small buffers in log2(world_size) rounds: Bruck et al., IEEE TPDS 8(11), 1997.
 *  [out] gathered [world_size * bytes]; scratch [world_size * bytes]
 *  [out] abandoned  set to 1 where the carrier may still touch `scratch` after a failure. */
zero1_status zero1__port_all_gather(const zero1__port *port, const void *in, void *gathered,
                                    void *scratch, size_t bytes, int32_t *abandoned,
                                    zero1__error *error);

#endif
