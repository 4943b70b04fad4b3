/* Memory that NCCL's collectives read and write without copies: from its own allocator, and
 * registered. It has no IPC handle of the old kind, so that it serves NCCL alone: what the node
 * comm's peers map comes from the device's allocator instead. */
#ifndef ZERO1__NCCL_MEMORY_H
#define ZERO1__NCCL_MEMORY_H

#include "nccl_link.h"

typedef struct zero1__nccl_memory {
  void *base; /* on a page; NULL: none */
  size_t bytes;
  void *buffer; /* NCCL's registration, or NULL */
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  ncclWindow_t window; /* or NULL */
#endif
} zero1__nccl_memory;

/** On the thread's current device; zeroed by what it enqueues in `stream`. 0 bytes give none.
 *  ZERO1_ERR_MEMORY: says what was asked for, and what is free. */
zero1_status zero1__nccl_memory_alloc(zero1__nccl_memory *memory, size_t bytes, cudaStream_t stream,
                                      zero1__error *error);

/** Collective over the link: the same bytes on every rank. version: of the NCCL that runs. */
zero1_status zero1__nccl_memory_register(zero1__nccl_memory *memory, zero1__nccl_link *link,
                                         int32_t version, zero1__error *error);

/** Before the link is closed, and after. The streams are idle. */
void zero1__nccl_memory_deregister(zero1__nccl_memory *memory, zero1__nccl_link *link);
void zero1__nccl_memory_free(zero1__nccl_memory *memory);

#endif
