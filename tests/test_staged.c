// sanitizers: address undefined thread
// devices: standin cuda
// standin-delay: 100
// standin-sanitizers: thread
// quarters: 2
// cost: 25
// wrap: zero1__port_send
// wrap: zero1__port_recv
// wrap: cudaDeviceFlushGPUDirectRDMAWrites
// wrap: cudaMemcpyAsync
// wrap: zero1__lane_gather
// timeout: 240

/* Messages between ranks whose parameters and gradients lie in memory of a device: the carrier gets
 * that memory where it says that it reaches it, and pinned memory else; the bits are the same.
 * Ranks that abort, and a device that fails, while messages are under way. */
#include <stdatomic.h>

#include "misuse.h"
#include "promise.h"
#include "wire_comm.h"
#if defined(ZERO1_TESTS_STANDIN)
  #include "standin/standin.h"
#endif

/* ---- what the carrier is given ---- */

static atomic_int in_device_memory, in_pinned_memory;
static atomic_int device_is_reached; /* by the carrier of some rank */
static atomic_int device_has_failed;

static void look_at(const void *data) {
  struct cudaPointerAttributes memory;
  const cudaError_t error = cudaPointerGetAttributes(&memory, data);
  if (error && atomic_load(&device_has_failed)) return;
  CHECK_CUDA(error);
  CHECK(memory.type == cudaMemoryTypeDevice || memory.type == cudaMemoryTypeHost);
  if (memory.type == cudaMemoryTypeHost) {
    atomic_fetch_add(&in_pinned_memory, 1);
  } else {
    CHECK(atomic_load(&device_is_reached));
    atomic_fetch_add(&in_device_memory, 1);
  }
}

/* ---- copies that fail ---- */

static atomic_int copies_left; /* the device fails in the last of them; 0: it does not */
static _Thread_local int copy_has_failed;

cudaError_t __real_cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                                   enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                                   enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                                   enum cudaMemcpyKind kind, cudaStream_t stream) {
  if (atomic_load(&copies_left) > 0 && atomic_fetch_sub(&copies_left, 1) == 1) {
    atomic_store(&device_has_failed, 1);
#if defined(ZERO1_TESTS_STANDIN)
    standin_device_fault(cudaErrorIllegalAddress);
#endif
  }
  const cudaError_t error = __real_cudaMemcpyAsync(to, from, bytes, kind, stream);
  if (error) copy_has_failed = 1;
  return error;
}

/* ---- messages ---- */

zero1_status __real_zero1__port_send(const zero1__port *port, const void *data, size_t bytes,
                                     int32_t peer, int32_t tag, zero1__request *request,
                                     zero1__error *error);
zero1_status __wrap_zero1__port_send(const zero1__port *port, const void *data, size_t bytes,
                                     int32_t peer, int32_t tag, zero1__request *request,
                                     zero1__error *error);
zero1_status __wrap_zero1__port_send(const zero1__port *port, const void *data, size_t bytes,
                                     int32_t peer, int32_t tag, zero1__request *request,
                                     zero1__error *error) {
  look_at(data);
  CHECK(!copy_has_failed); /* it is not what the device has */
  return __real_zero1__port_send(port, data, bytes, peer, tag, request, error);
}

zero1_status __real_zero1__port_recv(const zero1__port *port, void *data, size_t bytes,
                                     int32_t peer, int32_t tag, zero1__request *request,
                                     zero1__error *error);
zero1_status __wrap_zero1__port_recv(const zero1__port *port, void *data, size_t bytes,
                                     int32_t peer, int32_t tag, zero1__request *request,
                                     zero1__error *error);
zero1_status __wrap_zero1__port_recv(const zero1__port *port, void *data, size_t bytes,
                                     int32_t peer, int32_t tag, zero1__request *request,
                                     zero1__error *error) {
  look_at(data);
  return __real_zero1__port_recv(port, data, bytes, peer, tag, request, error);
}

zero1_status __real_zero1__lane_gather(zero1__lane *lane, const void *mine, void *all, size_t bytes,
                                       zero1__error *error);
zero1_status __wrap_zero1__lane_gather(zero1__lane *lane, const void *mine, void *all, size_t bytes,
                                       zero1__error *error);
