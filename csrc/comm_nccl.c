/* Ranks that are GPUs of one machine or of many, by NCCL: how they get to know each other, and what
 * the comm's users have in common.
 *
 * Every channel and every lane has a communicator of NCCL of its own, split from the comm's: what
 * is enqueued on one communicator must be so in the same order on every rank, and a caller's
 * optimizers and their lanes need not take turns in the same way everywhere. Aborting one leaves
 * the others alone. */
#include "comm_nccl.h"

#include <stdlib.h>
#include <string.h>

#include "bootstrap.h"

/* ---- what the comm's users have in common ---- */

int zero1__nccl_enter_device(const zero1__nccl_comm *comm) {
  int before = comm->device_index;
  cudaGetDevice(&before);
  if (before != comm->device_index) cudaSetDevice(comm->device_index);
  return before;
}

void zero1__nccl_leave_device(int before) {
  int now = before;
  cudaGetDevice(&now);
  if (now != before) cudaSetDevice(before);
}

zero1_status zero1__nccl_link_open(zero1__nccl_comm *comm, int32_t max_ctas, double timeout_seconds,
                                   zero1__nccl_link *link, zero1__error *error) {
  zero1__lane *lane = comm->base.lane;
  const int before = zero1__nccl_enter_device(comm);
  zero1_status status = zero1__nccl_link_split(link, &comm->link, max_ctas, timeout_seconds, error);
  zero1__nccl_leave_device(before);
  status = zero1__lane_agree(lane, status, error);
  if (status) return status;
  status =
      zero1__node_open(lane, &comm->shape, comm->watch, 0, timeout_seconds, &link->node, error);
  if (status != ZERO1_ERR_UNSUPPORTED) return status;
  zero1__error_clear(error); /* without it, NCCL's own means must do */
  return ZERO1_OK;
}

void zero1__nccl_user_add(zero1__nccl_comm *comm, zero1__nccl_user *user) {
  pthread_mutex_lock(&comm->mutex);
  user->next = comm->users;
  comm->users = user;
  pthread_mutex_unlock(&comm->mutex);
}

void zero1__nccl_user_remove(zero1__nccl_comm *comm, zero1__nccl_user *user) {
  pthread_mutex_lock(&comm->mutex);
  zero1__nccl_user **at = &comm->users;
  while (*at && *at != user) at = &(*at)->next;
  if (*at) *at = user->next;
  pthread_mutex_unlock(&comm->mutex);
}

void zero1__nccl_users_abort(zero1__nccl_comm *comm, const zero1__step *step,
                             const zero1__error *why) {
  pthread_mutex_lock(&comm->mutex);
  for (zero1__nccl_user *user = comm->users; user; user = user->next)
    if (user->step == step) zero1__nccl_link_abort(user->link, why);
  pthread_mutex_unlock(&comm->mutex);
}

/* The mutex is held all the while, so that the channel stays. */
int zero1__nccl_users_fail(zero1__nccl_comm *comm, const zero1__step *step,
                           const zero1__error *why) {
  pthread_mutex_lock(&comm->mutex);
  zero1__nccl_user *user = comm->users;
  while (user && !(user->channel && user->step == step)) user = user->next;
  if (user) zero1__channel_fail(user->channel, why);
  pthread_mutex_unlock(&comm->mutex);
  return user != NULL;
}

/* ---- the comm ---- */

static void nccl_destroy(zero1_comm *comm) {
  zero1__nccl_comm *self = (zero1__nccl_comm *)comm;
  const int before = zero1__nccl_enter_device(self);
  zero1__nccl_link_close(&self->link);
  if (comm->lane) zero1__nccl_lane_close(comm->lane);
  zero1__nccl_leave_device(before);
  zero1__watch_destroy(self->watch);
  pthread_mutex_destroy(&self->mutex);
  free(self);
}

