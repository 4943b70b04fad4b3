#include "node.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

#define LANE_BYTES 1024
#define REASON_BYTES 200
#define PARTING_NS ((int64_t)1000000000)

/* One writer, the rank itself; the peers read. Two slots for the lane: a rank can be one all-gather
 * ahead of a peer that still reads the last one, and no more, for it waits for that peer's next. */
struct zero1__station {
  zero1__flag closed, aborted;
  int32_t reason_status; /* this and the next: written before aborted is posted */
  char reason[REASON_BYTES];
  zero1__flag lane_posted;
  unsigned char slots[2][LANE_BYTES];
  zero1__flag flags[];
};

static zero1__station *station_of(const zero1__node *node, int32_t peer) {
  return node->mappings[peer].base;
}

/* ---- who is alive ---- */

void zero1__identity_of_this(zero1__identity *identity) {
  char boot[40] = "";
  char space[40] = "";
  memset(identity, 0, sizeof *identity);
  FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
  if (file) {
    if (!fgets(boot, sizeof boot, file)) boot[0] = 0;
    fclose(file);
  }
  boot[strcspn(boot, "\n")] = 0;
  if (readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0) space[0] = 0;
  snprintf(identity->machine, sizeof identity->machine, "%.36s %.24s", boot, space);
  identity->pid = getpid();
}

zero1_status zero1__watch_create(const zero1__identity *identities, int32_t size, int32_t own,
                                 zero1__watch **out, zero1__error *error) {
  *out = NULL;
  zero1__watch *watch = calloc(1, sizeof *watch);
  int *pidfds = calloc((size_t)size, sizeof *pidfds);
  if (!watch || !pidfds) {
    free(watch);
    free(pidfds);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to watch %d ranks", size);
  }
  watch->size = size;
  watch->pidfds = pidfds;
  for (int32_t i = 0; i < size; ++i) { /* an old kernel has no pidfds: then the timeout must do */
    const int here = !strcmp(identities[i].machine, identities[own].machine);
    pidfds[i] = i == own || !here ? -1 : (int)syscall(SYS_pidfd_open, (pid_t)identities[i].pid, 0);
  }
  *out = watch;
  return ZERO1_OK;
}

void zero1__watch_destroy(zero1__watch *watch) {
  if (!watch) return;
  for (int32_t i = 0; i < watch->size; ++i)
    if (watch->pidfds[i] >= 0) close(watch->pidfds[i]);
  free(watch->pidfds);
  free(watch);
}

int zero1__watch_is_dead(const zero1__watch *watch, int32_t peer) {
  if (!watch || watch->pidfds[peer] < 0) return 0;
  struct pollfd poll_for = {.fd = watch->pidfds[peer], .events = POLLIN};
  return poll(&poll_for, 1, 0) == 1;
}

/* ---- opening and closing ---- */

static zero1__node *node_alloc(const zero1__node_shape *shape, int32_t rank, double timeout) {
  zero1__node *node = calloc(1, sizeof *node);
  zero1__mapping *mappings = calloc((size_t)shape->size, sizeof *mappings);
  if (!node || !mappings) {
    free(node);
    free(mappings);
    return NULL;
  }
  node->shape = *shape;
  node->rank = rank;
  node->timeout_seconds = timeout;
  node->mappings = mappings;
  return node;
}

static size_t station_bytes(int64_t flag_count) {
  return sizeof(zero1__station) + (size_t)flag_count * sizeof(zero1__flag);
}

zero1_status zero1__node_open(zero1__lane *lane, const zero1__node_shape *shape,
                              const zero1__watch *watch, int64_t flag_count, double timeout_seconds,
                              zero1__node **out, zero1__error *error) {
  *out = NULL;
  zero1__node *node = node_alloc(shape, lane->comm->rank - shape->rank_begin, timeout_seconds);
  zero1_status status =
      node ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a node");
  status = zero1__lane_agree(lane, status, error);
  if (!status)
    status = zero1__mapping_share(lane, shape, station_bytes(flag_count), node->mappings, error);
  if (status) {
    if (node) free(node->mappings);
    free(node);
    return status;
  }
  node->watch = watch;
  node->flag_count = flag_count;
  *out = node;
  return ZERO1_OK;
}

