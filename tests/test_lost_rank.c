// ranks: threads
// quarters: 1
// cost: 11
// without-mpi: no
// sanitizers: address undefined thread
// devices: host standin
// standin-sanitizers: address undefined
/* A rank that is lost without its process ending: it aborts, leaves, or never comes. Its peers get
 * one status and a text that names it, wherever they wait; the handle is spent; destroying it works
 * in any order, and so does a new one where the communicator has lost nothing.
 *
 * Not under ThreadSanitizer on a device that does not decide by itself: when a rank is lost, its
 * kernels sum what is there, which nobody reads, while a message may still arrive. */
#include <time.h>

#include "misuse.h"

enum { LOST = 1 };

typedef enum { AT_CREATE, AT_SYNC, AT_BACKWARD, AT_STEP, AT_WAIT, AT_REDUCED, AT_CHECK } moment;
typedef enum { ABORTS, STAYS, DESTROYS } manner;

typedef struct loss {
  moment when;
  manner how;
  int32_t guard; /* 0: one pass on the node */
  int32_t share_params;
  pthread_barrier_t barrier;
} loss;

static void sleep_ms(long ms) {
  const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static zero1_status create(const loss *at, zero1_comm *comm, zero1_optimizer **optimizer) {
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  misuse_config(&config);
  misuse_specs(specs);
  config.guard = at->guard;
  config.share_params = at->share_params;
  return zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, optimizer);
}

/* The peers' way to the failure. */
static zero1_status go_on(const loss *at, zero1_optimizer *optimizer) {
  zero1_status status = ZERO1_OK;
  if (at->when == AT_SYNC) return zero1_optimizer_sync_params(optimizer, 0);
  if (at->when == AT_CHECK) return zero1_optimizer_check_replicas(optimizer, NULL);
  for (int step = 0; step < 3 && !status; ++step) {
    status = misuse_backward(optimizer);
    if (at->when == AT_REDUCED && !status) status = zero1_optimizer_reduce_grads(optimizer);
    if (!status) status = zero1_optimizer_step(optimizer);
    if (!status) status = misuse_wait(optimizer);
  }
  return status;
}

/* The lost rank's own way to there. */
static zero1_status come_to(const loss *at, zero1_optimizer *optimizer) {
  zero1_status status = ZERO1_OK;
  if (at->when == AT_BACKWARD)
    status = zero1_optimizer_grad_ready(optimizer, 2, device_thread_stream());
  if (at->when == AT_STEP || at->when == AT_WAIT || at->when == AT_REDUCED)
    status = misuse_backward(optimizer);
  if (!status && at->when == AT_WAIT) status = zero1_optimizer_step(optimizer);
  if (!status && at->when == AT_REDUCED) status = zero1_optimizer_reduce_grads(optimizer);
  return status;
}

