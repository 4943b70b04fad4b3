/* Delays at the schedule's hand-overs, and waits taken out of them, without code in the library:
 * the linker leads calls between its files here first (`// wrap:` in test_handover.c, ld --wrap).
 * Included by that file alone.
 *
 * Nothing in here orders threads once training has begun: ThreadSanitizer must see the library's
 * own hand-overs and no others. */
#ifndef ZERO1_TESTS_HANDOVER_HOOKS_H
#define ZERO1_TESTS_HANDOVER_HOOKS_H

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "flag.h"
#include "node_buffers.h"
#include "optimizer.h"
#include "pool.h"
#include "stream_host.h"
#include "wire_comm.h"

/* What is slow, on the ranks of a mask. */
enum { SLOW_COMPUTE = 1, SLOW_COMM = 2, SLOW_CALLER = 4, SLOW_BROADCAST = 8 };

typedef struct hooks_plan {
  uint64_t seed;       /* of random delays everywhere; 0: none */
  const char *removed; /* the wait that is taken out; NULL: none */
  int slow, slow_ranks;
  int32_t times; /* as slow as usual */
} hooks_plan;

static hooks_plan hooks; /* written before the ranks begin */
static atomic_int hooks_armed, hooks_removals;
static int32_t hooks_world;
static _Thread_local const char *hooks_call = ""; /* what this thread is in the middle of */

static inline void sleep_us(int64_t us) {
  const struct timespec time = {us / 1000000, us % 1000000 * 1000};
  nanosleep(&time, NULL);
}

/* ---- random delays ---- */

static atomic_uint hooks_threads;

static uint64_t next_random(void) {
  static _Thread_local uint64_t state;
  if (!state)
    state = (hooks.seed + atomic_fetch_add_explicit(&hooks_threads, 1, memory_order_relaxed)) *
                0x9e3779b97f4a7c15 |
            1;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 0x2545f4914f6cdd1d >> 20;
}

/* Every other hand-over is late by up to 2 ms, in the mean by less; one in 256 by 10 ms. */
static int64_t random_delay_us(void) {
  if (!hooks.seed) return 0;
  const uint64_t random = next_random();
  if (random % 256 == 1) return 10000;
  if (random % 2) return 0;
  return (int64_t)(random >> 8) % 2000 >> (random >> 24) % 4;
}

static void delay(void) {
  const int64_t us = random_delay_us();
  if (us) sleep_us(us);
}

/* ---- names of streams and events ---- */

typedef struct known {
  const void *handle;
  const char *name;
  int32_t rank;
} known;

static known hooks_known[2048]; /* written before the hooks are armed */
static atomic_int hooks_known_count;

static void know(const void *handle, const char *name, int32_t rank) {
  const int at = atomic_fetch_add(&hooks_known_count, 1);
  CHECK(at < (int)(sizeof hooks_known / sizeof *hooks_known));
  hooks_known[at] = (known){handle, name, rank};
}

static int is_armed(void) {
  return hooks.removed && atomic_load(&hooks_armed) == hooks_world;
}

static known find_known(const void *handle) {
  if (is_armed())
    for (int i = 0; i < atomic_load(&hooks_known_count); ++i)
      if (hooks_known[i].handle == handle) return hooks_known[i];
  return (known){handle, "", -1};
}

static int is_slow(int what, int32_t rank) {
  return is_armed() && rank >= 0 && hooks.slow & what && hooks.slow_ranks >> rank & 1;
}

static void slow_caller(int32_t rank) {
  if (is_slow(SLOW_CALLER, rank)) sleep_us(30000 * hooks.times);
}

/* Whether the wait "<kind> <name>" is the one to be taken out. */
static int is_removed(const char *kind, const char *name) {
  char both[64];
  if (!is_armed()) return 0;
  snprintf(both, sizeof both, "%s%s%s", kind, *name ? " " : "", name);
  if (strcmp(both, hooks.removed)) return 0;
  atomic_fetch_add_explicit(&hooks_removals, 1, memory_order_relaxed);
  return 1;
}

/* ---- the calls ---- */

#define WRAP(result, name, ...)      \
  result __real_##name(__VA_ARGS__); \
  result __wrap_##name(__VA_ARGS__); \
  result __wrap_##name(__VA_ARGS__)

