#include "wire.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "clock.h"

/* Looks in a row without a sleep, and then the sleeps: short against a message of some 100 KiB at
 * 10 Gbit/s, long against a look. Who has waited for longer sleeps for a quarter of that: its
 * message is slow, and each look takes time of a core from what computes meanwhile. */
#define LOOKS 10
#define LEAST_SLEEP_NS 50000
#define MOST_SLEEP_NS 200000
/* Looks for what a dead peer had to say. */
#define TRIES 5

zero1__port zero1__port_open(zero1__wire *wire, double timeout_seconds, const zero1__watch *watch) {
  const zero1__port port = {wire, wire->next_port, timeout_seconds, watch, NULL};
  wire->next_port = (wire->next_port + 1) % wire->port_count;
  return port;
}

static int32_t tag_of(const zero1__port *port, int32_t tag) {
  return port->number * ZERO1__TAGS + tag;
}

zero1_status zero1__port_send(const zero1__port *port, const void *data, size_t bytes, int32_t peer,
                              int32_t tag, zero1__request *request, zero1__error *error) {
  return port->wire->ops->send(port->wire, data, bytes, peer, tag_of(port, tag), request, error);
}

zero1_status zero1__port_recv(const zero1__port *port, void *data, size_t bytes, int32_t peer,
                              int32_t tag, zero1__request *request, zero1__error *error) {
  return port->wire->ops->recv(port->wire, data, bytes, peer, tag_of(port, tag), request, error);
}

/* One look at every request. */
static zero1_status look(const zero1__port *port, zero1__request *requests, int64_t count,
                         int64_t *active, zero1__error *error) {
  *active = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!requests[i].active) continue;
    const zero1_status status = port->wire->ops->test(port->wire, &requests[i], error);
    if (status) return status;
    *active += requests[i].active;
  }
  return ZERO1_OK;
}

/* What an aborting peer has sent, as an error of this rank. */
static zero1_status notice(const zero1__port *port, zero1__error *error) {
  zero1__error why;
  const int32_t rank = port->wire->ops->aborted(port->wire, tag_of(port, ZERO1__TAG_ABORT), &why);
  if (rank < 0) return ZERO1_OK;
  return zero1__fail(error, why.status, "rank %d%s %.350s", rank,
                     strncmp(why.text, "aborted", 7) ? ":" : "", why.text);
}

static int32_t first_dead(const zero1__port *port) {
  for (int32_t i = 0; i < port->wire->world_size; ++i)
    if (zero1__watch_is_dead(port->watch, i)) return i;
  return -1;
}

/* Whether anything tells that waiting is in vain. A process may also have ended because it knew of
 * a loss before this rank did: what it had to say about it is looked for before it is blamed. */
static zero1_status care(const zero1__port *port, const char *what, zero1__error *error) {
  const struct timespec moment = {0, ZERO1__LOOK_NS / TRIES};
  if (port->stop && atomic_load(port->stop))
    return zero1__fail(error, ZERO1_ERR_ABORTED, "this rank aborted");
  zero1_status status = notice(port, error);
  const int32_t dead = status ? -1 : first_dead(port);
  for (int i = 0; i < TRIES && dead >= 0 && !status; ++i) {
    nanosleep(&moment, NULL);
    status = notice(port, error);
  }
  if (status || dead < 0) return status;
  return zero1__fail(error, ZERO1_ERR_PEER, "rank %d died while this rank waited for %s", dead,
                     what);
}

/* ---- who waits for whom ----
 *
 * Rank 2 waits for rank 0, which waits for rank 1, which is gone. Both have waited for as long; so
 * that both name rank 1, who has waited for half of the timeout tells the others whom it waits for.
 */

static int32_t awaited_peer(const zero1__request *requests, int64_t count) {
  int64_t first = 0;
  while (first < count && !requests[first].active) ++first;
  return first < count ? requests[first].peer : -1;
}

static void tell(const zero1__port *port, int32_t awaited) {
  zero1__wire *wire = port->wire;
  if (!wire->awaited) return;
  atomic_store(&wire->awaited[wire->rank], awaited);
  wire->ops->tell(wire, awaited);
}

/* This rank goes on, after this wait or one before it that failed. */
static void take_back(const zero1__port *port) {
  zero1__wire *wire = port->wire;
  if (wire->awaited && atomic_exchange(&wire->awaited[wire->rank], -1) >= 0)
    wire->ops->tell(wire, -1);
}

static void listen(const zero1__port *port) {
  zero1__wire *wire = port->wire;
  int32_t who, awaited;
  while (wire->ops->told && wire->ops->told(wire, &who, &awaited))
    atomic_store(&wire->awaited[who], awaited);
}

