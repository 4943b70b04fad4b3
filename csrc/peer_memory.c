#include "peer_memory.h"

#include <stdlib.h>
#include <string.h>

/* Of the node. */
enum {
  LAST,     /* what a rank that closes had come to */
  RELEASED, /* 1: this rank has unmapped its peers' memory */
  FLAGS
};

static int32_t size_of(const zero1__peer_memory *memory) {
  return memory->config.shape.size;
}

/* 0: 0. 1 byte: 2 MiB. Threads see all memory of their process as it is. */
static void round_up(zero1__peer_memory_config *config) {
  if (config->shape.threads || config->shape.size == 1) return;
  for (int part = 0; part < ZERO1__PEER_PARTS; ++part)
    config->bytes[part] =
        (config->bytes[part] + ZERO1__SHARED_BYTES - 1) / ZERO1__SHARED_BYTES * ZERO1__SHARED_BYTES;
}

static zero1_status give(zero1__peer_memory *memory, int32_t own, zero1__error *error) {
  zero1__device *device = memory->config.device;
  for (int part = 0; part < ZERO1__PEER_PARTS; ++part) {
    const size_t bytes = memory->config.bytes[part];
    const int32_t at = part * size_of(memory) + own;
    if (!bytes) continue;
    zero1_status status = device->ops->memory_alloc(device, bytes, &memory->bases[at], error);
    if (!status)
      status =
          device->ops->memory_share(device, memory->bases[at], bytes, &memory->keys[at], error);
    if (status) return status;
  }
  return ZERO1_OK;
}

typedef struct offer {
  zero1__memory_key keys[ZERO1__PEER_PARTS];
  uint64_t users; /* threads: address of the counter of the node's first rank */
} offer;

/* For threads, made by the node's first rank. */
static zero1_status make_counter(const zero1__peer_memory *memory, int32_t own, atomic_int **users,
                                 zero1__error *error) {
  *users = NULL;
  if (!memory->config.shape.threads || own != 0) return ZERO1_OK;
  *users = malloc(sizeof **users);
  if (!*users) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a node");
  atomic_init(*users, size_of(memory));
  return ZERO1_OK;
}

static void take_offers(zero1__peer_memory *memory, const offer *all) {
  const int32_t size = size_of(memory), begin = memory->config.shape.rank_begin;
  for (int32_t peer = 0; peer < size; ++peer)
    for (int part = 0; part < ZERO1__PEER_PARTS; ++part)
      memory->keys[part * size + peer] = all[begin + peer].keys[part];
  memory->users = (atomic_int *)(uintptr_t)all[begin].users;
}

static zero1_status exchange_keys(zero1__lane *lane, zero1__peer_memory *memory, int32_t own,
                                  zero1__error *error) {
  const int32_t world = lane->comm->world_size, size = size_of(memory);
  offer mine;
  atomic_int *users;
  offer *all = calloc((size_t)world, sizeof *all);
  zero1_status status = make_counter(memory, own, &users, error);
  if (!all) status = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world);
  for (int part = 0; part < ZERO1__PEER_PARTS; ++part)
    mine.keys[part] = memory->keys[part * size + own];
  mine.users = (uint64_t)(uintptr_t)users;
  status = zero1__lane_agree(lane, status, error);
  if (!status) status = zero1__lane_gather(lane, &mine, all, sizeof mine, error);
  if (status)
    free(users);
  else
    take_offers(memory, all);
  free(all);
  return status;
}

static zero1_status take(zero1__peer_memory *memory, int32_t own, zero1__error *error) {
  zero1__device *device = memory->config.device;
  const int32_t begin = memory->config.shape.rank_begin;
  for (int32_t i = 0; i < ZERO1__PEER_PARTS * size_of(memory); ++i) {
    const int32_t peer = i % size_of(memory);
    zero1__error why;
    if (peer == own || !memory->config.bytes[i / size_of(memory)]) continue;
    zero1__error_clear(&why);
    const zero1_status status =
        device->ops->memory_map(device, &memory->keys[i], &memory->bases[i], &why);
    if (status)
      return zero1__fail(error, status, "rank %d cannot reach the memory of rank %d: %s",
                         begin + own, begin + peer, why.text);
  }
  return ZERO1_OK;
}

zero1_status zero1__peer_memory_open(zero1__lane *lane, const zero1__peer_memory_config *config,
                                     zero1__peer_memory *memory, zero1__error *error) {
  const size_t count = ZERO1__PEER_PARTS * (size_t)config->shape.size;
  const int32_t own = lane->comm->rank - config->shape.rank_begin;
  memory->config = *config;
  round_up(&memory->config);
  memory->bases = calloc(count, sizeof *memory->bases);
  memory->keys = calloc(count, sizeof *memory->keys);
  zero1_status status = memory->bases && memory->keys
                            ? ZERO1_OK
                            : zero1__fail(error, ZERO1_ERR_MEMORY,
                                          "no memory for a node of %d ranks", config->shape.size);
  status = zero1__lane_agree(lane, status, error);
  if (!status)
    status = zero1__node_open(lane, &config->shape, config->watch, FLAGS, config->timeout_seconds,
                              &memory->node, error);
  if (!status) status = zero1__lane_agree(lane, give(memory, own, error), error);
  if (!status) status = exchange_keys(lane, memory, own, error);
  if (!status) status = zero1__lane_agree(lane, take(memory, own, error), error);
  return status;
}