WRAP(void, zero1__flag_post, zero1__flag *flag, uint32_t value) {
  delay();
  __real_zero1__flag_post(flag, value);
}

WRAP(int, zero1__flag_wait, zero1__flag *flag, uint32_t value, int64_t timeout_ns) {
  if (is_removed(hooks_call, "flag")) return 1;
  delay();
  return __real_zero1__flag_wait(flag, value, timeout_ns);
}

static void sleep_task(void *context, const void *args) {
  int64_t us;
  (void)context;
  memcpy(&us, args, sizeof us);
  sleep_us(us);
}

void __real_zero1__stream_push(zero1__stream *stream, zero1__host_fn fn, void *context,
                               const void *args, size_t args_bytes);

/* Holds the stream itself up, not who fills it. */
static void delay_stream(zero1__stream *stream) {
  const known at = find_known(stream);
  int64_t us = random_delay_us();
  if (is_slow(SLOW_COMPUTE, at.rank) && !strcmp(at.name, "compute")) us = 4000 * hooks.times;
  if (is_slow(SLOW_COMM, at.rank) && !strcmp(at.name, "comm")) us = 4000 * hooks.times;
  if (us) __real_zero1__stream_push(stream, sleep_task, NULL, &us, sizeof us);
}

WRAP(void, zero1__stream_push, zero1__stream *stream, zero1__host_fn fn, void *context,
     const void *args, size_t args_bytes) {
  delay();
  if (fn) delay_stream(stream);
  __real_zero1__stream_push(stream, fn, context, args, args_bytes);
}

WRAP(void, zero1__stream_wait, zero1__stream *stream, zero1__event *event) {
  if (is_removed("wait", find_known(event).name)) return;
  delay();
  delay_stream(stream);
  __real_zero1__stream_wait(stream, event);
}

WRAP(void, zero1__event_record, zero1__event *event, zero1__stream *stream) {
  delay_stream(stream);
  __real_zero1__event_record(event, stream);
}

WRAP(void, zero1__event_sync, zero1__event *event) {
  const char *const name = find_known(event).name;
  if (is_removed("sync", name) || (*hooks_call && is_removed(hooks_call, name))) return;
  delay();
  __real_zero1__event_sync(event);
}

WRAP(zero1_status, zero1__node_arrive, zero1__node_buffers *buffers, int64_t bucket, uint32_t epoch,
     zero1__error *error) {
  if (is_removed("arrive", "")) return ZERO1_OK;
  delay();
  return __real_zero1__node_arrive(buffers, bucket, epoch, error);
}

WRAP(zero1_status, zero1__node_await, zero1__node_buffers *buffers, int32_t peer, int64_t bucket,
     uint32_t epoch, zero1__error *error) {
  if (is_removed("await", "")) return ZERO1_OK;
  delay();
  return __real_zero1__node_await(buffers, peer, bucket, epoch, error);
}

WRAP(zero1_status, zero1__node_all_gather, zero1__node *node, const void *in, void *out,
     size_t bytes, zero1__error *error) {
  const char *const before = hooks_call;
  delay();
  hooks_call = "lane";
  const zero1_status status = __real_zero1__node_all_gather(node, in, out, bytes, error);
  hooks_call = before;
  return status;
}

/* A broadcast in a node has two: the root has written; the root may write again. */
static _Thread_local int hooks_barriers;

WRAP(zero1_status, zero1__node_barrier, zero1__node *node, zero1__error *error) {
  const char *const number = ++hooks_barriers == 1 ? "1" : "2";
  if (is_removed("barrier", number)) return ZERO1_OK;
  delay();
  const zero1_status status = __real_zero1__node_barrier(node, error);
  if (is_slow(SLOW_BROADCAST, node->rank)) sleep_us(30000 * hooks.times);
  return status;
}

WRAP(zero1_status, zero1__node_broadcast, zero1__node_buffers *buffers, int32_t root,
     zero1__error *error) {
  hooks_barriers = 0;
  if (is_slow(SLOW_BROADCAST, buffers->node->rank)) sleep_us(30000 * hooks.times);
  return __real_zero1__node_broadcast(buffers, root, error);
}

