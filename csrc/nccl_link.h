/* A communicator of NCCL that belongs to the library: a duplicate of the caller's, or one of its
 * own. Calls on it never block (it is made so), may come from any thread, and are refused once it
 * was aborted: nothing is ever asked of an ncclComm_t that is gone.
 *
 * NCCL tells a rank of its own failures alone. So the ranks of one machine also share a node
 * (node.h), by which they learn that a peer aborted or died; between machines that is NCCL's own
 * affair, and the timeout's. */
#ifndef ZERO1__NCCL_LINK_H
#define ZERO1__NCCL_LINK_H

#include <pthread.h>
#include <stdint.h>

#include "error.h"
#include "nccl_load.h"
#include "node.h"

typedef struct zero1__nccl_link {
  pthread_mutex_t mutex;
  ncclComm_t nccl;   /* under mutex; NULL: aborted, or never made */
  zero1__node *node; /* owned; or NULL: its peers cannot be told, nor watched */
  double timeout_seconds;
  int32_t rank, world_size;
} zero1__nccl_link;

/** Makes `link` anew, with all ranks that come with this id. Collective. ZERO1_ERR_COMM,
 *  ZERO1_ERR_TIMEOUT: some rank never came. A link that is zeroed can be closed, too. */
zero1_status zero1__nccl_link_init(zero1__nccl_link *link, const ncclUniqueId *id, int32_t rank,
                                   int32_t world_size, double timeout_seconds, zero1__error *error);

/** Makes `link` a duplicate of `from`. max_ctas: how many blocks of a GPU it may take; 0: NCCL
 *  decides. Collective, and no sooner done than every rank has called it. Errors as init. */
zero1_status zero1__nccl_link_split(zero1__nccl_link *link, zero1__nccl_link *from,
                                    int32_t max_ctas, double timeout_seconds, zero1__error *error);

/** A stand for a communicator that the caller owns, to split from: is not to be closed. */
void zero1__nccl_link_borrow(zero1__nccl_link *link, ncclComm_t nccl, double timeout_seconds);

/** Waits for peers that may still need it, for a while, and frees. Not collective. */
void zero1__nccl_link_close(zero1__nccl_link *link);

/** Ends what is under way on this rank's GPU, and tells the peers of this machine. Any thread. */
void zero1__nccl_link_abort(zero1__nccl_link *link, const zero1__error *why);

/** Around one call of NCCL, or one group of them:
 *    ncclComm_t nccl = zero1__nccl_enter(link, error);
 *    if (!nccl) return error->status;
 *    return zero1__nccl_leave(link, ncclAllGather(..., nccl, stream), "ncclAllGather", error);
 *  leave waits until the call is enqueued, which on a GPU that keeps up is at once. */
ncclComm_t zero1__nccl_enter(zero1__nccl_link *link, zero1__error *error);
zero1_status zero1__nccl_leave(zero1__nccl_link *link, ncclResult_t result, const char *what,
                               zero1__error *error);

/** Whether all is well by now, without waiting: what NCCL has found out since, and whether a peer
 * of this machine died or aborted. Any thread. */
zero1_status zero1__nccl_link_look(zero1__nccl_link *link, zero1__error *error);

/** Whether a peer of this machine has closed its link: nothing more comes from it. ZERO1_ERR_PEER.
 */
zero1_status zero1__nccl_link_left(const zero1__nccl_link *link, zero1__error *error);

/** Waits until all that `stream` was given is done. ZERO1_ERR_TIMEOUT, and as look. */
zero1_status zero1__nccl_link_finish(zero1__nccl_link *link, cudaStream_t stream, const char *what,
                                     zero1__error *error);

/** NCCL's words for a failed call. */
zero1_status zero1__nccl_fail(zero1__error *error, ncclResult_t result, const char *what);

/** CUDA's. */
zero1_status zero1__nccl_cuda_fail(zero1__error *error, cudaError_t code, const char *what);

#endif
