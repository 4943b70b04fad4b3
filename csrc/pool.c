#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "flag.h"

typedef struct worker {
  zero1__pool *pool;
  pthread_t thread;
  int32_t index;
  zero1__flag done; /* the round that this worker has finished */
} worker;

struct zero1__pool {
  int32_t threads;
  uint32_t round;
  zero1__flag start; /* the round that the workers are to run */
  zero1__pool_fn fn; /* NULL: end */
  void *context;
  worker *workers; /* [threads - 1] */
};

static void *worker_main(void *argument) {
  worker *self = argument;
  zero1__pool *pool = self->pool;
  for (uint32_t round = 1;; ++round) {
    zero1__flag_await(&pool->start, round);
    if (!pool->fn) return NULL;
    pool->fn(pool->context, self->index, pool->threads);
    zero1__flag_post(&self->done, round);
  }
}

zero1_status zero1__pool_create(int32_t threads, zero1__pool **out, zero1__error *error) {
  *out = NULL;
  zero1__pool *pool = calloc(1, sizeof *pool);
  worker *workers = calloc((size_t)threads, sizeof *workers);
  if (!pool || !workers) {
    free(pool);
    free(workers);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d threads", threads);
  }
  pool->workers = workers;
  for (pool->threads = 1; pool->threads < threads; ++pool->threads) {
    worker *self = &workers[pool->threads - 1];
    self->pool = pool;
    self->index = pool->threads;
    const int failure = pthread_create(&self->thread, NULL, worker_main, self);
    if (failure) {
      zero1__fail(error, ZERO1_ERR_DEVICE, "thread %d of %d cannot be started: %s", pool->threads,
                  threads, strerror(failure));
      zero1__pool_destroy(pool);
      return ZERO1_ERR_DEVICE;
    }
  }
  *out = pool;
  return ZERO1_OK;
}

void zero1__pool_destroy(zero1__pool *pool) {
  if (!pool) return;
  pool->fn = NULL;
  zero1__flag_post(&pool->start, ++pool->round);
  for (int32_t i = 0; i < pool->threads - 1; ++i) pthread_join(pool->workers[i].thread, NULL);
  free(pool->workers);
  free(pool);
}

void zero1__pool_run(zero1__pool *pool, zero1__pool_fn fn, void *context) {
  if (pool->threads > 1) {
    pool->fn = fn;
    pool->context = context;
    zero1__flag_post(&pool->start, ++pool->round);
  }
  fn(context, 0, pool->threads);
  for (int32_t i = 0; i < pool->threads - 1; ++i)
    zero1__flag_await(&pool->workers[i].done, pool->round);
}

int32_t zero1__pool_threads(const zero1__pool *pool) {
  return pool->threads;
}
