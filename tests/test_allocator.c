// sanitizers: address undefined
// quarters: 2
// cost: 5
// wrap: malloc calloc realloc free mmap munmap memfd_create fallocate pthread_create pthread_join
/* The n-th allocation of one rank fails, for every n: whatever the path, every rank returns the
 * same status, nothing leaks, nothing hangs, and the next call succeeds. */
#include <stdatomic.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "misuse.h"

/* ---- an allocator that fails when it is told to ---- */

/* Allocations that still succeed; of a rank's own thread, and of the whole process. */
static _Thread_local int64_t own_left = INT64_MAX;
static _Atomic int64_t all_left = INT64_MAX;
/* 0: one fails; 1: and all that follow. */
static _Atomic int for_good;
/* What was allocated and not freed: memory, mappings, threads. */
static _Atomic int64_t alive;

static int fails(void) {
  const int64_t own = own_left, all = atomic_load(&all_left);
  if (own != INT64_MAX && own > -INT32_MAX) --own_left;
  if (all != INT64_MAX) atomic_fetch_sub(&all_left, 1);
  return atomic_load(&for_good) ? own <= 0 || all <= 0 : own == 0 || all == 0;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void __real_free(void *memory);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset);
int __real_munmap(void *at, size_t bytes);
int __real_memfd_create(const char *name, unsigned flags);
int __real_fallocate(int file, int mode, off_t offset, off_t bytes);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *argument);
int __real_pthread_join(pthread_t thread, void **result);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void __wrap_free(void *memory);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *at, size_t bytes);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_fallocate(int file, int mode, off_t offset, off_t bytes);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *argument);
int __wrap_pthread_join(pthread_t thread, void **result);

static void *count(void *memory) {
  if (memory) atomic_fetch_add(&alive, 1);
  return memory;
}

void *__wrap_malloc(size_t bytes) {
  return fails() ? NULL : count(__real_malloc(bytes));
}

void *__wrap_calloc(size_t number, size_t bytes) {
  return fails() ? NULL : count(__real_calloc(number, bytes));
}

void *__wrap_realloc(void *memory, size_t bytes) {
  if (fails()) return NULL;
  void *const grown = __real_realloc(memory, bytes);
  return memory ? grown : count(grown);
}

void __wrap_free(void *memory) {
  if (memory) atomic_fetch_sub(&alive, 1);
  __real_free(memory);
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
  errno = ENOMEM;
  if (fails()) return MAP_FAILED;
  void *const base = __real_mmap(at, bytes, protection, flags, file, offset);
  if (base != MAP_FAILED) atomic_fetch_add(&alive, 1);
  return base;
}

int __wrap_munmap(void *at, size_t bytes) {
  atomic_fetch_sub(&alive, 1);
  return __real_munmap(at, bytes);
}

int __wrap_memfd_create(const char *name, unsigned flags) {
  errno = ENFILE;
  return fails() ? -1 : __real_memfd_create(name, flags);
}

int __wrap_fallocate(int file, int mode, off_t offset, off_t bytes) {
  errno = ENOSPC;
  return fails() ? -1 : __real_fallocate(file, mode, offset, bytes);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main_)(void *), void *argument) {
  if (fails()) return EAGAIN;
  const int result = __real_pthread_create(thread, attributes, main_, argument);
  if (!result) atomic_fetch_add(&alive, 1);
  return result;
}

int __wrap_pthread_join(pthread_t thread, void **result) {
  atomic_fetch_sub(&alive, 1);
  return __real_pthread_join(thread, result);
}

/* ---- communicators ---- */

static int is_memory(zero1_status status) {
  return status == ZERO1_ERR_MEMORY || status == ZERO1_ERR_DEVICE; /* of a thread */
}

static void making_threads_fails_as_a_whole(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (int persistent = 0; persistent < 2; ++persistent) {
      const int32_t world = misuse_world(path);
      zero1_comm_options options;
      char text[200];
      misuse_options(path, 600, &options);
      options.error_text = text;
      options.error_bytes = sizeof text;
      atomic_store(&for_good, persistent);
      zero1_status status = ZERO1_ERR_MEMORY;
      for (int64_t n = 0; status; ++n) {
        zero1_comm *comms[4];
        const int64_t before = atomic_load(&alive);
        own_left = n;
        status = zero1_comm_create_threads(world, &options, comms);
        own_left = INT64_MAX;
        CHECK(n < 200);
        for (int32_t i = 0; i < world; ++i) {
          CHECK(!comms[i] == (status != ZERO1_OK));
          zero1_comm_destroy(&comms[i]);
        }
        CHECK_EQ(atomic_load(&alive), before);
        if (!status) break;
        CHECK_STATUS(status, ZERO1_ERR_MEMORY);
        CHECK_TEXT(text, "memory");
      }
    }
}