static void check_spent(zero1_optimizer *optimizer, zero1_status status) {
  zero1_info info;
  zero1_owned owned;
  void *pointer;
  float values[5] = {0};
  char text[200];
  snprintf(text, sizeof text, "%.150s", zero1_optimizer_last_error(optimizer));
  const zero1_status spent = ZERO1_ERR_SPENT;
  CHECK_STATUS(zero1_optimizer_step(optimizer), spent);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), text);
  CHECK_STATUS(zero1_optimizer_reduce_grads(optimizer), spent);
  CHECK_STATUS(zero1_optimizer_drop_grads(optimizer), spent);
  CHECK_STATUS(zero1_optimizer_grad_ready(optimizer, 0, device_thread_stream()), spent);
  CHECK_STATUS(zero1_optimizer_grad_absent(optimizer, 0, device_thread_stream()), spent);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), spent);
  CHECK_STATUS(zero1_optimizer_params_changed(optimizer), spent);
  CHECK_STATUS(zero1_optimizer_check_replicas(optimizer, NULL), spent);
  CHECK_STATUS(zero1_optimizer_set_state(optimizer, 1, ZERO1_STATE_EXP_AVG, values), spent);
  CHECK_STATUS(zero1_optimizer_get_state(optimizer, 1, ZERO1_STATE_EXP_AVG, values), spent);
  CHECK_STATUS(zero1_optimizer_set_count(optimizer, 1), spent);
  CHECK_TEXT(zero1_optimizer_last_error(optimizer), text);
  CHECK_STATUS(zero1_optimizer_wait_param(optimizer, 0, device_thread_stream()), status);
  CHECK_STATUS(zero1_optimizer_wait_grad(optimizer, 0, device_thread_stream()), status);
  CHECK_STATUS(zero1_optimizer_wait_params(optimizer, device_thread_stream()), status);
  CHECK_STATUS(zero1_optimizer_info(optimizer, &info, sizeof info), status);
  CHECK_STATUS(zero1_optimizer_owned(optimizer, 0, 0, &owned, sizeof owned), status);
  CHECK_STATUS(zero1_optimizer_param(optimizer, 0, &pointer), ZERO1_OK);
  CHECK(pointer);
  zero1_optimizer_abort(optimizer, "again");
  zero1_optimizer_abort(optimizer, NULL);
}

static void lose(const loss *at, zero1_optimizer **optimizer) {
  if (at->how == DESTROYS) zero1_optimizer_destroy(optimizer);
  if (at->how != ABORTS) return;
  zero1_optimizer_abort(*optimizer, "disk on fire");
  CHECK_STATUS(zero1_optimizer_step(*optimizer), ZERO1_ERR_SPENT);
  CHECK_TEXT(zero1_optimizer_last_error(*optimizer), "disk on fire");
  CHECK_STATUS(zero1_optimizer_wait_params(*optimizer, device_thread_stream()), ZERO1_ERR_ABORTED);
  check_spent(*optimizer, ZERO1_ERR_ABORTED);
}

static void check_told(const loss *at, const zero1_comm *comm, zero1_status status,
                       const char *text) {
  const int node = !strcmp(zero1_comm_backend(comm), "threads");
  if (at->how == ABORTS) {
    CHECK_STATUS(status, ZERO1_ERR_ABORTED);
    CHECK_TEXT(text, "rank 1 aborted: disk on fire");
  } else if (at->how == STAYS) {
    CHECK_STATUS(status, ZERO1_ERR_TIMEOUT);
    CHECK_TEXT(text, node ? "rank 1 did not come within 0.3 s" : " within 0.3 s");
  } else if (at->when == AT_BACKWARD || at->when == AT_STEP || at->when == AT_REDUCED) {
    CHECK_STATUS(status, ZERO1_ERR_ABORTED);
    CHECK_TEXT(text, "rank 1 aborted: destroyed in the middle of a step");
  } else {
    CHECK_STATUS(status, node ? ZERO1_ERR_PEER : ZERO1_ERR_TIMEOUT);
    CHECK_TEXT(text, node ? "rank 1 closed its end" : " within 0.3 s");
  }
}