static const zero1__comm_ops nccl_ops = {
    .name = "nccl",
    .destroy = nccl_destroy,
    .lane_open = zero1__nccl_lane_open,
    .lane_close = zero1__nccl_lane_close,
    .lane_all_gather = zero1__nccl_lane_all_gather,
    .lane_abort = zero1__nccl_lane_abort,
    .lane_look = zero1__nccl_lane_look,
    .device_lane_open = zero1__nccl_device_lane_open,
    .device_lane_close = zero1__nccl_device_lane_close,
    .device_lane_gather = zero1__nccl_device_lane_gather,
    .device_lane_look = zero1__nccl_device_lane_look,
    .device_lane_abort = zero1__nccl_device_lane_abort,
    .channel_open = zero1__nccl_channel_open,
    .channel_close = zero1__nccl_channel_close,
    .exchange_begin = zero1__nccl_exchange_begin,
    .all_gather = zero1__nccl_all_gather,
    .broadcast = zero1__nccl_broadcast,
    .abort = zero1__nccl_channel_abort,
};

/* How a rank comes to it. */
typedef struct introduction {
  ncclComm_t given;  /* the caller's, to be duplicated; NULL: there is an id */
  ncclUniqueId id;   /* the same on every rank */
  zero1__lane *lane; /* over which the ranks agree before NCCL connects them; or NULL */
  int32_t rank, world_size;
} introduction;

/* This rank's part: the GPU, and the lane that its link will carry. */
static zero1_status make(const introduction *start, const zero1_comm_options *options,
                         zero1__nccl_comm **out, zero1__error *error) {
  int device_index, version;
  pthread_mutexattr_t attributes;
  const cudaError_t code = cudaGetDevice(&device_index);
  *out = NULL;
  if (code) return zero1__nccl_cuda_fail(error, code, "the current CUDA device");
  const ncclResult_t result = zero1__nccl.ncclGetVersion(&version);
  if (result) return zero1__nccl_fail(error, result, "ncclGetVersion");
  zero1__nccl_comm *comm = calloc(1, sizeof *comm);
  if (!comm) return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for a communicator");
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&comm->mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  comm->base.ops = &nccl_ops;
  comm->base.rank = start->rank;
  comm->base.world_size = start->world_size;
  comm->base.ranks_per_node = 1; /* no memory is shared */
  comm->base.timeout_seconds = options->timeout_seconds;
  comm->device_index = device_index;
  comm->version = version;
  comm->ordered = options->ordered;
  comm->workspace_bytes = options->workspace_bytes;
  comm->base.lane = zero1__nccl_lane_alloc(comm, &comm->link, options->timeout_seconds, error);
  if (comm->base.lane) {
    *out = comm;
    return ZERO1_OK;
  }
  nccl_destroy(&comm->base);
  return error->status;
}

static zero1_status connect(zero1__nccl_comm *comm, const introduction *start,
                            zero1__error *error) {
  const double timeout = comm->base.timeout_seconds;
  if (!start->given)
    return zero1__nccl_link_init(&comm->link, &start->id, start->rank, start->world_size, timeout,
                                 error);
  zero1__nccl_link given;
  zero1__nccl_link_borrow(&given, start->given, timeout);
  given.rank = start->rank;
  given.world_size = start->world_size;
  const zero1_status status = zero1__nccl_link_split(&comm->link, &given, 0, timeout, error);
  pthread_mutex_destroy(&given.mutex);
  return status;
}

/* ---- what the ranks tell each other first ---- */

/* The run of ranks around this one that are on its machine.
 *
 * machines a a b b b a: rank 3 has [2, 5); rank 5 has [5, 6). */
static zero1__node_shape neighbours(const zero1__identity *all, int32_t world, int32_t rank) {
  int32_t begin = rank, end = rank + 1;
  while (begin > 0 && !strcmp(all[begin - 1].machine, all[rank].machine)) --begin;
  while (end < world && !strcmp(all[end].machine, all[rank].machine)) ++end;
  return (zero1__node_shape){.threads = 0, .rank_begin = begin, .size = end - begin};
}

static zero1_status watch_neighbours(zero1__nccl_comm *comm, const zero1__identity *all,
                                     zero1__error *error) {
  const zero1__node_shape shape = neighbours(all, comm->base.world_size, comm->base.rank);
  comm->shape = shape;
  return zero1__watch_create(all + shape.rank_begin, shape.size, comm->base.rank - shape.rank_begin,
                             &comm->watch, error);
}

