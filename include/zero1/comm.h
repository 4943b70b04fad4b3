/* Communicators: how the data-parallel ranks reach each other.
 *
 * A communicator is made once and may serve several optimizers. Every create call is collective
 * over the ranks that it joins, and either succeeds on all of them or fails on all of them.
 * Part of the public face: C99, safe for C++ and for ctypes; includes no MPI header. */
#ifndef ZERO1_COMM_H
#define ZERO1_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "zero1/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Opaque. One thread at a time may use a communicator. */
typedef struct zero1_comm zero1_comm;

/** The one thing that a launcher has to offer: an all-gather of small host buffers.
 *
 *  Gathers `bytes` bytes from every rank into `out` [world_size * bytes], in rank order. Called on
 *  every rank in the same order, on the thread that called create, and never after create returned.
 *  Returns 0, or anything else for a failure. */
typedef int32_t (*zero1_allgather_fn)(void *context, const void *in, void *out, size_t bytes);

/** How a communicator is made. Fill with zero1_comm_options_init, then change what you need. Every
 *  rank gives the same ranks_per_node, ordered and workspace_bytes. */
typedef struct zero1_comm_options {
  size_t size; /* sizeof(zero1_comm_options), set by init */

  /** Ranks [n*k, (n+1)*k) count as node n, k = ranks_per_node, and nodes exchange by messages.
   *  0 (default): the machine is asked. 1 forces the path between nodes everywhere, on one machine
   *  too. Where k does not divide the world, or a node's ranks are not neighbours, every rank
   *  counts as a node of its own. */
  int32_t ranks_per_node;

  /** NCCL: who sums the gradients. 0 (default): NCCL, in its own order and in the gradients' data
   *  type, which is faster. 1: they are exchanged as they are and summed in fp32, in rank order
   *  (config.reduce_group), with the same bits as every other communicator's. */
  int32_t ordered;

  /** Bytes of receive buffers per optimizer between nodes, and of NCCL where `ordered`: bounds the
   *  memory that exchange takes. 0 (default): 16 MiB. At least one block per rank is taken, however
   *  little it says. */
  int64_t workspace_bytes;

  /** Seconds without any progress after which a wait for a peer is an error. Default 600. */
  double timeout_seconds;

  /** Where the text of a failed create goes, as there is no handle yet to ask.
   *  [error_bytes] or NULL; borrowed during create. Always terminated. */
  char *error_text;
  size_t error_bytes;
} zero1_comm_options;

/** Fills `options` with the defaults. Not collective.
 *  [in] options_bytes  sizeof(zero1_comm_options) as the caller was compiled
 *  ZERO1_ERR_INVALID: options is NULL. ZERO1_ERR_VERSION: a size this library does not know. */
ZERO1_API zero1_status zero1_comm_options_init(zero1_comm_options *options, size_t options_bytes);

/** A communicator of one rank. Not collective.
 *  [in]  options  or NULL for the defaults
 *  [out] comm     owned by the caller: zero1_comm_destroy; NULL on failure
 *  ZERO1_ERR_INVALID, ZERO1_ERR_VERSION, ZERO1_ERR_MEMORY. */
ZERO1_API zero1_status zero1_comm_create_self(const zero1_comm_options *options, zero1_comm **comm);

/** `world_size` ranks as threads of this process. Not collective: one thread makes them all and
 *  hands comms[r] to the thread that is to be rank r.
 *  [in]  world_size  1 or more
 *  [in]  options     or NULL for the defaults
 *  [out] comms       [world_size] owned by the caller, destroyed one by one; all NULL on failure
 *  ZERO1_ERR_INVALID, ZERO1_ERR_VERSION, ZERO1_ERR_MEMORY. */
ZERO1_API zero1_status zero1_comm_create_threads(int32_t world_size,
                                                 const zero1_comm_options *options,
                                                 zero1_comm **comms);

/** Processes of one machine, introduced to each other by the caller's all-gather; needs no MPI.
 *  Collective.
 *  [in]  rank, world_size  this rank's place: 0 <= rank < world_size
 *  [in]  allgather         see zero1_allgather_fn
 *  [in]  context           passed to allgather
 *  [in]  options           or NULL for the defaults
 *  [out] comm              owned by the caller; NULL on failure
 *  ZERO1_ERR_UNSUPPORTED: the ranks are on several machines, or options ask for several nodes: that
 *  needs MPI. ZERO1_ERR_COMM: allgather failed. ZERO1_ERR_INVALID, _VERSION, _MEMORY. */