/* The end of the chain that begins with `peer`; `peer` where it leads back to this rank. */
static int32_t culprit(const zero1__wire *wire, int32_t peer) {
  int32_t last = peer;
  for (int32_t hops = 0; wire->awaited && hops < wire->world_size; ++hops) {
    const int32_t next = atomic_load(&wire->awaited[last]);
    if (next < 0) return last;
    if (next >= wire->world_size || next == wire->rank) return peer;
    last = next;
  }
  return peer;
}

static zero1_status timed_out(const zero1__port *port, int32_t peer, const char *what,
                              zero1__error *error) {
  const int32_t rank = culprit(port->wire, peer);
  char way[32] = "";
  if (rank != peer) snprintf(way, sizeof way, " by way of rank %d", peer);
  return zero1__fail(error, ZERO1_ERR_TIMEOUT,
                     "rank %d made no progress within %g s: this rank waited for %s%s", rank,
                     port->timeout_seconds, what, way);
}

static void sleep_after(int64_t waited_ns) {
  const int64_t part_ns = waited_ns / 4;
  const struct timespec sleep = {0, part_ns < LEAST_SLEEP_NS  ? LEAST_SLEEP_NS
                                    : part_ns > MOST_SLEEP_NS ? MOST_SLEEP_NS
                                                              : part_ns};
  nanosleep(&sleep, NULL);
}

zero1_status zero1__port_wait(const zero1__port *port, zero1__request *requests, int64_t count,
                              const char *what, zero1__error *error) {
  const int64_t patience_ns = zero1__seconds_ns(port->timeout_seconds);
  int64_t before = -1, progress_ns = 0, care_ns = 0;
  int has_told = 0;
  for (int looks = 0;; ++looks) {
    int64_t active;
    zero1_status status = look(port, requests, count, &active, error);
    if (status) return status;
    if (active != before) take_back(port);
    if (!active) return ZERO1_OK;
    if (active != before) {
      has_told = 0;
      before = active;
      looks = 0;
      progress_ns = 0;
    }
    if (looks < LOOKS) continue;
    const int64_t now = zero1__now_ns();
    if (!progress_ns) progress_ns = care_ns = now;
    if (now - care_ns > ZERO1__LOOK_NS) {
      care_ns = now;
      listen(port);
      status = care(port, what, error);
      if (status) return status;
    }
    const int32_t peer = awaited_peer(requests, count);
    if (!has_told && now - progress_ns > patience_ns / 2) {
      tell(port, peer);
      has_told = 1;
    }
    if (now - progress_ns > patience_ns) return timed_out(port, peer, what, error);
    sleep_after(now - progress_ns);
  }
}

int zero1__port_cancel(const zero1__port *port, zero1__request *requests, int64_t count) {
  int safe = 1;
  for (int64_t i = 0; i < count; ++i) {
    if (!requests[i].active) continue;
    safe &= port->wire->ops->cancel(port->wire, &requests[i]);
    requests[i].active = 0;
  }
  return safe;
}

void zero1__port_abort(const zero1__port *port, const zero1__error *why) {
  if (port->stop) atomic_store(port->stop, 1);
  port->wire->ops->abort(port->wire, tag_of(port, ZERO1__TAG_ABORT), why);
}

/* Round k, with have = 2^k pieces, 5 ranks: rank r sends its first min(have, 5 - have) pieces to
 * r - have and appends what r + have sends. In the end piece i is that of rank r + i. */
zero1_status zero1__port_all_gather(const zero1__port *port, const void *in, void *gathered,
                                    void *scratch, size_t bytes, int32_t *abandoned,
                                    zero1__error *error) {
  const int32_t world = port->wire->world_size, rank = port->wire->rank;
  char *pieces = scratch;
  memcpy(pieces, in, bytes);
  for (int32_t have = 1; have < world; have *= 2) {
    const int32_t count = have < world - have ? have : world - have;
    zero1__request requests[2] = {0};
    zero1_status status =
        zero1__port_recv(port, pieces + (size_t)have * bytes, (size_t)count * bytes,
                         (rank + have) % world, ZERO1__TAG_LANE, &requests[0], error);
    if (!status)
      status = zero1__port_send(port, pieces, (size_t)count * bytes, (rank - have + world) % world,
                                ZERO1__TAG_LANE, &requests[1], error);
    if (!status) status = zero1__port_wait(port, requests, 2, "an agreement", error);
    if (status) {
      if (!zero1__port_cancel(port, requests, 2)) *abandoned = 1;
      return status;
    }
  }
  for (int32_t i = 0; i < world; ++i)
    memcpy((char *)gathered + (size_t)((rank + i) % world) * bytes, pieces + (size_t)i * bytes,
           bytes);
  return ZERO1_OK;
}