/* Over the comm's own lane, which by then works. came: what is wrong with this rank's arguments. */
static zero1_status get_acquainted(zero1__nccl_comm *comm, const zero1_comm_options *options,
                                   zero1_status came, zero1__error *error) {
  const int32_t world = comm->base.world_size;
  zero1__lane *lane = comm->base.lane;
  zero1__identity mine, *all = calloc((size_t)world, sizeof *all);
  if (!came && !all) came = zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world);
  zero1__identity_of_this(&mine);
  zero1_status status = zero1__lane_agree(lane, came, error);
  if (!status) status = zero1__comm_options_alike(lane, options, error);
  if (!status) status = zero1__lane_gather(lane, &mine, all, sizeof mine, error);
  if (!status) status = zero1__lane_agree(lane, watch_neighbours(comm, all, error), error);
  free(all);
  if (status) return status;
  status = zero1__node_open(lane, &comm->shape, comm->watch, 0, comm->base.timeout_seconds,
                            &comm->link.node, error);
  if (status != ZERO1_ERR_UNSUPPORTED) return status;
  zero1__error_clear(error);
  return ZERO1_OK;
}

/* came: what is wrong with this rank's arguments, with its text in error: it takes part all the
 * same. */
static zero1_status create(const introduction *start, const zero1_comm_options *options,
                           zero1_status came, zero1_comm **out, zero1__error *error) {
  zero1__nccl_comm *comm = NULL;
  zero1__error made;
  zero1__error_clear(&made);
  if (out) *out = NULL;
  zero1_status status = make(start, options, &comm, &made);
  if (start->lane) status = zero1__lane_agree(start->lane, status, &made);
  if (!status) status = connect(comm, start, &made);
  if (start->lane) status = zero1__lane_agree(start->lane, status, &made);
  if (status && !came) *error = made;
  if (!status) status = get_acquainted(comm, options, came, error);
  if (!status) {
    *out = &comm->base;
  } else if (comm) {
    nccl_destroy(&comm->base);
  }
  return came ? came : status;
}

/* ---- the ways in ---- */

/* A rank with bad options comes all the same, with the defaults: its peers would wait for it. */
static zero1_status take_options(const zero1_comm_options *options, zero1_comm_options *taken,
                                 zero1_comm **comm, zero1__error *error) {
  zero1_status status = zero1__comm_options_take(options, taken, error);
  if (status) zero1_comm_options_init(taken, sizeof *taken);
  if (!status && !comm) status = zero1__fail(error, ZERO1_ERR_INVALID, "comm is NULL");
  return status;
}

/* Who the ranks of the caller's communicator are, and the GPU of this one. */
static zero1_status ask_given(introduction *start, int *device, zero1__error *error) {
  if (!start->given) return zero1__fail(error, ZERO1_ERR_INVALID, "nccl_comm is NULL");
  if (zero1__nccl_load(error)) return error->status;
  ncclResult_t result = zero1__nccl.ncclCommCount(start->given, &start->world_size);
  if (!result) result = zero1__nccl.ncclCommUserRank(start->given, &start->rank);
  if (!result) result = zero1__nccl.ncclCommCuDevice(start->given, device);
  return result ? zero1__nccl_fail(error, result, "nccl_comm") : ZERO1_OK;
}

zero1_status zero1_comm_create_nccl(void *nccl_comm, const zero1_comm_options *options,
                                    zero1_comm **comm) {
  zero1__error error;
  zero1_comm_options taken;
  introduction start = {.given = nccl_comm};
  int device = 0, current = 0;
  if (comm) *comm = NULL;
  zero1__error_clear(&error);
  if (ask_given(&start, &device, &error)) return zero1__create_done(options, error.status, &error);
  zero1_status status = take_options(options, &taken, comm, &error);
  const cudaError_t code = cudaGetDevice(&current);
  if (!code && current != device) cudaSetDevice(device);
  if (!status && current != device)
    status = zero1__fail(&error, ZERO1_ERR_INVALID,
                         "nccl_comm is of CUDA device %d, and the thread's current one is %d",
                         device, current);
  status = create(&start, &taken, status, comm, &error);
  if (!code && current != device) cudaSetDevice(current);
  return zero1__create_done(options, status, &error);
}