zero1_status zero1__node_open_threads(int32_t size, double timeout_seconds, zero1__node **nodes,
                                      zero1__error *error) {
  const zero1__node_shape shape = {.threads = 1, .rank_begin = 0, .size = size};
  zero1__mapping_key *keys = calloc((size_t)size, sizeof *keys);
  zero1_status status = keys ? ZERO1_OK : ZERO1_ERR_MEMORY;
  for (int32_t i = 0; i < size; ++i) {
    nodes[i] = status ? NULL : node_alloc(&shape, i, timeout_seconds);
    if (!status && !nodes[i]) status = ZERO1_ERR_MEMORY;
    if (!status)
      status = zero1__mapping_create(1, station_bytes(0), &nodes[i]->mappings[i], &keys[i], error);
  }
  for (int32_t i = 0; i < size && !status; ++i)
    for (int32_t j = 0; j < size && !status; ++j)
      if (j != i) status = zero1__mapping_open(&keys[j], &nodes[i]->mappings[j], error);
  free(keys);
  if (!status) return ZERO1_OK;
  for (int32_t i = 0; i < size; ++i) {
    zero1__node_close(nodes[i]);
    nodes[i] = NULL;
  }
  return zero1__fail(error, status, "no memory for %d ranks", size);
}

void zero1__node_leave(zero1__node *node) {
  zero1__station *own = station_of(node, node->rank);
  if (own) zero1__flag_post(&own->closed, 1);
}

int zero1__node_has_left(const zero1__node *node, int32_t peer) {
  return zero1__flag_reached(&station_of(node, peer)->closed, 1);
}

void zero1__node_close(zero1__node *node) {
  if (!node) return;
  zero1__node_leave(node);
  for (int32_t i = 0; i < node->shape.size; ++i) zero1__mapping_close(&node->mappings[i]);
  free(node->mappings);
  free(node);
}

void zero1__node_abort(zero1__node *node, const zero1__error *why) {
  zero1__station *own = station_of(node, node->rank);
  if (atomic_exchange(&node->aborting, 1)) return;
  own->reason_status = why->status;
  snprintf(own->reason, sizeof own->reason, "%.*s", REASON_BYTES - 1, why->text);
  zero1__flag_post(&own->aborted, 1);
}

/* ---- flags ---- */

void zero1__node_post(zero1__node *node, int64_t flag, uint32_t value) {
  zero1__flag_post(&station_of(node, node->rank)->flags[flag], value);
}

int zero1__node_has_posted(const zero1__node *node, int32_t peer, int64_t flag, uint32_t value) {
  return zero1__flag_reached(&station_of(node, peer)->flags[flag], value);
}

/* The first peer that ended without a word; -1: none. */
static int32_t dead_peer(const zero1__node *node) {
  for (int32_t i = 0; i < node->shape.size; ++i) /* who knew of its end has closed or told why */
    if (zero1__watch_is_dead(node->watch, i) &&
        !zero1__flag_reached(&station_of(node, i)->closed, 1) &&
        !zero1__flag_reached(&station_of(node, i)->aborted, 1))
      return i;
  return -1;
}

/* This rank's own abort, which may be what it has heard from a peer, before others'. */
static zero1_status aborted(const zero1__node *node, zero1__error *error) {
  zero1__station *own = station_of(node, node->rank);
  if (zero1__flag_reached(&own->aborted, 1))
    return zero1__fail(error, own->reason_status, "%s%.*s",
                       strncmp(own->reason, "aborted", 7) ? "" : "this rank ", REASON_BYTES,
                       own->reason);
  for (int32_t i = 0; i < node->shape.size; ++i) {
    zero1__station *other = station_of(node, i);
    if (zero1__flag_reached(&other->aborted, 1))
      return zero1__fail(error, other->reason_status, "rank %d%s %.*s", node->shape.rank_begin + i,
                         strncmp(other->reason, "aborted", 7) ? ":" : "", REASON_BYTES,
                         other->reason);
  }
  return ZERO1_OK;
}

zero1_status zero1__node_look(const zero1__node *node, zero1__error *error) {
  const zero1_status status = aborted(node, error);
  if (status) return status;
  const int32_t dead = dead_peer(node);
  return dead < 0
             ? ZERO1_OK
             : zero1__fail(error, ZERO1_ERR_PEER, "rank %d died", node->shape.rank_begin + dead);
}

