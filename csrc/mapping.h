/* Memory that the ranks of a node see of each other. Between processes: an anonymous memory file
 * (memfd), which needs no /dev/shm and disappears with its last user, a killed one too. Between
 * threads: plain memory, counted. */
#ifndef ZERO1__MAPPING_H
#define ZERO1__MAPPING_H

#include <stddef.h>
#include <stdint.h>

#include "comm_ops.h"
#include "error.h"

/** One such piece of memory; all zero: none. */
typedef struct zero1__mapping {
  void *base; /* on a page; zeroed when made */
  size_t bytes;
  int fd;     /* of the maker until zero1__mapping_share is done; else -1 */
  void *refs; /* threads: the counter of users; else NULL */
} zero1__mapping;

/** What a peer needs to map it; can be sent to another process as bytes. */
typedef struct zero1__mapping_key {
  uint64_t bytes;
  uint64_t base, refs; /* threads */
  int64_t pid;         /* processes */
  int32_t fd;
  int32_t threads;
} zero1__mapping_key;

/** Makes a mapping; bytes 0 gives none. Its pages are really there: no later write can fail.
 *  ZERO1_ERR_MEMORY. */
zero1_status zero1__mapping_create(int threads, size_t bytes, zero1__mapping *mapping,
                                   zero1__mapping_key *key, zero1__error *error);

/** Maps a peer's mapping. ZERO1_ERR_UNSUPPORTED: the system does not let this process see it. */
zero1_status zero1__mapping_open(const zero1__mapping_key *key, zero1__mapping *mapping,
                                 zero1__error *error);

/** Ends this rank's use of it. */
void zero1__mapping_close(zero1__mapping *mapping);

/** Ranks [rank_begin, rank_begin + size) of a comm, which can see each other's memory. */
typedef struct zero1__node_shape {
  int32_t threads; /* 1: of one process */
  int32_t rank_begin, size;
} zero1__node_shape;

/** Each rank of the node makes a mapping of `bytes` (its own choice) and maps the others'.
 *  Collective over the whole lane. [out] mappings [size], closed one by one; none on failure. */
zero1_status zero1__mapping_share(zero1__lane *lane, const zero1__node_shape *shape, size_t bytes,
                                  zero1__mapping *mappings, zero1__error *error);

#endif