/* ---- optimizers ---- */

typedef struct place {
  pthread_barrier_t barrier;
  int32_t culprit;
  int persistent;
  zero1_status statuses[4];
  int64_t alive;
} place;

static zero1_status create(zero1_comm *comm, zero1_optimizer **optimizer) {
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  misuse_config(&config);
  misuse_specs(specs);
  config.threads = 2;
  config.param_dtype = config.grad_dtype = ZERO1_DTYPE_BF16;
  config.agree_comm = comm;
  return zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, optimizer);
}

static void check_text(const place *at, int32_t rank, const char *text) {
  char culprit[20];
  snprintf(culprit, sizeof culprit, "rank %d", at->culprit);
  if (rank != at->culprit) CHECK_TEXT(text, culprit);
  CHECK(strstr(text, "memory") || strstr(text, "thread"));
}

static void rank_creates(int32_t rank, zero1_comm *comm, void *arg) {
  place *at = arg;
  zero1_status status = ZERO1_ERR_MEMORY;
  for (int64_t n = 0; status; ++n) {
    zero1_optimizer *optimizer;
    CHECK(n < 500);
    pthread_barrier_wait(&at->barrier); /* every rank's thread is there */
    if (rank == 0) at->alive = atomic_load(&alive);
    pthread_barrier_wait(&at->barrier);
    if (rank == at->culprit) own_left = n;
    status = create(comm, &optimizer);
    if (rank == at->culprit) own_left = INT64_MAX;
    CHECK(!optimizer == (status != ZERO1_OK));
    at->statuses[rank] = status;
    if (status) check_text(at, rank, zero1_comm_last_error(comm));
    if (status) CHECK(is_memory(status));
    pthread_barrier_wait(&at->barrier);
    CHECK_STATUS(status, at->statuses[at->culprit]);
    if (!status) misuse_check_works(optimizer);
    zero1_optimizer_destroy(&optimizer);
    pthread_barrier_wait(&at->barrier);
    if (rank == 0) CHECK_EQ(atomic_load(&alive), at->alive);
    pthread_barrier_wait(&at->barrier);
  }
}

static void create_fails_on_every_rank_and_then_succeeds(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (int persistent = 0; persistent < 2; ++persistent)
      for (int32_t culprit = 0; culprit < misuse_world(path); culprit += 2 - persistent) {
        zero1_comm_options options;
        place at = {.culprit = culprit, .persistent = persistent};
        misuse_options(path, 20, &options);
        atomic_store(&for_good, persistent);
        CHECK(!pthread_barrier_init(&at.barrier, NULL, (unsigned)misuse_world(path)));
        check_threads(misuse_world(path), &options, rank_creates, &at);
        pthread_barrier_destroy(&at.barrier);
      }
}

/* ---- training ---- */

static void must_have_count(zero1_optimizer *optimizer, int64_t count) {
  zero1_info info;
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), ZERO1_OK);
  CHECK_EQ(info.count, count);
}

static void rank_trains_without_memory(int32_t rank, zero1_comm *comm, void *arg) {
  pthread_barrier_t *barrier = arg;
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  pthread_barrier_wait(barrier);
  if (rank == 0) atomic_store(&all_left, 0);
  pthread_barrier_wait(barrier);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_params_changed(optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_ERR_MEMORY);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "memory");
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_ERR_MEMORY);
  CHECK_STATUS(zero1_optimizer_get_state(optimizer, 0, ZERO1_STATE_EXP_AVG, NULL),
               ZERO1_ERR_MEMORY);
  CHECK_STATUS(zero1_optimizer_set_count(optimizer, 5), ZERO1_ERR_MEMORY);
  pthread_barrier_wait(barrier);
  if (rank == 0) atomic_store(&all_left, INT64_MAX);
  pthread_barrier_wait(barrier);
  if (rank == 1) own_left = 0; /* of one rank alone */
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_ERR_MEMORY);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), ZERO1_ERR_MEMORY);
  if (rank != 1) CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1: ");
  CHECK_STATUS(zero1_optimizer_set_count(optimizer, 5), ZERO1_ERR_MEMORY);
  for (int n = 0; n < 2; ++n) { /* to agree on what is asked for, and for the parts of all ranks */
    if (rank == 1) own_left = n;
    CHECK_STATUS(zero1_optimizer_get_state(optimizer, 0, ZERO1_STATE_EXP_AVG, NULL),
                 ZERO1_ERR_MEMORY);
    if (rank != 1) CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1: ");
  }
  own_left = INT64_MAX;
  must_have_count(optimizer, 2);
  CHECK_STATUS(zero1_optimizer_get_state(optimizer, 0, ZERO1_STATE_EXP_AVG, NULL), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void a_step_needs_no_memory(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    pthread_barrier_t barrier;
    misuse_options(path, 20, &options);
    atomic_store(&for_good, 1);
    CHECK(!pthread_barrier_init(&barrier, NULL, (unsigned)misuse_world(path)));
    check_threads(misuse_world(path), &options, rank_trains_without_memory, &barrier);
    pthread_barrier_destroy(&barrier);
  }
}