WRAP(zero1_status, zero1__wire_broadcast, zero1__wire_channel *channel, zero1__peers peers,
     int32_t root, zero1__error *error) {
  if (is_slow(SLOW_BROADCAST, channel->base.comm->rank)) sleep_us(30000 * hooks.times);
  return __real_zero1__wire_broadcast(channel, peers, root, error);
}

/* Bundles wait here too. A wait that is taken out leaves its messages on their way. */
WRAP(zero1_status, zero1__port_wait, const zero1__port *port, zero1__request *requests,
     int64_t count, const char *what, zero1__error *error) {
  if (is_removed("messages", what)) return ZERO1_OK;
  delay();
  return __real_zero1__port_wait(port, requests, count, what, error);
}

WRAP(void, zero1__pool_run, zero1__pool *pool, zero1__pool_fn fn, void *context) {
  const char *const before = hooks_call;
  hooks_call = "pool";
  __real_zero1__pool_run(pool, fn, context);
  hooks_call = before;
}

/* ---- the wait of a lane over wires: inside wire.c, so taken out below, in the carrier ---- */

static const zero1__wire_ops *hooks_carrier;
static zero1__wire_ops hooks_wire_ops;
static pthread_mutex_t hooks_mutex = PTHREAD_MUTEX_INITIALIZER;

static void mark_lane(int32_t tag, zero1__request *request) {
  if (tag % ZERO1__TAGS == ZERO1__TAG_LANE) request->word[1] = 1; /* which the carrier leaves */
}

static zero1_status send_marked(zero1__wire *wire, const void *data, size_t bytes, int32_t peer,
                                int32_t tag, zero1__request *request, zero1__error *error) {
  mark_lane(tag, request);
  return hooks_carrier->send(wire, data, bytes, peer, tag, request, error);
}

static zero1_status recv_marked(zero1__wire *wire, void *data, size_t bytes, int32_t peer,
                                int32_t tag, zero1__request *request, zero1__error *error) {
  mark_lane(tag, request);
  return hooks_carrier->recv(wire, data, bytes, peer, tag, request, error);
}

static zero1_status test_marked(zero1__wire *wire, zero1__request *request, zero1__error *error) {
  if (request->word[1] && is_removed("lane", "message")) {
    request->active = 0;
    return ZERO1_OK;
  }
  return hooks_carrier->test(wire, request, error);
}

/* ---- a rank's optimizer becomes known ---- */

static void know_events(zero1__event **events, const char *name, int32_t rank) {
  for (int64_t i = 0; events[i]; ++i) know(events[i], name, rank);
}

static void hooks_know(zero1_comm *comm, zero1_optimizer *optimizer) {
  const zero1__schedule *const schedule = &optimizer->schedule;
  const int32_t rank = zero1_comm_rank(comm);
  if (!hooks.removed) return;
  know(schedule->compute, "compute", rank);
  if (schedule->comm != schedule->compute) know(schedule->comm, "comm", rank);
  know_events(schedule->updated, "updated", rank);
  know_events(schedule->gathered, "gathered", rank);
  know_events(schedule->arrived, "arrived", rank);
  know_events(schedule->made, "made", rank);
  know_events(schedule->freed, "freed", rank);
  know(schedule->encoded, "encoded", rank);
  know(schedule->offered, "offered", rank);
  know(schedule->reduced, "reduced", rank);
  know(schedule->agreed, "agreed", rank);
  know(schedule->finished, "finished", rank);
}

/* Before anything else is done with a comm. */
static void hooks_on_wire(zero1_comm *comm) {
  const char *const backend = zero1_comm_backend(comm);
  if (!hooks.removed || (strcmp(backend, "exchange") && strcmp(backend, "hierarchical"))) return;
  zero1__wire *const wire = ((zero1__wire_comm *)comm)->wire;
  pthread_mutex_lock(&hooks_mutex);
  if (!hooks_carrier) {
    hooks_carrier = wire->ops;
    hooks_wire_ops = *hooks_carrier;
    hooks_wire_ops.send = send_marked;
    hooks_wire_ops.recv = recv_marked;
    hooks_wire_ops.test = test_marked;
  }
  wire->ops = &hooks_wire_ops;
  pthread_mutex_unlock(&hooks_mutex);
}

/* Called by every rank: the wait is taken out once all have. */
static void hooks_arm(void) {
  atomic_fetch_add(&hooks_armed, 1);
}

#endif
