/* A wire over MPI's point-to-point messages, each in parts.
 *
 * A long message is a conversation: its sender asks, its receiver answers, and over TCP each of
 * these words waits behind all data that is on its way already. Parts below the length from which
 * MPI asks (64 KiB in Open MPI, over TCP) just go; receives are posted before. Measured at 1
 * Gbit/s, 2 hosts, messages of 2 MiB: 0.70 to 0.84 of what the wire carries whole, 0.91 to 0.95 in
 * parts. */
#include "wire_mpi.h"

#if defined(OPEN_MPI)
  #include <mpi-ext.h>
#endif

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REASON_BYTES 200
/* With MPI's own header below 64 KiB. Both ends cut alike. */
#define PART_BYTES ((size_t)60 << 10)

/* What an aborting rank sends. */
typedef struct notice {
  int32_t status;
  char text[REASON_BYTES];
} notice;

typedef struct mpi_wire {
  zero1__wire base;
  MPI_Comm mpi;
  atomic_int given_up; /* a request never completed: MPI may still touch its memory */
  int32_t wait_tag;    /* of what ranks tell about whom they wait for: no port's */
} mpi_wire;

/** A message under way: what word[0] of its request points to. */
typedef struct parts {
  size_t count, first; /* [first, count) are not known to be done */
  MPI_Request mpi[];
} parts;

static mpi_wire *self_of(zero1__wire *wire) {
  return (mpi_wire *)wire;
}

zero1_status zero1__mpi_fail(zero1__error *error, int code, const char *call) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return zero1__fail(error, ZERO1_ERR_COMM, "%s: %.200s", call, text);
}

/* ---- a peer that is gone ----
 *
 * Open MPI writes to its sockets without MSG_NOSIGNAL: where the other end is gone, that would end
 * this process by SIGPIPE, and it is to live and tell. So the signal is held back from the thread
 * that calls MPI, and taken away where the call raised it. */

typedef struct hold {
  sigset_t before;
  int mine; /* 1: it was neither blocked nor pending */
} hold;

static void pipe_signal(sigset_t *set) {
  sigemptyset(set);
  sigaddset(set, SIGPIPE);
}

static hold hold_back(void) {
  hold held;
  sigset_t set;
  pipe_signal(&set);
  pthread_sigmask(SIG_BLOCK, &set, &held.before);
  held.mine = !sigismember(&held.before, SIGPIPE);
  if (held.mine) held.mine = !sigpending(&set) && !sigismember(&set, SIGPIPE);
  return held;
}

static void let_go(const hold *held) {
  const struct timespec now = {0, 0};
  sigset_t set;
  if (held->mine && !sigpending(&set) && sigismember(&set, SIGPIPE)) {
    pipe_signal(&set);
    sigtimedwait(&set, NULL, &now);
  }
  pthread_sigmask(SIG_SETMASK, &held->before, NULL);
}

/* ---- messages ---- */

static parts *parts_of(const zero1__request *request) {
  return (parts *)(uintptr_t)request->word[0];
}

static void end(zero1__request *request) {
  free(parts_of(request));
  request->active = 0;
}

/* After a failure the request is active where some parts have been posted, so that it is given up.
 */
static zero1_status post_parts(mpi_wire *self, char *data, size_t bytes, int is_send, int32_t peer,
                               int32_t tag, zero1__request *request, zero1__error *error) {
  const size_t count = bytes ? (bytes + PART_BYTES - 1) / PART_BYTES : 1;
  parts *all = malloc(sizeof *all + count * sizeof *all->mpi);
  if (!all) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a message");
  *all = (parts){0};
  request->word[0] = (uintptr_t)all;
  request->peer = peer;
  request->active = 1;
  for (size_t i = 0; i < count; ++i) {
    char *part = data + i * PART_BYTES;
    const int part_bytes = (int)(i + 1 < count ? PART_BYTES : bytes - i * PART_BYTES);
    const int code =
        is_send ? MPI_Isend(part, part_bytes, MPI_BYTE, peer, tag, self->mpi, &all->mpi[i])
                : MPI_Irecv(part, part_bytes, MPI_BYTE, peer, tag, self->mpi, &all->mpi[i]);
    if (code) {
      if (!i) end(request);
      return zero1__mpi_fail(error, code, is_send ? "MPI_Isend" : "MPI_Irecv");
    }
    all->count += 1;
  }
  return ZERO1_OK;
}

static zero1_status post(zero1__wire *wire, char *data, size_t bytes, int is_send, int32_t peer,
                         int32_t tag, zero1__request *request, zero1__error *error) {
  const hold held = hold_back();
  const zero1_status status =
      post_parts(self_of(wire), data, bytes, is_send, peer, tag, request, error);
  let_go(&held);
  return status;
}

static zero1_status mpi_send(zero1__wire *wire, const void *data, size_t bytes, int32_t peer,
                             int32_t tag, zero1__request *request, zero1__error *error) {
  return post(wire, (char *)(uintptr_t)data, bytes, 1, peer, tag, request, error);
}

static zero1_status mpi_recv(zero1__wire *wire, void *data, size_t bytes, int32_t peer, int32_t tag,
                             zero1__request *request, zero1__error *error) {
  return post(wire, data, bytes, 0, peer, tag, request, error);
}

/* Parts are done in their order, or nearly so: one look is a look at the first that is not. */
static zero1_status test_parts(zero1__request *request, zero1__error *error) {
  parts *all = parts_of(request);
  while (all->first < all->count) {
    int done = 0;
    const int code = MPI_Test(&all->mpi[all->first], &done, MPI_STATUS_IGNORE);
    if (!code && !done) return ZERO1_OK;
    all->first += 1;
    if (!code) continue;
    if (all->first == all->count) end(request); /* else the rest is given up with it */
    zero1__fail(error, ZERO1_ERR_COMM, "a message from or to rank %d failed", request->peer);
    return ZERO1_ERR_COMM;
  }
  end(request);
  return ZERO1_OK;
}