/* ---- the end ---- */

static void unmap(zero1__peer_memory *memory, int32_t peer) {
  zero1__device *device = memory->config.device;
  for (int part = 0; part < ZERO1__PEER_PARTS; ++part) {
    const int32_t at = part * size_of(memory) + peer;
    if (memory->bases[at]) device->ops->memory_unmap(device, &memory->keys[at], memory->bases[at]);
    memory->bases[at] = NULL;
  }
}

/* A dead peer's memory goes first: it is this process that keeps it alive. */
static void unmap_peers(zero1__peer_memory *memory) {
  const int32_t own = memory->node->rank;
  for (int32_t peer = 0; peer < size_of(memory); ++peer)
    if (peer != own && zero1__watch_is_dead(memory->config.watch, peer)) unmap(memory, peer);
  for (int32_t peer = 0; peer < size_of(memory); ++peer)
    if (peer != own) unmap(memory, peer);
}

static void free_of(zero1__peer_memory *memory, int32_t peer) {
  zero1__device *device = memory->config.device;
  for (int part = 0; part < ZERO1__PEER_PARTS; ++part)
    device->ops->memory_free(device, zero1__peer_memory_at(memory, part, peer),
                             memory->config.bytes[part]);
}

/* A thread's addresses are its peers', too. */
static void close_of_threads(zero1__peer_memory *memory) {
  if (atomic_fetch_sub(memory->users, 1) > 1) return;
  for (int part = 0; part < ZERO1__PEER_PARTS; ++part)
    for (int32_t peer = 0; peer < size_of(memory); ++peer) {
      const int32_t at = part * size_of(memory) + peer;
      memory->bases[at] = (void *)(uintptr_t)memory->keys[at].address;
    }
  for (int32_t peer = 0; peer < size_of(memory); ++peer) free_of(memory, peer);
  free(memory->users);
}

static void close_of_processes(zero1__peer_memory *memory) {
  unmap_peers(memory);
  zero1__node_post(memory->node, RELEASED, 1);
  zero1__node_part(memory->node, RELEASED);
  free_of(memory, memory->node->rank);
}

void zero1__peer_memory_close(zero1__peer_memory *memory) {
  if (memory->node) {
    zero1__node_leave(memory->node);
    if (memory->users)
      close_of_threads(memory);
    else
      close_of_processes(memory);
    zero1__node_close(memory->node);
  }
  free(memory->bases);
  free(memory->keys);
  memset(memory, 0, sizeof *memory);
}

/* ---- who has left ---- */

/* One that aborted, or died, says more than one that merely closed. */
zero1_status zero1__peer_memory_refuse(const zero1__peer_memory *memory, zero1__error *error) {
  const zero1_status status = zero1__node_look(memory->node, error);
  if (status) return status;
  for (int32_t peer = 0; peer < size_of(memory); ++peer)
    if (zero1__node_has_left(memory->node, peer))
      return zero1__fail(error, ZERO1_ERR_PEER, "rank %d closed its end",
                         memory->config.shape.rank_begin + peer);
  return ZERO1_OK;
}

void zero1__peer_memory_leave(zero1__peer_memory *memory, uint32_t last) {
  zero1__node_post(memory->node, LAST, last);
}

zero1_status zero1__peer_memory_left_behind(const zero1__peer_memory *memory, uint32_t own,
                                            zero1__error *error) {
  for (int32_t peer = 0; peer < size_of(memory); ++peer)
    if (zero1__node_has_left(memory->node, peer) &&
        !zero1__node_has_posted(memory->node, peer, LAST, own))
      return zero1__fail(error, ZERO1_ERR_PEER,
                         "rank %d closed its end while this rank was in a step",
                         memory->config.shape.rank_begin + peer);
  return ZERO1_OK;
}

/* ---- tables ---- */

zero1_status zero1__peer_memory_table(const zero1__peer_memory *memory, int part, size_t offset,
                                      void *last, void **table, zero1__error *error) {
  zero1__device *device = memory->config.device;
  const int32_t size = size_of(memory);
  const size_t bytes = zero1__peer_memory_table_bytes(size);
  void **addresses = malloc(bytes);
  zero1_status status = addresses ? device->ops->memory_alloc(device, bytes, table, error)
                                  : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a table");
  if (!status) {
    for (int32_t peer = 0; peer < size; ++peer) {
      char *base = zero1__peer_memory_at(memory, part, peer);
      addresses[peer] = base ? base + offset : NULL;
    }
    addresses[size] = last;
    device->ops->transfer(device, *table, addresses, bytes);
  }
  free(addresses);
  return status;
}