zero1_status zero1_nccl_unique_id(void *unique_id, size_t unique_id_bytes) {
  ncclUniqueId id;
  if (!unique_id || unique_id_bytes != sizeof id) return ZERO1_ERR_INVALID;
  const zero1_status status = zero1__nccl_load(NULL);
  if (status) return status;
  if (zero1__nccl.ncclGetUniqueId(&id)) return ZERO1_ERR_COMM;
  memcpy(unique_id, &id, sizeof id);
  return ZERO1_OK;
}

zero1_status zero1_comm_create_nccl_id(int32_t rank, int32_t world_size, const void *unique_id,
                                       size_t unique_id_bytes, const zero1_comm_options *options,
                                       zero1_comm **comm) {
  zero1__error error;
  zero1_comm_options taken;
  introduction start = {.rank = rank, .world_size = world_size};
  if (comm) *comm = NULL;
  zero1__error_clear(&error);
  zero1_status status = ZERO1_OK;
  if (world_size < 1)
    status = zero1__fail(&error, ZERO1_ERR_INVALID, "world_size is %d, less than 1", world_size);
  else if (rank < 0 || rank >= world_size)
    status = zero1__fail(&error, ZERO1_ERR_INVALID, "rank is %d, not in [0, %d)", rank, world_size);
  else if (!unique_id || unique_id_bytes != sizeof start.id)
    status = zero1__fail(&error, ZERO1_ERR_INVALID,
                         "unique_id is NULL or has %zu bytes, where NCCL's has %zu",
                         unique_id_bytes, sizeof start.id);
  if (!status) status = zero1__nccl_load(&error);
  if (!status) {
    memcpy(&start.id, unique_id, sizeof start.id);
    status = take_options(options, &taken, comm, &error);
    status = create(&start, &taken, status, comm, &error);
  }
  return zero1__create_done(options, status, &error);
}

/* Rank 0's id to everyone. */
static zero1_status share_id(zero1__lane *lane, ncclUniqueId *id, zero1__error *error) {
  const int32_t rank = lane->comm->rank, world = lane->comm->world_size;
  ncclUniqueId mine, *all = calloc((size_t)world, sizeof *all);
  zero1_status status =
      all ? ZERO1_OK : zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d ranks", world);
  memset(&mine, 0, sizeof mine);
  if (!status && rank == 0) {
    const ncclResult_t result = zero1__nccl.ncclGetUniqueId(&mine);
    if (result) status = zero1__nccl_fail(error, result, "ncclGetUniqueId");
  }
  status = zero1__lane_agree(lane, status, error);
  if (!status) status = zero1__lane_gather(lane, &mine, all, sizeof mine, error);
  if (!status) *id = all[0];
  free(all);
  return status;
}

zero1_status zero1_comm_create_nccl_allgather(int32_t rank, int32_t world_size,
                                              zero1_allgather_fn allgather, void *context,
                                              const zero1_comm_options *options,
                                              zero1_comm **comm) {
  zero1__bootstrap bootstrap;
  zero1__error error;
  zero1_comm_options taken;
  if (comm) *comm = NULL;
  zero1__error_clear(&error);
  zero1_status status =
      zero1__bootstrap_begin(&bootstrap, rank, world_size, allgather, context, &error);
  if (!bootstrap.takes_part) return zero1__create_done(options, status, &error);
  introduction start = {.rank = rank, .world_size = world_size, .lane = &bootstrap.lane};
  if (!status) status = take_options(options, &taken, comm, &error);
  if (!status) status = zero1__nccl_load(&error);
  status = zero1__lane_agree(&bootstrap.lane, status, &error);
  if (!status) status = share_id(&bootstrap.lane, &start.id, &error);
  if (!status) status = create(&start, &taken, ZERO1_OK, comm, &error);
  zero1__bootstrap_end(&bootstrap);
  return zero1__create_done(options, status, &error);
}