ZERO1_API zero1_status zero1_comm_create_node(int32_t rank, int32_t world_size,
                                              zero1_allgather_fn allgather, void *context,
                                              const zero1_comm_options *options, zero1_comm **comm);

/** The ranks of an MPI communicator. Finds by itself which of them share a machine: those share
 *  memory, the others exchange messages. Collective over the MPI communicator, which is duplicated:
 *  the caller keeps its own.
 *
 *  Between machines the library sends from threads of its own where MPI was started with
 *  MPI_THREAD_MULTIPLE; with less it sends inside the caller's own calls, so that less of the
 *  communication overlaps with computation. On one machine MPI is used by create alone, but where
 *  an optimizer's GPUs cannot reach each other's memory: that optimizer's ranks exchange messages,
 *  as between machines, and zero1_comm_note says so. GPUs' memory is sent from, and received into,
 *  where the MPI library says that it can do that; else through memory of the host.
 *
 *  A rank that is lost: on this machine its process is seen to end, at once. On another machine it
 *  falls silent, whether it died, its machine did or a link: MPI never completes what was sent to
 *  it or is to come from it, so each wait gives up once the rank that it waits for has made no
 *  progress for options.timeout_seconds, with ZERO1_ERR_TIMEOUT, and tells the other ranks, which
 *  then give up with the same text. (Not so where MPI's own call does not return: docs/network.md
 *  tells of a case.) After that the optimizer is spent, and the library makes no more calls of MPI
 *  for it but for that notice: requests that are under way, and the memory that MPI may still
 *  touch, are left as they are. So MPI_Finalize may hang then, and MPI_Comm_free is not called:
 *  leave with _exit or MPI_Abort (and have mpirun --enable-recovery not end all ranks with the
 *  first). SIGPIPE, which Open MPI raises by writing to a rank that is gone, is held back in the
 *  library's own calls of MPI; the program's own calls need signal(SIGPIPE, SIG_IGN).
 *
 *  [in]  mpi_comm_f  the communicator as Fortran's integer: MPI_Comm_c2f(comm), mpi4py's py2f()
 *  [in]  options     or NULL for the defaults
 *  [out] comm        owned by the caller, to be destroyed before MPI_Finalize; NULL on failure
 *  ZERO1_ERR_MISMATCH: names the option that differs. ZERO1_ERR_STATE: MPI is not initialised, or
 *  finalised. ZERO1_ERR_UNSUPPORTED: this build has no MPI. ZERO1_ERR_INVALID, ZERO1_ERR_VERSION,
 *  ZERO1_ERR_MEMORY, ZERO1_ERR_COMM. */
ZERO1_API zero1_status zero1_comm_create_mpi(int32_t mpi_comm_f, const zero1_comm_options *options,
                                             zero1_comm **comm);

/* ---- NCCL ----
 *
 * The ranks are GPUs, of one machine or of several: each rank's is the calling thread's current
 * CUDA device, and the optimizers that are made from the communicator run on it (config.device is
 * ZERO1_DEVICE_CUDA). NCCL before 2.30 refuses two ranks on one GPU.
 *
 * Every optimizer gets communicators of its own, split from this one, so that several of them need
 * not take turns in the same way on every rank. What a rank can find out by itself is told to all
 * where they can agree; else its peers wait for it until options.timeout_seconds. Peers of one
 * machine learn at once of a rank that fails, aborts or dies; those of other machines as NCCL
 * does, or by config.timeout_seconds.
 *
 * All four: [in] options, or NULL for the defaults; [out] comm, owned by the caller; NULL on
 * failure. ZERO1_ERR_UNSUPPORTED: this build has no NCCL, or no libnccl.so.2 was found: NCCL is
 * loaded with the first of these calls, but for one that the program has already. ZERO1_ERR_COMM:
 * NCCL failed; the text is its own. ZERO1_ERR_TIMEOUT: some rank did not come. ZERO1_ERR_MISMATCH:
 * names the option that differs. ZERO1_ERR_NO_DEVICE, ZERO1_ERR_DEVICE: as CUDA says.
 * ZERO1_ERR_INVALID, _VERSION, _MEMORY. */

