/* Memory of the device that the ranks of a node see of each other, as mapping.h is of the host's.
 * It is given back together: a peer's kernels would meet memory that is gone. Processes wait for
 * each other; of threads, the last one frees what all of them had. */
#ifndef ZERO1__PEER_MEMORY_H
#define ZERO1__PEER_MEMORY_H

#include <stdatomic.h>

#include "device_ops.h"
#include "node.h"

enum { ZERO1__PEER_PARTS = 3 };

/** What each rank gives. */
typedef struct zero1__peer_memory_config {
  zero1__node_shape shape;
  const zero1__watch *watch; /* or NULL: threads */
  zero1__device *device;
  size_t bytes[ZERO1__PEER_PARTS]; /* the same on every rank; 0: there is no such part */
  double timeout_seconds;
} zero1__peer_memory_config;

/** Zeroed before it is opened. */
typedef struct zero1__peer_memory {
  zero1__peer_memory_config config; /* with the bytes that each part really has, maybe more */
  zero1__node *node;                /* without flags for its users but `last` */
  /* [ZERO1__PEER_PARTS][size], by part, then by rank of the node */
  void **bases;
  zero1__memory_key *keys;
  atomic_int *users; /* threads: ranks that still use it; NULL: processes, or not shared yet */
} zero1__peer_memory;

/** Each rank allocates its parts, zeroed, and maps its peers'. Collective over the whole lane: all
 *  ranks succeed or all fail. Closed with zero1__peer_memory_close, after a failure too.
 *  ZERO1_ERR_UNSUPPORTED: a rank cannot reach another one's memory; the text names both.
 *  ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE. */
zero1_status zero1__peer_memory_open(zero1__lane *lane, const zero1__peer_memory_config *config,
                                     zero1__peer_memory *memory, zero1__error *error);

/** Ends this rank's use of its peers' memory. Processes wait until the peers have ended theirs of
 *  this rank's, as zero1__node_part does, and free it. The device is done with all of it.
 *  Collective; processes must end several of them in the same order. */
void zero1__peer_memory_close(zero1__peer_memory *memory);

/** A peer's part, as this rank sees it. */
static inline void *zero1__peer_memory_at(const zero1__peer_memory *memory, int part,
                                          int32_t peer) {
  return memory->bases[part * memory->config.shape.size + peer];
}

/** Bytes of the node's own. */
static inline uint64_t zero1__peer_memory_workspace(const zero1__peer_memory *memory) {
  return memory->node->mappings[memory->node->rank].bytes;
}

/** Whether some peer aborted, died or began to close: nothing new comes from it. Errors as
 *  zero1__node_look; ZERO1_ERR_PEER names who closed. */
zero1_status zero1__peer_memory_refuse(const zero1__peer_memory *memory, zero1__error *error);

/** A number that a rank leaves to its peers before it closes: what it has come to. */
void zero1__peer_memory_leave(zero1__peer_memory *memory, uint32_t last);

/** ZERO1_ERR_PEER where a peer has begun to close, and left a number that is less than `own`. */
zero1_status zero1__peer_memory_left_behind(const zero1__peer_memory *memory, uint32_t own,
                                            zero1__error *error);

/** A table in memory of the device: [size] addresses of the peers' `part`, `offset` bytes into it,
 *  then `last`; of zero1__peer_memory_table_bytes. ZERO1_ERR_MEMORY, ZERO1_ERR_DEVICE. */
zero1_status zero1__peer_memory_table(const zero1__peer_memory *memory, int part, size_t offset,
                                      void *last, void **table, zero1__error *error);
static inline size_t zero1__peer_memory_table_bytes(int32_t size) {
  return ((size_t)size + 1) * sizeof(void *);
}

#endif
