/* A wire of memory, for ranks that are threads of one process: whoever comes second copies. */
#include "wire_threads.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef zero1__message message;

typedef struct notice {
  struct notice *next;
  int32_t from, tag;
  zero1__error why;
} notice;

struct zero1__hub {
  pthread_mutex_t mutex; /* guards all of it, the data of messages while they are copied too */
  int32_t users, world_size;
  message *first, **last; /* in the order of posting */
  notice *notices;
  notice last_resort; /* where there was no memory for one: for all tags; from -1: none */
};

typedef struct threads_wire {
  zero1__wire base;
  zero1__hub *hub;
} threads_wire;

static zero1__hub *hub_of(zero1__wire *wire) {
  return ((threads_wire *)wire)->hub;
}

zero1_status zero1__hub_create(int32_t world_size, zero1__hub **out, zero1__error *error) {
  zero1__hub *hub = calloc(1, sizeof *hub);
  *out = hub;
  if (!hub) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world_size);
  pthread_mutex_init(&hub->mutex, NULL);
  hub->users = 1;
  hub->world_size = world_size;
  hub->last = &hub->first;
  hub->last_resort.from = -1;
  return ZERO1_OK;
}

void zero1__hub_release(zero1__hub *hub) {
  pthread_mutex_lock(&hub->mutex);
  const int32_t users = --hub->users;
  pthread_mutex_unlock(&hub->mutex);
  if (users) return;
  for (notice *next, *now = hub->notices; now; now = next) {
    next = now->next;
    free(now);
  }
  pthread_mutex_destroy(&hub->mutex);
  free(hub);
}

/* Takes the first message that `mine` completes out of the list; NULL: none. */
static message *take_match(zero1__hub *hub, const message *mine) {
  for (message **at = &hub->first; *at; at = &(*at)->next) {
    message *found = *at;
    if (found->is_send == mine->is_send || found->from != mine->from || found->to != mine->to ||
        found->tag != mine->tag)
      continue;
    *at = found->next;
    if (hub->last == &found->next) hub->last = at;
    return found;
  }
  return NULL;
}

/* Who comes second copies. The message lies in the request: posting needs no memory. */
static void post(zero1__wire *wire, const message *mine, zero1__request *request) {
  zero1__hub *hub = hub_of(wire);
  message *own = &request->message;
  *own = *mine;
  pthread_mutex_lock(&hub->mutex);
  message *match = take_match(hub, own);
  if (match) {
    const message *from = own->is_send ? own : match, *to = own->is_send ? match : own;
    if (from->bytes)
      memcpy(to->data, from->data, from->bytes < to->bytes ? from->bytes : to->bytes);
    match->done = own->done = 1;
  } else {
    *hub->last = own;
    hub->last = &own->next;
  }
  pthread_mutex_unlock(&hub->mutex);
  request->active = 1;
}

static zero1_status threads_send(zero1__wire *wire, const void *data, size_t bytes, int32_t peer,
                                 int32_t tag, zero1__request *request, zero1__error *error) {
  const message mine = {.from = wire->rank,
                        .to = peer,
                        .tag = tag,
                        .is_send = 1,
                        .data = (void *)(uintptr_t)data,
                        .bytes = bytes};
  (void)error;
  request->peer = peer;
  post(wire, &mine, request);
  return ZERO1_OK;
}

static zero1_status threads_recv(zero1__wire *wire, void *data, size_t bytes, int32_t peer,
                                 int32_t tag, zero1__request *request, zero1__error *error) {
  const message mine = {.from = peer, .to = wire->rank, .tag = tag, .data = data, .bytes = bytes};
  (void)error;
  request->peer = peer;
  post(wire, &mine, request);
  return ZERO1_OK;
}

static zero1_status threads_test(zero1__wire *wire, zero1__request *request, zero1__error *error) {
  zero1__hub *hub = hub_of(wire);
  (void)error;
  pthread_mutex_lock(&hub->mutex);
  const int32_t done = request->message.done;
  pthread_mutex_unlock(&hub->mutex);
  if (done) request->active = 0;
  return ZERO1_OK;
}

static int threads_cancel(zero1__wire *wire, zero1__request *request) {
  zero1__hub *hub = hub_of(wire);
  const message *mine = &request->message;
  pthread_mutex_lock(&hub->mutex);
  for (message **at = &hub->first; *at; at = &(*at)->next) {
    if (*at != mine) continue;
    *at = mine->next;
    if (hub->last == &mine->next) hub->last = at;
    break;
  }
  pthread_mutex_unlock(&hub->mutex);
  return 1;
}

static void threads_abort(zero1__wire *wire, int32_t tag, const zero1__error *why) {
  zero1__hub *hub = hub_of(wire);
  notice *mine = calloc(1, sizeof *mine);
  const notice filled = {.from = wire->rank, .tag = tag, .why = *why};
  pthread_mutex_lock(&hub->mutex);
  if (mine) {
    *mine = filled;
    mine->next = hub->notices;
    hub->notices = mine;
  } else if (hub->last_resort.from < 0) {
    hub->last_resort = filled;
  }
  pthread_mutex_unlock(&hub->mutex);
}

static int32_t threads_aborted(zero1__wire *wire, int32_t tag, zero1__error *why) {
  zero1__hub *hub = hub_of(wire);
  int32_t from = -1;
  pthread_mutex_lock(&hub->mutex);
  for (const notice *now = hub->notices; now && from < 0; now = now->next) {
    if (now->tag != tag || now->from == wire->rank) continue;
    from = now->from;
    *why = now->why;
  }
  if (from < 0 && hub->last_resort.from >= 0 && hub->last_resort.from != wire->rank) {
    from = hub->last_resort.from;
    *why = hub->last_resort.why;
  }
  pthread_mutex_unlock(&hub->mutex);
  return from;
}

static void threads_destroy(zero1__wire *wire) {
  zero1__hub_release(hub_of(wire));
  free(wire);
}

static const zero1__wire_ops threads_ops = {
    .send = threads_send,
    .recv = threads_recv,
    .test = threads_test,
    .cancel = threads_cancel,
    .abort = threads_abort,
    .aborted = threads_aborted,
    .destroy = threads_destroy,
};

zero1_status zero1__wire_threads_create(zero1__hub *hub, int32_t rank, zero1__wire **out,
                                        zero1__error *error) {
  threads_wire *wire = calloc(1, sizeof *wire);
  *out = NULL;
  if (!wire) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for rank %d", rank);
  wire->base = (zero1__wire){.ops = &threads_ops,
                             .rank = rank,
                             .world_size = hub->world_size,
                             .port_count = INT32_MAX / ZERO1__TAGS};
  wire->hub = hub;
  pthread_mutex_lock(&hub->mutex);
  hub->users += 1;
  pthread_mutex_unlock(&hub->mutex);
  *out = &wire->base;
  return ZERO1_OK;
}
