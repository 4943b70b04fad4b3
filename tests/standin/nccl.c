/* The stand-in NCCL: IT IS NO NCCL, and no figure measured over it says anything about one. It has
 * the symbols of NCCL's functions that zero1 calls, declared by the real nccl.h, and is linked
 * where libnccl would be. This file has the communicators; nccl_calls.c the calls and groups of
 * them, nccl_collectives.c what runs in streams, nccl_shared.c what ranks share.
 *
 * What it is for is order and failure. A communicator that does not block answers ncclInProgress to
 * every call, and enqueues it only when it is asked once more; whoever calls it before that, or
 * when it is gone, is told so on stderr. A collective whose ranks do not all come holds its stream
 * back until it is aborted; nobody tells the peers of an abort. Two operations of one communicator
 * that no stream or event orders are a failure. One that a captured graph still holds when its
 * communicator is destroyed ends the program, where NCCL would wait for ever. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "nccl_group.h"
#include "standin.h"

enum { MAGIC = 0x5ccc1, ALIVE_POLLS = 1 };

static _Thread_local char last_error[200];
static struct ncclComm *_Atomic all_comms;
static _Atomic int64_t live_comms;
static _Atomic uint32_t last_id;

int64_t standin_nccl_live_comms(void) {
  return atomic_load(&live_comms);
}

void standin_nccl_pause(void) {
  const struct timespec time = {0, 50000};
  nanosleep(&time, NULL);
}

ncclResult_t standin_nccl_fail(ncclResult_t result, const char *why) {
  snprintf(last_error, sizeof last_error, "%s", why);
  return result;
}

_Noreturn void standin_nccl_misused(const char *call, const char *why) {
  fprintf(stderr, "the stand-in NCCL: %s: %s\n", call, why);
  abort();
}

/* ---- joining ---- */

static void read_failure(struct ncclComm *comm) {
  static const struct {
    const char *name;
    standin_kind kind;
  } kinds[] = {{"reduce-scatter:", STANDIN_REDUCE_SCATTER},
               {"all-gather:", STANDIN_ALL_GATHER},
               {"send:", STANDIN_SEND}};
  const char *text = getenv("ZERO1_STANDIN_NCCL_FAIL");
  for (size_t i = 0; text && i < sizeof kinds / sizeof *kinds; ++i)
    if (!strncmp(text, kinds[i].name, strlen(kinds[i].name))) {
      comm->fail_kind = kinds[i].kind;
      comm->fail_at = strtoull(text + strlen(kinds[i].name), NULL, 10);
    }
}

static ncclResult_t comm_create(const char *name, int32_t rank, int32_t world, bool blocking,
                                int32_t device, ncclComm_t *out) {
  struct ncclComm *comm = calloc(1, sizeof *comm);
  if (!comm) return ncclSystemError;
  comm->magic = MAGIC;
  comm->group = standin_nccl_group_open(name);
  if (!comm->group) {
    free(comm);
    return standin_nccl_fail(ncclSystemError, "no shared memory");
  }
  pthread_mutex_init(&comm->mutex, NULL);
  snprintf(comm->name, sizeof comm->name, "%s", name);
  comm->rank = rank;
  comm->world = world;
  comm->blocking = blocking;
  comm->device = device;
  comm->joining = true;
  read_failure(comm);
  standin_nccl_count_held();
  atomic_fetch_add(&live_comms, 1);
  comm->next = atomic_load(&all_comms);
  while (!atomic_compare_exchange_weak(&all_comms, &comm->next, comm)) {
  }
  standin_seat *seat = &comm->group->seats[rank];
  atomic_store(&seat->pid, getpid());
  atomic_store(&seat->device, comm->device);
  atomic_fetch_add(&comm->group->joined, 1);
  *out = comm;
  return ncclSuccess;
}

static ncclResult_t check_devices(ncclComm_t comm) {
  const char *text = getenv("ZERO1_STANDIN_NCCL_FAIL");
  if (!text || strcmp(text, "duplicate-gpu")) return ncclSuccess;
  for (int32_t i = 0; i < comm->world; ++i)
    for (int32_t j = 0; j < i; ++j)
      if (atomic_load(&comm->group->seats[i].device) == atomic_load(&comm->group->seats[j].device))
        return standin_nccl_fail(ncclInvalidUsage,
                                 "Duplicate GPU detected : two ranks are on one CUDA device");
  return ncclSuccess;
}

/* ---- what is still to do ---- */

static ncclResult_t join(ncclComm_t comm) {
  if (atomic_load(&comm->group->joined) < comm->world) return ncclInProgress;
  comm->joining = false;
  shm_unlink(comm->name); /* everyone has it */
  return check_devices(comm);
}