zero1_status __wrap_zero1__lane_gather(zero1__lane *lane, const void *mine, void *all, size_t bytes,
                                       zero1__error *error) {
  CHECK(!copy_has_failed); /* nor is this made of it */
  return __real_zero1__lane_gather(lane, mine, all, bytes, error);
}

/* What arrived in memory of the device may be behind kernels that were enqueued before. */
static atomic_int flushes;

cudaError_t __real_cudaDeviceFlushGPUDirectRDMAWrites(
    enum cudaFlushGPUDirectRDMAWritesTarget target, enum cudaFlushGPUDirectRDMAWritesScope scope);
cudaError_t __wrap_cudaDeviceFlushGPUDirectRDMAWrites(
    enum cudaFlushGPUDirectRDMAWritesTarget target, enum cudaFlushGPUDirectRDMAWritesScope scope);
cudaError_t __wrap_cudaDeviceFlushGPUDirectRDMAWrites(
    enum cudaFlushGPUDirectRDMAWritesTarget target, enum cudaFlushGPUDirectRDMAWritesScope scope) {
  atomic_fetch_add(&flushes, 1);
  return __real_cudaDeviceFlushGPUDirectRDMAWrites(target, scope);
}

/* ---- the same bits ---- */

typedef enum { STAGED, DIRECT, MIXED } carriage;

typedef struct run {
  const promise_case *what;
  carriage how;
  trainer_result reference;
  trainer_result results[4];
} run;

/* MIXED: the carrier of rank 0 alone reaches memory of devices. */
static void train_rank(int32_t rank, zero1_comm *comm, void *arg) {
  run *const self = (run *)arg;
  zero1__wire_comm *const wired = (zero1__wire_comm *)comm;
  CHECK(!strcmp(zero1_comm_backend(comm), "exchange"));
  CHECK(!wired->wire->device_memory);
  wired->wire->device_memory = self->how == DIRECT || (self->how == MIXED && !rank);
  trainer_run(comm, &self->what->train, &self->results[rank]);
  CHECK(!strcmp(zero1_comm_note(comm), ""));
}

static void check_case(const promise_case *what, carriage how) {
  run self = {.what = what, .how = how};
  zero1_comm_options options;
  trainer_run_alone(&what->train, &self.reference);
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = 1;
  options.workspace_bytes = what->workspace_bytes;
  check_threads(what->world_size, &options, train_rank, &self);
  for (int32_t rank = 0; rank < what->world_size; ++rank) {
    promise_check_alike(what, &self.results[rank], &self.reference);
    trainer_result_free(&self.results[rank]);
  }
  trainer_result_free(&self.reference);
}

static void check_sample(uint64_t seed, carriage how) {
  static const int32_t worlds[] = {2, 3, 4};
  const promise_sample sample = promise_shuffle(seed, 12);
  atomic_store(&device_is_reached, how != STAGED);
  atomic_store(&in_device_memory, 0);
  atomic_store(&in_pinned_memory, 0);
  atomic_store(&flushes, 0);
  for (int32_t i = 0; i < 12; ++i) {
    const promise_case what =
        promise_case_of(&sample, i, worlds[sample.columns[AXIS_WORLD][i] % 3], 1);
    check_case(&what, how);
  }
  /* What has holes is staged in any case. */
  CHECK(atomic_load(&in_pinned_memory) > 0);
  CHECK((atomic_load(&in_device_memory) > 0) == (how != STAGED));
  CHECK((atomic_load(&flushes) > 0) == (how != STAGED));
  atomic_store(&device_is_reached, 0);
}

static void messages_through_pinned_memory_give_the_same_bits(void) {
  check_sample(21, STAGED);
}

#if defined(ZERO1_TESTS_STANDIN)
/* The wire of memory copies with the host's processor: of the two, that reaches the stand-in's
 * memory alone. */
static void messages_in_memory_of_the_device_give_the_same_bits(void) {
  check_sample(22, DIRECT);
}

static void a_rank_that_stages_and_one_that_does_not_understand_each_other(void) {
  check_sample(23, MIXED);
}
#endif

