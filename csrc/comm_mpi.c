/* The ranks of an MPI communicator: finds out who shares a machine with whom, and takes the comm
 * that fits. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bootstrap.h"
#include "comm_node.h"
#include "wire_comm.h"
#include "wire_mpi.h"

static int32_t mpi_allgather(void *context, const void *in, void *out, size_t bytes) {
  if (bytes > INT_MAX) return -1;
  return MPI_Allgather(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, *(MPI_Comm *)context);
}

/* MPI_Comm_dup, for what may be no communicator: MPI tells of that through MPI_COMM_WORLD, which
 * would end the program. */
static int dup_checked(MPI_Comm given, MPI_Comm *mpi) {
  MPI_Errhandler handler;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &handler);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  const int code = MPI_Comm_dup(given, mpi);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
  MPI_Errhandler_free(&handler);
  return code;
}

/* A duplicate of the caller's communicator whose failures are returned. */
static zero1_status duplicate(int32_t mpi_comm_f, MPI_Comm *mpi, zero1__error *error) {
  int initialized = 0, finalized = 0;
  *mpi = MPI_COMM_NULL;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (!initialized || finalized)
    return zero1__fail(error, ZERO1_ERR_STATE, "MPI is %s",
                       finalized ? "finalised" : "not initialised");
  const MPI_Comm given = MPI_Comm_f2c(mpi_comm_f);
  const int code = given == MPI_COMM_NULL ? MPI_ERR_COMM : dup_checked(given, mpi);
  int class = code;
  if (code) MPI_Error_class(code, &class);
  if (class == MPI_ERR_COMM)
    return zero1__fail(error, ZERO1_ERR_INVALID, "mpi_comm_f %d is no communicator", mpi_comm_f);
  if (code) return zero1__mpi_fail(error, code, "MPI_Comm_dup");
  MPI_Comm_set_errhandler(*mpi, MPI_ERRORS_RETURN);
  return ZERO1_OK;
}