static zero1_status mpi_test(zero1__wire *wire, zero1__request *request, zero1__error *error) {
  const hold held = hold_back();
  const zero1_status status = test_parts(request, error);
  (void)wire;
  let_go(&held);
  return status;
}

static int mpi_cancel(zero1__wire *wire, zero1__request *request) {
  /* MPI cannot cancel a send, nor a receive that a dead peer has begun to fill. */
  self_of(wire)->given_up = 1;
  free(parts_of(request)); /* what MPI still touches is elsewhere */
  return 0;
}

/* Sends a copy to every peer. One that has not left at once is MPI's for good: a peer may be dead.
 */
static void send_to_all(zero1__wire *wire, int32_t tag, const void *data, size_t bytes) {
  mpi_wire *self = self_of(wire);
  void *mine = malloc(bytes);
  int all_sent = 1;
  if (!mine) return; /* the peers then have the timeout */
  memcpy(mine, data, bytes);
  const hold held = hold_back();
  for (int32_t peer = 0; peer < wire->world_size; ++peer) {
    MPI_Request mpi;
    int sent = 0;
    if (peer == wire->rank || MPI_Isend(mine, (int)bytes, MPI_BYTE, peer, tag, self->mpi, &mpi))
      continue;
    MPI_Test(&mpi, &sent, MPI_STATUS_IGNORE);
    if (!sent) MPI_Request_free(&mpi);
    all_sent &= sent;
  }
  let_go(&held);
  if (all_sent) free(mine);
}

static void mpi_abort(zero1__wire *wire, int32_t tag, const zero1__error *why) {
  notice mine = {.status = why->status};
  snprintf(mine.text, sizeof mine.text, "%.*s", REASON_BYTES - 1, why->text);
  send_to_all(wire, tag, &mine, sizeof mine);
}

static void mpi_tell(zero1__wire *wire, int32_t awaited) {
  send_to_all(wire, self_of(wire)->wait_tag, &awaited, sizeof awaited);
}

/* Takes one of `bytes`, as one of several threads that may look: the rank that sent it, or -1. */
static int32_t take(zero1__wire *wire, int32_t tag, void *theirs, size_t bytes) {
  const hold held = hold_back();
  MPI_Message message;
  MPI_Status status;
  int found = 0,
      bad = MPI_Improbe(MPI_ANY_SOURCE, tag, self_of(wire)->mpi, &found, &message, &status);
  if (!bad && found) bad = MPI_Mrecv(theirs, (int)bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE);
  let_go(&held);
  return bad || !found ? -1 : status.MPI_SOURCE;
}

static int mpi_told(zero1__wire *wire, int32_t *who, int32_t *awaited) {
  *who = take(wire, self_of(wire)->wait_tag, awaited, sizeof *awaited);
  return *who >= 0;
}

static int32_t mpi_aborted(zero1__wire *wire, int32_t tag, zero1__error *why) {
  notice theirs = {0};
  const int32_t rank = take(wire, tag, &theirs, sizeof theirs);
  if (rank < 0) return -1;
  theirs.text[REASON_BYTES - 1] = 0;
  why->status = theirs.status;
  snprintf(why->text, sizeof why->text, "%s", theirs.text);
  return rank;
}

static void mpi_destroy(zero1__wire *wire) {
  mpi_wire *self = self_of(wire);
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (!self->given_up && !finalized) MPI_Comm_free(&self->mpi);
  free(wire->awaited);
  free(self);
}

static const zero1__wire_ops mpi_ops = {
    .send = mpi_send,
    .recv = mpi_recv,
    .test = mpi_test,
    .cancel = mpi_cancel,
    .abort = mpi_abort,
    .aborted = mpi_aborted,
    .tell = mpi_tell,
    .told = mpi_told,
    .destroy = mpi_destroy,
};

/* As Open MPI says of itself: built for it (its release 4), and able to here (5). The tests run
 * this path over a wire of memory; with an Open MPI that says yes, and a GPU, it has not been run.
 */
static int32_t is_cuda_aware(void) {
#if defined(MPIX_CUDA_AWARE_SUPPORT)
  return MPIX_Query_cuda_support() == 1;
#else
  return 0;
#endif
}

zero1_status zero1__wire_mpi_create(MPI_Comm mpi, zero1__wire **out, zero1__error *error) {
  int rank = 0, world_size = 0, found = 0, *tag_limit = NULL;
  mpi_wire *wire = calloc(1, sizeof *wire);
  *out = NULL;
  MPI_Comm_rank(mpi, &rank);
  MPI_Comm_size(mpi, &world_size);
  _Atomic(int32_t) *awaited = calloc((size_t)world_size, sizeof *awaited);
  if (!wire || !awaited) {
    free(awaited);
    free(wire);
    MPI_Comm_free(&mpi);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a communicator");
  }
  for (int i = 0; i < world_size; ++i) atomic_store(&awaited[i], -1);
  MPI_Comm_get_attr(mpi, MPI_TAG_UB, &tag_limit, &found);
  const int32_t limit = found ? *tag_limit : 32767; /* what MPI promises at the least */
  wire->base = (zero1__wire){.ops = &mpi_ops,
                             .rank = rank,
                             .world_size = world_size,
                             .port_count = limit / ZERO1__TAGS - 1,
                             .device_memory = is_cuda_aware(),
                             .awaited = awaited};
  wire->wait_tag = wire->base.port_count * ZERO1__TAGS;
  wire->mpi = mpi;
  *out = &wire->base;
  return ZERO1_OK;
}