/* 40000 elements in 79 buckets of 512: more than are held back behind the verdict. */
static void very_many_buckets_give_the_same_bits(void) {
  static const trainer_param params[] = {{40000, 0, 0}};
  const promise_sample sample = promise_shuffle(25, 12);
  promise_case what = promise_case_of(&sample, 0, 2, 1);
  what.train.params = params;
  what.train.param_count = 1;
  what.train.bucket_numel = 512;
  check_case(&what, STAGED);
}

/* Two nodes of two. */
static void train_noted(int32_t rank, zero1_comm *comm, void *arg) {
  run *const self = (run *)arg;
  CHECK(!strcmp(zero1_comm_backend(comm), "hierarchical"));
  CHECK(!strcmp(zero1_comm_note(comm), ""));
  trainer_run(comm, &self->what->train, &self->results[rank]);
  CHECK_TEXT(zero1_comm_note(comm), "GPUs exchange messages");
}

static void ranks_of_a_machine_that_only_exchange_messages_say_so(void) {
  const promise_sample sample = promise_shuffle(24, 12);
  const promise_case what = promise_case_of(&sample, 0, 4, 1);
  run self = {.what = &what};
  zero1_comm_options options;
  trainer_run_alone(&what.train, &self.reference);
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.ranks_per_node = 2;
  check_threads(4, &options, train_noted, &self);
  for (int32_t rank = 0; rank < 4; ++rank) {
    promise_check_alike(&what, &self.results[rank], &self.reference);
    trainer_result_free(&self.results[rank]);
  }
  trainer_result_free(&self.reference);
}

/* ---- what goes wrong ----
 *
 * Not where threads share a GPU: memory is given back there once no kernel of the process waits, so
 * a rank that goes holds up its peers' threads until the timeout. test_death_mpi.c has processes.
 */
#if defined(ZERO1_TESTS_STANDIN)

enum { RANKS = 3, LOST = 1 };

static void check_works(zero1_comm *comm) {
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

/* Steps until one fails. */
static zero1_status step_until_lost(zero1_optimizer *optimizer) {
  zero1_status status = ZERO1_OK;
  for (int i = 0; i < 1000 && !status; ++i) status = misuse_step(optimizer);
  return status;
}

static void abort_in_the_middle(int32_t rank, zero1_comm *comm, void *arg) {
  const int in_backward = *(const int *)arg;
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  CHECK_STATUS(misuse_step(optimizer), ZERO1_OK);
  check_meet(); /* it is done on every rank */
  if (rank == LOST) {
    if (in_backward) CHECK_STATUS(misuse_backward(optimizer), ZERO1_OK);
    zero1_optimizer_abort(optimizer, "no more data");
    CHECK_STATUS(zero1_optimizer_step(optimizer), ZERO1_ERR_SPENT);
  } else {
    CHECK_STATUS(step_until_lost(optimizer), ZERO1_ERR_ABORTED);
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), "rank 1 aborted: no more data");
  }
  zero1_optimizer_destroy(&optimizer);
  check_works(comm); /* the communicator has lost nothing */
}

static void a_rank_that_aborts_is_told_to_its_peers(void) {
  zero1_comm_options options;
  misuse_options(1, 60, &options);
  for (int in_backward = 0; in_backward < 2; ++in_backward)
    check_threads(RANKS, &options, abort_in_the_middle, &in_backward);
}

typedef struct lost_copy {
  pthread_barrier_t barrier;
  int copies; /* the last of them fails */
  int told;
} lost_copy;

static void lose_the_device(int32_t rank, zero1_comm *comm, void *arg) {
  pthread_barrier_t *const barrier = (pthread_barrier_t *)arg;
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  CHECK_STATUS(misuse_backward(optimizer), ZERO1_OK);
  pthread_barrier_wait(barrier);
  atomic_store(&device_has_failed, 1);
  if (!rank) standin_device_fault(cudaErrorIllegalAddress);
  pthread_barrier_wait(barrier);
  zero1_status status = zero1_optimizer_step(optimizer);
  if (!status) status = zero1_optimizer_wait_params(optimizer, device_thread_stream());
  if (!status) status = zero1_optimizer_info(optimizer, &(zero1_info){0}, sizeof(zero1_info));
  CHECK_STATUS(status, ZERO1_ERR_DEVICE);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), "an illegal memory access");
  pthread_barrier_wait(barrier);
  if (!rank) standin_device_fault(cudaSuccess);
  pthread_barrier_wait(barrier);
  zero1_optimizer_destroy(&optimizer);
}