static void rank_is_lost(int32_t rank, zero1_comm *comm, void *arg) {
  loss *at = arg;
  zero1_optimizer *optimizer = NULL;
  CHECK_STATUS(create(at, comm, &optimizer), ZERO1_OK);
  CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
  pthread_barrier_wait(&at->barrier);
  if (rank == LOST) {
    CHECK_STATUS(come_to(at, optimizer), ZERO1_OK);
    if (at->how == ABORTS) sleep_ms(30); /* the peers wait already, or nearly */
    lose(at, &optimizer);
  } else {
    const double begin = misuse_seconds();
    const zero1_status status = go_on(at, optimizer);
    const double seconds = misuse_seconds() - begin;
    check_told(at, comm, status, zero1_optimizer_last_error(optimizer));
    CHECK(seconds < 20); /* on a busy machine; else well under a second */
    check_spent(optimizer, status);
  }
  pthread_barrier_wait(&at->barrier);
  if (rank % 2) sleep_ms(5);
  zero1_optimizer_destroy(&optimizer); /* in any order */
  CHECK(!optimizer);
  CHECK_STATUS(create(at, comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void lose_everywhere(manner how, double timeout_seconds, const moment *moments,
                            size_t count) {
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (size_t i = 0; i < count; ++i)
      for (int32_t guard = 0; guard < 2; ++guard) {
        zero1_comm_options options;
        loss at = {.when = moments[i], .how = how, .guard = guard, .share_params = guard};
        misuse_options(path, timeout_seconds, &options);
        CHECK(!pthread_barrier_init(&at.barrier, NULL, (unsigned)misuse_world(path)));
        check_threads(misuse_world(path), &options, rank_is_lost, &at);
        pthread_barrier_destroy(&at.barrier);
      }
}

static void an_abort_reaches_every_rank_at_once(void) {
  const moment moments[] = {AT_SYNC, AT_BACKWARD, AT_STEP, AT_REDUCED, AT_CHECK};
  lose_everywhere(ABORTS, 60, moments, 5);
}

static void a_rank_that_leaves_is_named(void) {
  const moment moments[] = {AT_SYNC, AT_BACKWARD, AT_STEP, AT_REDUCED, AT_CHECK};
  lose_everywhere(DESTROYS, 0.3, moments, 5);
}

/* ---- timeouts: the communicator's, and the optimizer's own ---- */

static void rank_waits_with_a_timeout_of_its_own(int32_t rank, zero1_comm *comm, void *arg) {
  loss *at = arg;
  zero1_optimizer *optimizer;
  zero1_config config;
  zero1_param_spec specs[MISUSE_PARAMS];
  misuse_config(&config);
  misuse_specs(specs);
  config.timeout_seconds = 0.3;
  config.guard = at->guard;
  CHECK_STATUS(
      zero1_optimizer_create(comm, &config, specs, sizeof *specs, MISUSE_PARAMS, &optimizer),
      ZERO1_OK);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
  if (rank != LOST) {
    const double begin = misuse_seconds();
    const zero1_status status = go_on(at, optimizer);
    CHECK(misuse_seconds() - begin > 0.25);
    check_told(at, comm, status, zero1_optimizer_last_error(optimizer));
    check_spent(optimizer, status);
  }
  pthread_barrier_wait(&at->barrier);
  if (rank == LOST) { /* too late: it learns why */
    const zero1_status status = go_on(at, optimizer);
    CHECK_STATUS(status, ZERO1_ERR_TIMEOUT);
    CHECK_TEXT(zero1_optimizer_last_error(optimizer), " within 0.3 s");
    check_spent(optimizer, status);
  }
  zero1_optimizer_destroy(&optimizer);
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_OK); /* the communicator waits longer */
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void a_rank_that_never_comes_is_named_after_the_timeout(void) {
  const moment moments[] = {AT_SYNC, AT_STEP, AT_REDUCED, AT_CHECK};
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (size_t i = 0; i < 4; ++i) {
      zero1_comm_options options;
      loss at = {.when = moments[i], .how = STAYS, .guard = (int32_t)i % 2};
      misuse_options(path, 60, &options);
      CHECK(!pthread_barrier_init(&at.barrier, NULL, (unsigned)misuse_world(path)));
      check_threads(misuse_world(path), &options, rank_waits_with_a_timeout_of_its_own, &at);
      pthread_barrier_destroy(&at.barrier);
    }
}

static void rank_misses_create(int32_t rank, zero1_comm *comm, void *arg) {
  loss *at = arg;
  zero1_optimizer *optimizer = NULL;
  if (rank == LOST) pthread_barrier_wait(&at->barrier);
  CHECK_STATUS(misuse_create(comm, &optimizer), ZERO1_ERR_TIMEOUT);
  CHECK_TEXT(zero1_comm_last_error(comm), " within 0.3 s");
  if (rank != LOST) pthread_barrier_wait(&at->barrier);
  CHECK(!optimizer);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_ERR_TIMEOUT); /* its ranks are out of step */
}

static void who_misses_create_ends_the_communicator(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    loss at = {.when = AT_CREATE};
    misuse_options(path, 0.3, &options);
    CHECK(!pthread_barrier_init(&at.barrier, NULL, (unsigned)misuse_world(path)));
    check_threads(misuse_world(path), &options, rank_misses_create, &at);
    pthread_barrier_destroy(&at.barrier);
  }
}

/* ---- all leave ---- */

static void rank_leaves_too(int32_t rank, zero1_comm *comm, void *arg) {
  const loss *at = arg;
  zero1_optimizer *optimizer;
  (void)rank;
  CHECK_STATUS(create(at, comm, &optimizer), ZERO1_OK);
  if (at->when != AT_CREATE) {
    CHECK_STATUS(zero1_optimizer_sync_params(optimizer, 0), ZERO1_OK);
    /* Who leaves in the middle of a step aborts it; on a device that is heard before the next step.
     */
    const zero1_status status = come_to(at, optimizer);
    CHECK(!status || (device_is_cuda() && status == ZERO1_ERR_ABORTED));
  }
  if (rank == LOST) sleep_ms(10);
  zero1_optimizer_destroy(&optimizer);
  CHECK_STATUS(create(at, comm, &optimizer), ZERO1_OK);
  misuse_check_works(optimizer);
  zero1_optimizer_destroy(&optimizer);
}

static void all_ranks_may_destroy_whenever_they_like(void) {
  const moment moments[] = {AT_CREATE, AT_SYNC, AT_BACKWARD, AT_STEP, AT_WAIT};
  for (int path = 0; path < MISUSE_PATHS; ++path)
    for (size_t i = 0; i < 5; ++i)
      for (int32_t guard = 0; guard < 2; ++guard) {
        zero1_comm_options options;
        loss at = {.when = moments[i], .guard = guard, .share_params = 1};
        misuse_options(path, 20, &options);
        check_threads(misuse_world(path), &options, rank_leaves_too, &at);
      }
}

/* Optimizers of one communicator, destroyed in another order on each rank. */
static void rank_has_several(int32_t rank, zero1_comm *comm, void *unused) {
  zero1_optimizer *optimizers[3];
  (void)unused;
  for (int i = 0; i < 3; ++i) CHECK_STATUS(misuse_create(comm, &optimizers[i]), ZERO1_OK);
  for (int i = 0; i < 3; ++i) misuse_check_works(optimizers[i]);
  CHECK_STATUS(misuse_backward(optimizers[1]), ZERO1_OK);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK); /* on a device, backward hears of an abort */
  if (rank == 0) zero1_optimizer_abort(optimizers[1], "this one alone");
  misuse_check_works(optimizers[0]);
  for (int i = 0; i < 3; ++i) zero1_optimizer_destroy(&optimizers[(rank + i) % 3]);
  CHECK_STATUS(zero1_comm_barrier(comm), ZERO1_OK);
}

static void optimizers_fail_by_themselves_and_go_in_any_order(void) {
  for (int path = 0; path < MISUSE_PATHS; ++path) {
    zero1_comm_options options;
    misuse_options(path, 20, &options);
    check_threads(misuse_world(path), &options, rank_has_several, NULL);
  }
}

int main(void) {
  device_skip_without();
  RUN(an_abort_reaches_every_rank_at_once);
  RUN(a_rank_that_leaves_is_named);
  RUN(a_rank_that_never_comes_is_named_after_the_timeout);
  RUN(who_misses_create_ends_the_communicator);
  RUN(all_ranks_may_destroy_whenever_they_like);
  RUN(optimizers_fail_by_themselves_and_go_in_any_order);
  return check_summary();
}