/* ---- processes, whose memory is files ---- */

enum { PROCESSES = 3, GATHER_BYTES = 4096 };

typedef struct meeting {
  pthread_barrier_t barrier;
  char bytes[PROCESSES][GATHER_BYTES];
} meeting;

typedef struct member {
  meeting *meeting;
  int32_t rank;
} member;

static int32_t gather(void *context, const void *in, void *out, size_t bytes) {
  const member *self = context;
  CHECK(bytes <= GATHER_BYTES);
  if (bytes) memcpy(self->meeting->bytes[self->rank], in, bytes);
  pthread_barrier_wait(&self->meeting->barrier);
  for (int32_t i = 0; i < PROCESSES; ++i)
    if (bytes) memcpy((char *)out + (size_t)i * bytes, self->meeting->bytes[i], bytes);
  pthread_barrier_wait(&self->meeting->barrier);
  return 0;
}

static int64_t open_files(void) {
  int64_t number = 0;
  for (int file = 0; file < 256; ++file) {
    const int copy = dup(file);
    number += copy >= 0;
    if (copy >= 0) close(copy);
  }
  return number;
}

static void run_process(member *self, int32_t culprit) {
  zero1_status status = ZERO1_ERR_MEMORY;
  zero1_comm_options options;
  char text[400];
  zero1_comm *comm;
  place at = {.culprit = culprit};
  check__thread_rank = self->rank;
  misuse_options(0, 20, &options);
  options.error_text = text;
  options.error_bytes = sizeof text;
  const int64_t files = open_files();
  for (int64_t n = 0; status; ++n) {
    const int64_t before = atomic_load(&alive);
    CHECK(n < 100);
    if (self->rank == culprit) own_left = n;
    status = zero1_comm_create_node(self->rank, PROCESSES, gather, self, &options, &comm);
    own_left = INT64_MAX;
    if (!status) break;
    CHECK_STATUS(status, ZERO1_ERR_MEMORY);
    check_text(&at, self->rank, text);
    CHECK_EQ(atomic_load(&alive), before);
    CHECK_EQ(open_files(), files);
  }
  status = ZERO1_ERR_MEMORY;
  const int64_t files_with_comm = open_files();
  for (int64_t n = 0; status; ++n) {
    zero1_optimizer *optimizer;
    const int64_t before = atomic_load(&alive);
    CHECK(n < 500);
    if (self->rank == culprit) own_left = n;
    status = create(comm, &optimizer);
    own_left = INT64_MAX;
    if (!status) misuse_check_works(optimizer);
    zero1_optimizer_destroy(&optimizer);
    CHECK_EQ(atomic_load(&alive), before);
    CHECK_EQ(open_files(), files_with_comm);
    if (!status) break;
    CHECK(is_memory(status));
    check_text(&at, self->rank, zero1_comm_last_error(comm));
  }
  zero1_comm_destroy(&comm);
  CHECK_EQ(open_files(), files);
}

static void processes_fail_together(void) {
  for (int persistent = 0; persistent < 2; ++persistent)
    for (int32_t culprit = 0; culprit < PROCESSES; ++culprit) {
      pid_t children[PROCESSES];
      pthread_barrierattr_t shared;
      meeting *const common = __real_mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE,
                                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      CHECK(common != MAP_FAILED);
      CHECK(!pthread_barrierattr_init(&shared));
      CHECK(!pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED));
      CHECK(!pthread_barrier_init(&common->barrier, &shared, PROCESSES));
      atomic_store(&for_good, persistent);
      fflush(NULL);
      for (int32_t rank = 0; rank < PROCESSES; ++rank) {
        children[rank] = fork();
        CHECK(children[rank] >= 0);
        if (!children[rank]) {
          member self = {common, rank};
          run_process(&self, culprit);
          exit(0);
        }
      }
      int result, failures = 0;
      for (int32_t rank = 0; rank < PROCESSES; ++rank) {
        CHECK(waitpid(children[rank], &result, 0) == children[rank]);
        failures += !WIFEXITED(result) || WEXITSTATUS(result) != 0;
      }
      CHECK_EQ(failures, 0);
      __real_munmap(common, sizeof *common);
    }
}

int main(void) {
  RUN(processes_fail_together); /* before there is any thread */
  RUN(making_threads_fails_as_a_whole);
  RUN(create_fails_on_every_rank_and_then_succeeds);
  RUN(a_step_needs_no_memory);
  return check_summary();
}