/* Once every rank has said what it wants: the child's place among those of one color. */
static ncclResult_t split(ncclComm_t comm) {
  const int32_t parity = (int32_t)(comm->splits % 2);
  standin_seat *seats = comm->group->seats;
  int32_t rank = 0, world = 0;
  for (int32_t i = 0; i < comm->world; ++i)
    if (atomic_load(&seats[i].split_arrived) < comm->splits) return ncclInProgress;
  const int32_t color = atomic_load(&seats[comm->rank].split_color[parity]);
  const int32_t key = atomic_load(&seats[comm->rank].split_key[parity]);
  for (int32_t i = 0; i < comm->world; ++i) {
    if (atomic_load(&seats[i].split_color[parity]) != color) continue;
    const int32_t other = atomic_load(&seats[i].split_key[parity]);
    ++world;
    rank += other < key || (other == key && i < comm->rank);
  }
  char name[STANDIN_NCCL_NAME];
  snprintf(name, sizeof name, "%.60s-%llu.%d", comm->name, (unsigned long long)comm->splits, color);
  ncclComm_t *to = comm->split_to;
  comm->split_to = NULL;
  if (color < 0) return ncclSuccess;
  return comm_create(name, rank, world, comm->split_blocking, comm->device, to);
}

/* Does what is to be done. The mutex is held. */
static ncclResult_t progress(ncclComm_t comm) {
  if (comm->joining) return join(comm);
  if (comm->split_to) return split(comm);
  if (!comm->blocking && comm->polls > 0) {
    --comm->polls;
    return ncclInProgress;
  }
  if (!comm->pending_count) return ncclSuccess;
  const int32_t count = comm->pending_count;
  comm->pending_count = 0;
  return standin_nccl_launch(comm, comm->pending.calls, count, comm->pending.stream);
}

static ncclResult_t progress_noted(ncclComm_t comm) {
  const ncclResult_t result = progress(comm);
  if (result && result != ncclInProgress) atomic_store(&comm->error, result);
  return result;
}

ncclResult_t standin_nccl_leave(ncclComm_t comm) {
  ncclResult_t result = ncclInProgress;
  if (!comm->blocking) comm->polls = ALIVE_POLLS;
  while (comm->blocking && (result = progress_noted(comm)) == ncclInProgress) {
    pthread_mutex_unlock(&comm->mutex);
    standin_nccl_pause();
    pthread_mutex_lock(&comm->mutex);
  }
  pthread_mutex_unlock(&comm->mutex);
  return result;
}

void standin_nccl_check(ncclComm_t comm, const char *call) {
  if (!comm || comm->magic != MAGIC) standin_nccl_misused(call, "this is no communicator");
  if (atomic_load(&comm->gone)) standin_nccl_misused(call, "the communicator is gone");
}

ncclResult_t standin_nccl_enter(ncclComm_t comm, const char *call) {
  standin_nccl_check(comm, call);
  pthread_mutex_lock(&comm->mutex);
  ncclResult_t result = atomic_load(&comm->error);
  if (!result && (comm->joining || comm->split_to || comm->pending_count)) {
    fprintf(stderr, "the stand-in NCCL: %s: the communicator is still in progress\n", call);
    result = standin_nccl_fail(ncclInvalidUsage, "a communicator in progress");
  }
  if (result) pthread_mutex_unlock(&comm->mutex);
  return result;
}

/* ---- communicators ---- */

ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "/zero1-no-nccl-%d-%u-%llx", (int)getpid(),
           atomic_fetch_add(&last_id, 1), (unsigned long long)now.tv_nsec);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  char name[STANDIN_NCCL_NAME];
  int device;
  *comm = NULL;
  if (cudaGetDevice(&device)) return standin_nccl_fail(ncclUnhandledCudaError, "no CUDA device");
  if (nranks < 1 || nranks > STANDIN_NCCL_RANKS || rank < 0 || rank >= nranks)
    return standin_nccl_fail(ncclInvalidArgument, "the stand-in has 1 to 8 ranks");
  id.internal[STANDIN_NCCL_NAME - 1] = 0;
  if (strncmp(id.internal, "/zero1-no-nccl-", 15))
    return standin_nccl_fail(ncclInvalidArgument, "this is no id");
  snprintf(name, sizeof name, "%.95s", id.internal);
  const bool blocking = !config || config->blocking != 0;
  const ncclResult_t result = comm_create(name, rank, nranks, blocking, device, comm);
  if (result) return result;
  pthread_mutex_lock(&(*comm)->mutex);
  return standin_nccl_leave(*comm);
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, nranks, id, rank, NULL);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *child,
                           ncclConfig_t *config) {
  ncclResult_t result = standin_nccl_enter(comm, "ncclCommSplit");
  if (result) return result;
  const uint64_t number = ++comm->splits;
  standin_seat *seat = &comm->group->seats[comm->rank];
  *child = NULL;
  comm->split_to = child;
  comm->split_blocking = config ? config->blocking != 0 : comm->blocking;
  atomic_store(&seat->split_color[number % 2], color);
  atomic_store(&seat->split_key[number % 2], key);
  atomic_store(&seat->split_arrived, number);
  result = standin_nccl_leave(comm);
  while (!result && *child &&
         comm->blocking) { /* nor does a parent that blocks give an unready one */
    pthread_mutex_lock(&(*child)->mutex);
    result = progress_noted(*child);
    pthread_mutex_unlock(&(*child)->mutex);
    if (result != ncclInProgress) break;
    result = ncclSuccess;
    standin_nccl_pause();
  }
  /* NCCL 2.28 says ncclSuccess of what has only begun. */
  return result == ncclInProgress ? ncclSuccess : result;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
  standin_nccl_check(comm, "ncclCommGetAsyncError");
  pthread_mutex_lock(&comm->mutex);
  *state = atomic_load(&comm->error);
  if (!*state) *state = atomic_load(&comm->group->error);
  if (*state) standin_nccl_fail(*state, "the stand-in was told to fail, or was misused");
  if (!*state) *state = progress_noted(comm);
  pthread_mutex_unlock(&comm->mutex);
  return ncclSuccess;
}