/** The ranks of a communicator of NCCL, which is duplicated (ncclCommSplit): the caller keeps its
 *  own, and only duplicates are ever aborted. Collective over it; nothing else may be under way on
 *  it. Where it is a blocking one (NCCL's default), a rank that does not come is waited for without
 *  end, as NCCL does.
 *  [in] nccl_comm  an ncclComm_t; borrowed during create
 *  ZERO1_ERR_INVALID: the thread's current device is not that of nccl_comm, among others. */
ZERO1_API zero1_status zero1_comm_create_nccl(void *nccl_comm, const zero1_comm_options *options,
                                              zero1_comm **comm);

/** The ranks of an MPI communicator, each with its GPU. Collective over the MPI communicator, which
 *  is used by create alone.
 *  [in] mpi_comm_f  as in zero1_comm_create_mpi
 *  ZERO1_ERR_UNSUPPORTED: this build has no MPI. ZERO1_ERR_STATE: MPI is not initialised, or
 *  finalised. */
ZERO1_API zero1_status zero1_comm_create_nccl_mpi(int32_t mpi_comm_f,
                                                  const zero1_comm_options *options,
                                                  zero1_comm **comm);

/** Ranks that are introduced to each other by the caller's all-gather. Collective.
 *  [in] rank, world_size  this rank's place: 0 <= rank < world_size
 *  [in] allgather         see zero1_allgather_fn
 *  [in] context           passed to allgather
 *  ZERO1_ERR_COMM: allgather failed, too. */
ZERO1_API zero1_status zero1_comm_create_nccl_allgather(int32_t rank, int32_t world_size,
                                                        zero1_allgather_fn allgather, void *context,
                                                        const zero1_comm_options *options,
                                                        zero1_comm **comm);

/** Bytes of an id. */
enum { ZERO1_NCCL_ID_BYTES = 128 };

/** Ranks that know the same id, which one of them made. Collective.
 *  [in] rank, world_size  as above
 *  [in] unique_id         [unique_id_bytes] from zero1_nccl_unique_id or ncclGetUniqueId */
ZERO1_API zero1_status zero1_comm_create_nccl_id(int32_t rank, int32_t world_size,
                                                 const void *unique_id, size_t unique_id_bytes,
                                                 const zero1_comm_options *options,
                                                 zero1_comm **comm);

/** An id for zero1_comm_create_nccl_id. Not collective: one rank makes it, and sends it to the
 *  others.
 *  [out] unique_id  [unique_id_bytes], which is ZERO1_NCCL_ID_BYTES
 *  ZERO1_ERR_INVALID: NULL, or another size. ZERO1_ERR_UNSUPPORTED: there is no NCCL, as above.
 *  ZERO1_ERR_COMM: NCCL failed. */
ZERO1_API zero1_status zero1_nccl_unique_id(void *unique_id, size_t unique_id_bytes);

/** This rank, the number of ranks, and the name of the backend ("self", "threads", "node",
 *  "exchange", "hierarchical", "nccl"). Not collective. NULL gives -1, 0 and "". */
ZERO1_API int32_t zero1_comm_rank(const zero1_comm *comm);
ZERO1_API int32_t zero1_comm_world_size(const zero1_comm *comm);
ZERO1_API const char *zero1_comm_backend(const zero1_comm *comm);

/** Number of ranks that share memory with this one, itself included. Not collective. */
ZERO1_API int32_t zero1_comm_ranks_per_node(const zero1_comm *comm);

/** What the communicator had to do in another way than it was asked to, and why: as text, or "".
 *  It may be said when the communicator is made, and when an optimizer is made from it. Not
 *  collective. Never NULL; valid until the next call on `comm`. */
ZERO1_API const char *zero1_comm_note(const zero1_comm *comm);

/** Waits until every rank has called it. Collective.
 *  ZERO1_ERR_INVALID: NULL. ZERO1_ERR_PEER, _TIMEOUT, _COMM: some rank will never come; the text
 *  says which. */
ZERO1_API zero1_status zero1_comm_barrier(zero1_comm *comm);

/** Text of the last failure on this communicator, that of a failed zero1_optimizer_create included.
 *  Not collective. Never NULL; valid until the next call on `comm`. */
ZERO1_API const char *zero1_comm_last_error(const zero1_comm *comm);

/** Frees *comm and clears it; NULL and a pointer to NULL are fine. Not collective. Optimizers made
 *  from it must be destroyed first. */
ZERO1_API void zero1_comm_destroy(zero1_comm **comm);

#ifdef __cplusplus
}
#endif

#endif
