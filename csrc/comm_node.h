#ifndef ZERO1__COMM_NODE_H
#define ZERO1__COMM_NODE_H

#include "comm_ops.h"
#include "node.h"

/** Another way between the same ranks, for channels whose devices cannot reach each other. */
typedef struct zero1__node_fallback {
  void *context; /* owned by the comm */
  /** Collective over the lane. *comm is owned by the context; the same one every time. */
  zero1_status (*open)(void *context, zero1__lane *lane, zero1_comm **comm, zero1__error *error);
  void (*destroy)(void *context);
} zero1__node_fallback;

/** The handle of the comms `node` and `threads`. */
typedef struct zero1__node_comm {
  zero1_comm base;
  zero1__node_shape shape;
  zero1__watch *watch;           /* NULL: threads */
  zero1__node_fallback fallback; /* zeroed: there is none; set by who made the comm */
  pthread_mutex_t mutex;         /* several optimizers, each with a thread of its own */
  zero1__channel *devices;       /* channels in memory of a device; under mutex */
} zero1__node_comm;

/** The node comm of ranks [0, world_size) of one machine, introduced by `lane`. Collective.
 *  ZERO1_ERR_UNSUPPORTED: the ranks do not see each other as processes of one machine. */
zero1_status zero1__comm_node_create(zero1__lane *lane, const zero1_comm_options *options,
                                     zero1_comm **comm, zero1__error *error);

/** Node comms of threads, one node. [out] comms [world_size], zeroed before. ZERO1_ERR_MEMORY. */
zero1_status zero1__comm_node_create_threads(int32_t world_size, double timeout_seconds,
                                             zero1_comm **comms, zero1__error *error);

#endif
