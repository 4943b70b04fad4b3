/* The ranks of a node: each has a station, control memory that its peers see, with a lane for small
 * all-gathers and flags that it posts; and each watches whether the others are alive. */
#ifndef ZERO1__NODE_H
#define ZERO1__NODE_H

#include <stdatomic.h>
#include <stdint.h>

#include "comm_ops.h"
#include "flag.h"
#include "lookout.h"
#include "mapping.h"

/** Who the peers are, as processes; made once per comm, borrowed by its nodes. */
typedef struct zero1__watch {
  int32_t size;
  int *pidfds; /* [size] -1: not to be watched, or this rank itself */
} zero1__watch;

/** A process as its peers must know it; can be sent as bytes. Two that differ in `machine` cannot
 *  share memory. */
typedef struct zero1__identity {
  char machine[64]; /* boot id and process namespace */
  int64_t pid;
} zero1__identity;

void zero1__identity_of_this(zero1__identity *identity);

/** [size] identities, `own` this one; those of other machines are not watched. ZERO1_ERR_MEMORY. */
zero1_status zero1__watch_create(const zero1__identity *identities, int32_t size, int32_t own,
                                 zero1__watch **watch, zero1__error *error);
void zero1__watch_destroy(zero1__watch *watch);

/** Whether a peer's process has ended; 0 where that cannot be told (watch NULL among others). */
int zero1__watch_is_dead(const zero1__watch *watch, int32_t peer);

typedef struct zero1__station zero1__station;

typedef struct zero1__node {
  zero1__node_shape shape;
  int32_t rank; /* in the node */
  double timeout_seconds;
  const zero1__watch *watch; /* or NULL: threads */
  zero1__mapping *mappings;  /* [size] the stations */
  int64_t flag_count;
  uint32_t lane_epoch;
  atomic_int aborting; /* zero1__node_abort was called */
} zero1__node;

/** Opens a node of shape->size ranks with flag_count flags each. Collective over the lane. */
zero1_status zero1__node_open(zero1__lane *lane, const zero1__node_shape *shape,
                              const zero1__watch *watch, int64_t flag_count, double timeout_seconds,
                              zero1__node **node, zero1__error *error);

/** The same for all ranks of one process at once, by one thread. [out] nodes [size]. */
zero1_status zero1__node_open_threads(int32_t size, double timeout_seconds, zero1__node **nodes,
                                      zero1__error *error);

/** Tells the peers that this rank is gone, and frees. NULL is fine. */
void zero1__node_close(zero1__node *node);

/** Tells the peers that this rank posts nothing more: the first half of zero1__node_close, for who
 *  has to wait for them before the second. */
void zero1__node_leave(zero1__node *node);
int zero1__node_has_left(const zero1__node *node, int32_t peer);

/** Waits until every peer has posted its flag, or has died, and no longer than the node's timeout;
 *  once a peer has died or aborted, a moment only: the others have been told to let go. */
void zero1__node_part(zero1__node *node, int64_t flag);

/** Tells the peers to stop waiting: they get the status of `why`, and its text after this rank's
 *  number. The first call counts; callable from any thread. */
void zero1__node_abort(zero1__node *node, const zero1__error *why);

/** Posts this rank's flag. */
void zero1__node_post(zero1__node *node, int64_t flag, uint32_t value);

/** Whether a peer's flag is at `value` or beyond. */
int zero1__node_has_posted(const zero1__node *node, int32_t peer, int64_t flag, uint32_t value);

/** Whether a peer has died or aborted, this rank included: what a wait would end with. Returns at
 *  once; any thread. A peer that has closed its end is missed by who waits for it alone. */
zero1_status zero1__node_look(const zero1__node *node, zero1__error *error);

/** Waits for a peer's flag. what: for the error's text, as in "the gradients of bucket".
 *  ZERO1_ERR_PEER, ZERO1_ERR_TIMEOUT: naming the peer; or what a peer has aborted with. A dead peer
 *  ends every wait, one that closed its end those for it alone. */
zero1_status zero1__node_wait(zero1__node *node, int32_t peer, int64_t flag, uint32_t value,
                              const char *what, zero1__error *error);

/** Small all-gather over the node's ranks: out [size * bytes]. Errors as zero1__node_wait. */
zero1_status zero1__node_all_gather(zero1__node *node, const void *in, void *out, size_t bytes,
                                    zero1__error *error);

/** Waits until every rank of the node has come. Errors as zero1__node_wait. */
zero1_status zero1__node_barrier(zero1__node *node, zero1__error *error);

#endif