/* Why no more can come from a peer, or ZERO1_OK. */
static zero1_status lost(const zero1__node *node, int32_t peer, const char *what,
                         zero1__error *error) {
  const int32_t begin = node->shape.rank_begin;
  const zero1_status status = aborted(node, error);
  if (status) return status;
  const int32_t dead = dead_peer(node);
  if (dead >= 0)
    return zero1__fail(error, ZERO1_ERR_PEER, "rank %d died while this rank waited for %s",
                       begin + dead, what);
  if (zero1__node_has_left(node, peer))
    return zero1__fail(error, ZERO1_ERR_PEER,
                       "rank %d closed its end while this rank waited for %s", begin + peer, what);
  return ZERO1_OK;
}

static zero1_status wait_for(zero1__node *node, int32_t peer, zero1__flag *flag, uint32_t value,
                             const char *what, zero1__error *error) {
  int64_t end = 0;
  while (!zero1__flag_wait(flag, value, ZERO1__LOOK_NS)) {
    const int64_t now = zero1__now_ns();
    if (!end) end = now + zero1__seconds_ns(node->timeout_seconds) - ZERO1__LOOK_NS;
    const zero1_status status = lost(node, peer, what, error);
    if (status) {
      if (zero1__flag_reached(flag, value)) { /* it came all the same, just before the end */
        zero1__error_clear(error);
        return ZERO1_OK;
      }
      return status;
    }
    if (now >= end)
      return zero1__fail(error, ZERO1_ERR_TIMEOUT,
                         "rank %d did not come within %g s: waited for %s",
                         node->shape.rank_begin + peer, node->timeout_seconds, what);
  }
  return ZERO1_OK;
}

zero1_status zero1__node_wait(zero1__node *node, int32_t peer, int64_t flag, uint32_t value,
                              const char *what, zero1__error *error) {
  return wait_for(node, peer, &station_of(node, peer)->flags[flag], value, what, error);
}

void zero1__node_part(zero1__node *node, int64_t flag) {
  int64_t end = zero1__now_ns() + zero1__seconds_ns(node->timeout_seconds);
  for (int32_t i = 0; i < node->shape.size; ++i)
    while (!zero1__flag_wait(&station_of(node, i)->flags[flag], 1, ZERO1__LOOK_NS)) {
      const int64_t now = zero1__now_ns();
      if (zero1__node_look(node, NULL) && end > now + PARTING_NS) end = now + PARTING_NS;
      if (zero1__watch_is_dead(node->watch, i) || now >= end) break;
    }
}

/* ---- the lane ---- */

/* out may be NULL with bytes 0. */
static zero1_status gather_piece(zero1__node *node, const unsigned char *in, unsigned char *out,
                                 size_t stride, size_t bytes, zero1__error *error) {
  const uint32_t epoch = ++node->lane_epoch;
  zero1__station *own = station_of(node, node->rank);
  if (bytes) memcpy(own->slots[epoch % 2], in, bytes);
  zero1__flag_post(&own->lane_posted, epoch);
  for (int32_t i = 0; i < node->shape.size; ++i) {
    zero1__station *station = station_of(node, i);
    const zero1_status status =
        wait_for(node, i, &station->lane_posted, epoch, "an agreement", error);
    if (status) return status;
    if (bytes) memcpy(out + (size_t)i * stride, station->slots[epoch % 2], bytes);
  }
  return ZERO1_OK;
}

zero1_status zero1__node_barrier(zero1__node *node, zero1__error *error) {
  return gather_piece(node, NULL, NULL, 0, 0, error);
}

zero1_status zero1__node_all_gather(zero1__node *node, const void *in, void *out, size_t bytes,
                                    zero1__error *error) {
  zero1_status status = ZERO1_OK;
  for (size_t begin = 0; begin < bytes && !status; begin += LANE_BYTES) {
    const size_t left = bytes - begin;
    status = gather_piece(node, (const unsigned char *)in + begin, (unsigned char *)out + begin,
                          bytes, left < LANE_BYTES ? left : LANE_BYTES, error);
  }
  return status;
}