/* NCCL waits for the graphs that hold its operations, without end. */
static void check_held(ncclComm_t comm, const char *call) {
  if (atomic_load(&comm->held) > 0)
    standin_nccl_misused(call, "a graph that lives holds its collectives");
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  standin_nccl_check(comm, "ncclCommFinalize");
  check_held(comm, "ncclCommFinalize");
  const ncclResult_t result = standin_nccl_enter(comm, "ncclCommFinalize");
  return result ? result : standin_nccl_leave(comm);
}

/* Handles stay recognisable; the group goes with its last user. */
static void bury(ncclComm_t comm) {
  pthread_mutex_lock(&comm->mutex);
  atomic_store(&comm->gone, true);
  pthread_mutex_unlock(&comm->mutex);
  while (atomic_load(&comm->running)) standin_nccl_pause();
  standin_nccl_group_close(comm->name);
  atomic_fetch_sub(&live_comms, 1);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  standin_nccl_check(comm, "ncclCommDestroy");
  for (int i = 0; i < STANDIN_NCCL_REGISTERED; ++i)
    if (comm->registered[i])
      standin_nccl_misused("ncclCommDestroy", "a buffer is still registered");
  check_held(comm, "ncclCommDestroy");
  while (atomic_load(&comm->running)) standin_nccl_pause();
  bury(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  standin_nccl_check(comm, "ncclCommAbort");
  bury(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count) {
  standin_nccl_check(comm, "ncclCommCount");
  *count = comm->world;
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
  standin_nccl_check(comm, "ncclCommUserRank");
  *rank = comm->rank;
  return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device) {
  standin_nccl_check(comm, "ncclCommCuDevice");
  *device = comm->device;
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
  static const char *const texts[] = {"no error",
                                      "unhandled cuda error",
                                      "unhandled system error",
                                      "internal error",
                                      "invalid argument",
                                      "invalid usage",
                                      "remote process exited or there was a network error",
                                      "NCCL operation in progress"};
  return (size_t)result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm) {
  (void)comm;
  return last_error;
}

/* ---- memory ---- */

ncclResult_t ncclMemAlloc(void **memory, size_t bytes) {
  *memory = NULL;
  return standin_malloc_unshareable(memory, bytes)
             ? standin_nccl_fail(ncclUnhandledCudaError, "Cuda failure 2 'out of memory'")
             : ncclSuccess;
}

ncclResult_t ncclMemFree(void *memory) {
  return cudaFree(memory) ? ncclUnhandledCudaError : ncclSuccess;
}

/* A registration is only counted; it goes with its communicator at the latest. */
static ncclResult_t add_registration(ncclComm_t comm, const char *call, void **handle) {
  const ncclResult_t result = standin_nccl_enter(comm, call);
  int at = 0;
  if (result) return result;
  while (at < STANDIN_NCCL_REGISTERED && comm->registered[at]) ++at;
  if (at == STANDIN_NCCL_REGISTERED) standin_nccl_misused(call, "too many registrations");
  comm->registered[at] = 1;
  *handle = &comm->registered[at];
  return standin_nccl_leave(comm);
}

static ncclResult_t remove_registration(ncclComm_t comm, const char *call, void *handle) {
  const ncclResult_t result = standin_nccl_enter(comm, call);
  char *registered = handle;
  if (result) return result;
  if (registered < comm->registered || registered >= comm->registered + STANDIN_NCCL_REGISTERED ||
      !*registered)
    standin_nccl_misused(call, "this is no registration of the communicator");
  *registered = 0;
  return standin_nccl_leave(comm);
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *buffer, size_t bytes, void **handle) {
  (void)buffer;
  (void)bytes;
  return add_registration(comm, "ncclCommRegister", handle);
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle) {
  return remove_registration(comm, "ncclCommDeregister", handle);
}

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *buffer, size_t bytes,
                                    ncclWindow_t *window, int flags) {
  (void)buffer;
  (void)bytes;
  (void)flags;
  return add_registration(comm, "ncclCommWindowRegister", (void **)window);
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  return remove_registration(comm, "ncclCommWindowDeregister", window);
}
#endif