static void a_device_that_fails_in_the_middle_is_told(void) {
  zero1_comm_options options;
  pthread_barrier_t barrier;
  misuse_options(1, 60, &options);
  CHECK(!pthread_barrier_init(&barrier, NULL, RANKS));
  check_threads(RANKS, &options, lose_the_device, &barrier);
  pthread_barrier_destroy(&barrier);
}

/* Without copies of the test's own. */
static zero1_status step_on_zeros(zero1_optimizer *optimizer) {
  zero1_status status = ZERO1_OK;
  for (int64_t i = MISUSE_PARAMS - 1; i >= 0 && !status; --i)
    status = zero1_optimizer_grad_ready(optimizer, i, device_thread_stream());
  if (!status) status = zero1_optimizer_step(optimizer);
  return status ? status : misuse_wait(optimizer);
}

/* Sync, step, step, check: whichever of their copies is the one, no rank sends what it has of it, and
 * no rank is told that all is well. */
static zero1_status train_until_told(zero1_optimizer *optimizer) {
  zero1_status status = zero1_optimizer_sync_params(optimizer, 0);
  CHECK(status || !copy_has_failed);
  for (int i = 0; i < 2 && !status; ++i) status = step_on_zeros(optimizer);
  if (!status) status = zero1_optimizer_check_replicas(optimizer, NULL);
  CHECK(status || !copy_has_failed);
  return status;
}

static void lose_a_copy(int32_t rank, zero1_comm *comm, void *arg) {
  lost_copy *const self = (lost_copy *)arg;
  zero1_optimizer *optimizer;
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK);
  pthread_barrier_wait(&self->barrier);
  if (!rank) atomic_store(&copies_left, self->copies);
  pthread_barrier_wait(&self->barrier);
  const zero1_status status = train_until_told(optimizer);
  pthread_barrier_wait(&self->barrier);
  if (status) {
    CHECK_STATUS(status, ZERO1_ERR_DEVICE);
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), "an illegal memory access");
  }
  CHECK(!status == !atomic_load(&device_has_failed));
  pthread_barrier_wait(&self->barrier);
  if (!rank) {
    self->told = status != ZERO1_OK;
    atomic_store(&copies_left, 0);
    standin_device_fault(cudaSuccess);
    atomic_store(&device_has_failed, 0);
  }
  pthread_barrier_wait(&self->barrier);
  zero1_optimizer_destroy(&optimizer);
}

static void what_a_device_has_half_copied_is_not_sent(void) {
  zero1_comm_options options;
  lost_copy self = {.told = 1};
  misuse_options(1, 60, &options);
  CHECK(!pthread_barrier_init(&self.barrier, NULL, RANKS));
  for (self.copies = 1; self.told; self.copies += 3)
    check_threads(RANKS, &options, lose_a_copy, &self);
  CHECK(self.copies > 50); /* there were so many */
  pthread_barrier_destroy(&self.barrier);
}

static void nothing_is_left(void) {
  const standin_live live = standin_live_objects();
  CHECK_EQ(live.device_memories, 0);
  CHECK_EQ(live.host_memories, 0);
  CHECK_EQ(live.streams, 0);
  CHECK_EQ(live.events, 0);
}
#endif

int main(void) {
  device_skip_without();
  RUN(messages_through_pinned_memory_give_the_same_bits);
#if defined(ZERO1_TESTS_STANDIN)
  RUN(messages_in_memory_of_the_device_give_the_same_bits);
  RUN(a_rank_that_stages_and_one_that_does_not_understand_each_other);
#endif
  RUN(very_many_buckets_give_the_same_bits);
  RUN(ranks_of_a_machine_that_only_exchange_messages_say_so);
#if defined(ZERO1_TESTS_STANDIN)
  if (!device_sums_after_a_loss_are_races) RUN(a_rank_that_aborts_is_told_to_its_peers);
  RUN(nothing_is_left);
  RUN(a_device_that_fails_in_the_middle_is_told);
  RUN(what_a_device_has_half_copied_is_not_sent);
#endif
  return check_summary();
}