/* The lowest rank of this rank's machine. */
static zero1_status find_leader(MPI_Comm mpi, int32_t *leader, zero1__error *error) {
  MPI_Comm node;
  int rank;
  MPI_Comm_rank(mpi, &rank);
  int code = MPI_Comm_split_type(mpi, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
  if (code) return zero1__mpi_fail(error, code, "MPI_Comm_split_type");
  *leader = rank;
  code = MPI_Bcast(leader, 1, MPI_INT32_T, 0, node);
  MPI_Comm_free(&node);
  return code ? zero1__mpi_fail(error, code, "MPI_Bcast") : ZERO1_OK;
}

/* Ranks per node that every rank can live with: `asked` of them, or as many as the machines have; 1
 * where machines are uneven, or ranks of one are no neighbours.
 *
 * leaders 0 0 0 3 3 3: 3. Asked for 1: 1. leaders 0 0 2: 1. leaders 0 1 0 1: 1. */
static int32_t ranks_per_node(const int32_t *leaders, int32_t world_size, int32_t asked) {
  int32_t size = asked;
  if (!asked)
    for (size = 0; size < world_size && leaders[size] == leaders[0];) ++size;
  if (size > world_size) size = world_size;
  if (world_size % size) return 1;
  for (int32_t rank = 0; rank < world_size; ++rank)
    if (leaders[rank] != leaders[rank / size * size]) return 1;
  return size;
}

typedef struct facts {
  int32_t *leaders;            /* [world_size] */
  zero1__identity *identities; /* [world_size] */
  int32_t inline_calls;
} facts;

static zero1_status learn(zero1__lane *lane, MPI_Comm mpi, facts *known, zero1__error *error) {
  const size_t world = (size_t)lane->comm->world_size;
  int32_t leader = 0;
  int level = MPI_THREAD_SINGLE;
  zero1__identity mine;
  known->leaders = calloc(world, sizeof *known->leaders);
  known->identities = calloc(world, sizeof *known->identities);
  zero1_status status =
      known->leaders && known->identities
          ? ZERO1_OK
          : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %zu ranks", world);
  status = zero1__lane_agree(lane, status, error);
  if (status) return status;
  MPI_Query_thread(&level);
  known->inline_calls = level < MPI_THREAD_MULTIPLE;
  zero1__identity_of_this(&mine);
  status = zero1__lane_agree(lane, find_leader(mpi, &leader, error), error);
  if (!status) status = zero1__lane_gather(lane, &leader, known->leaders, sizeof leader, error);
  if (!status) status = zero1__lane_gather(lane, &mine, known->identities, sizeof mine, error);
  return status;
}

/* Same process namespace as far as a node goes: without it, memory cannot be shared. */
static int see_each_other(const facts *known, int32_t world_size, int32_t size) {
  for (int32_t rank = 0; rank < world_size; ++rank)
    if (strcmp(known->identities[rank].machine, known->identities[rank / size * size].machine))
      return 0;
  return 1;
}

static void forget(facts *known) {
  free(known->leaders);
  free(known->identities);
  *known = (facts){0};
}

/* The comm owns `mpi` from here on, after a failure too. */
static zero1_status create_wired(zero1__lane *lane, MPI_Comm mpi, const facts *known, int32_t size,
                                 const zero1_comm_options *options, zero1_comm **comm,
                                 zero1__error *error) {
  const int32_t rank = lane->comm->rank, world = lane->comm->world_size;
  const int32_t begin = rank / size * size;
  zero1__wire_comm_parts parts = {.shape = {.threads = 0, .rank_begin = begin, .size = size},
                                  .inline_calls = known->inline_calls};
  zero1_status status = zero1__wire_mpi_create(mpi, &parts.wire, error);
  if (status) return status;
  status = zero1__watch_create(known->identities, world, rank, &parts.watch, error);
  if (!status)
    status = zero1__watch_create(known->identities + begin, size, rank - begin, &parts.node_watch,
                                 error);
  if (!status) return zero1__wire_comm_create(&parts, options, comm, error);
  parts.wire->ops->destroy(parts.wire);
  zero1__watch_destroy(parts.watch);
  return status;
}

/* ---- messages where the ranks share a machine, and their GPUs cannot reach each other ---- */

typedef struct messages {
  MPI_Comm mpi; /* of the comm to be; MPI_COMM_NULL: taken */
  facts known;
  zero1_comm_options options;
  zero1_comm *comm;     /* NULL until an optimizer needs it */
  zero1__error failure; /* to make it: for good */
} messages;

static zero1_status messages_open(void *context, zero1__lane *lane, zero1_comm **comm,
                                  zero1__error *error) {
  messages *self = context;
  zero1__error *failure = &self->failure;
  *comm = NULL;
  if (!self->comm && !failure->status) {
    const MPI_Comm mpi = self->mpi;
    self->mpi = MPI_COMM_NULL;
    const zero1_status status =
        create_wired(lane, mpi, &self->known, 1, &self->options, &self->comm, failure);
    if (zero1__lane_agree(lane, status, failure)) zero1_comm_destroy(&self->comm);
  }
  if (failure->status) return zero1__fail(error, failure->status, "%s", failure->text);
  *comm = self->comm;
  return ZERO1_OK;
}

static void messages_destroy(void *context) {
  messages *self = context;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (self->mpi != MPI_COMM_NULL && !finalized) MPI_Comm_free(&self->mpi);
  zero1_comm_destroy(&self->comm);
  forget(&self->known);
  free(self);
}

/* What it needs is set aside now: the caller's communicator may be gone by then. Takes `known`. */
static zero1_status set_messages_aside(MPI_Comm mpi, facts *known,
                                       const zero1_comm_options *options, zero1__node_comm *node,
                                       zero1__error *error) {
  messages *self = calloc(1, sizeof *self);
  MPI_Comm own;
  const int code = MPI_Comm_dup(mpi, &own); /* collective, whatever else fails */
  if (code || !self) {
    free(self);
    if (code) return zero1__mpi_fail(error, code, "MPI_Comm_dup");
    MPI_Comm_free(&own);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a communicator");
  }
  *self = (messages){.mpi = own, .known = *known, .options = *options};
  *known = (facts){0};
  node->fallback = (zero1__node_fallback){self, messages_open, messages_destroy};
  return ZERO1_OK;
}

/* ---- the comm ---- */

static zero1_status create_node(zero1__lane *lane, MPI_Comm mpi, facts *known,
                                const zero1_comm_options *options, zero1_comm **comm,
                                zero1__error *error) {
  zero1_status status = zero1__comm_node_create(lane, options, comm, error);
  if (status || lane->comm->world_size == 1) return status;
  status = set_messages_aside(mpi, known, options, (zero1__node_comm *)*comm, error);
  status = zero1__lane_agree(lane, status, error);
  if (status) zero1_comm_destroy(comm);
  return status;
}

/* The wire has an MPI communicator of its own, so that `lane` outlives whatever fails here. */
static zero1_status create_messages(zero1__lane *lane, MPI_Comm mpi, const facts *known,
                                    int32_t size, const zero1_comm_options *options,
                                    zero1_comm **comm, zero1__error *error) {
  MPI_Comm own;
  const int code = MPI_Comm_dup(mpi, &own);
  zero1_status status = code ? zero1__mpi_fail(error, code, "MPI_Comm_dup")
                             : create_wired(lane, own, known, size, options, comm, error);
  status = zero1__lane_agree(lane, status, error);
  if (status) zero1_comm_destroy(comm);
  return status;
}

static zero1_status create_of(zero1__lane *lane, MPI_Comm mpi, facts *known,
                              const zero1_comm_options *options, zero1_comm **comm,
                              zero1__error *error) {
  const int32_t world = lane->comm->world_size;
  zero1__error why;
  int32_t size = ranks_per_node(known->leaders, world, options->ranks_per_node);
  if (!see_each_other(known, world, size)) size = 1;
  if (size < world) return create_messages(lane, mpi, known, size, options, comm, error);
  zero1__error_clear(&why);
  zero1_status status = create_node(lane, mpi, known, options, comm, &why);
  if (status != ZERO1_ERR_UNSUPPORTED || world == 1)
    return status ? zero1__fail(error, status, "%s", why.text) : ZERO1_OK;
  status = create_messages(lane, mpi, known, 1, options, comm, error); /* memory that is not seen */
  if (!status)
    snprintf((*comm)->note, sizeof(*comm)->note, "ranks of one machine exchange messages: %.350s",
             why.text);
  return status;
}

static zero1_status create(zero1__lane *lane, MPI_Comm mpi, const zero1_comm_options *options,
                           zero1_comm **comm, zero1__error *error) {
  facts known = {0};
  zero1_status status = learn(lane, mpi, &known, error);
  if (!status) status = create_of(lane, mpi, &known, options, comm, error);
  forget(&known);
  return status;
}

zero1_status zero1_comm_create_mpi(int32_t mpi_comm_f, const zero1_comm_options *options,
                                   zero1_comm **comm) {
  zero1__error error;
  zero1_comm_options taken;
  zero1__bootstrap bootstrap;
  MPI_Comm mpi;
  int rank, world_size;
  if (comm) *comm = NULL;
  zero1__error_clear(&error);
  zero1_status status = duplicate(mpi_comm_f, &mpi, &error);
  if (status) return zero1__create_done(options, status, &error);
  MPI_Comm_rank(mpi, &rank);
  MPI_Comm_size(mpi, &world_size);
  status = zero1__bootstrap_begin(&bootstrap, rank, world_size, mpi_allgather, &mpi, &error);
  if (!status) {
    status = zero1__comm_options_take(options, &taken, &error);
    if (!comm) status = zero1__fail(&error, ZERO1_ERR_INVALID, "comm is NULL");
    status = zero1__lane_agree(&bootstrap.lane, status, &error);
  }
  if (!status) status = zero1__comm_options_alike(&bootstrap.lane, &taken, &error);
  if (!status) status = create(&bootstrap.lane, mpi, &taken, comm, &error);
  zero1__bootstrap_end(&bootstrap);
  MPI_Comm_free(&mpi);
  return zero1__create_done(options, status, &error);
}

/* MPI introduces the ranks, and is not needed after. */
zero1_status zero1_comm_create_nccl_mpi(int32_t mpi_comm_f, const zero1_comm_options *options,
                                        zero1_comm **comm) {
  zero1__error error;
  MPI_Comm mpi;
  int rank, world_size;
  if (comm) *comm = NULL;
  zero1__error_clear(&error);
  zero1_status status = duplicate(mpi_comm_f, &mpi, &error);
  if (status) return zero1__create_done(options, status, &error);
  MPI_Comm_rank(mpi, &rank);
  MPI_Comm_size(mpi, &world_size);
  status = zero1_comm_create_nccl_allgather(rank, world_size, mpi_allgather, &mpi, options, comm);
  MPI_Comm_free(&mpi);
  return status;
}
