/* Threads inside a rank: one piece of work split over them, and back. */
#ifndef ZERO1__POOL_H
#define ZERO1__POOL_H

#include <stdint.h>

#include "error.h"

typedef struct zero1__pool zero1__pool;

/** Does part `thread` of `threads` of the work at `context`. */
typedef void (*zero1__pool_fn)(void *context, int32_t thread, int32_t threads);

/** threads - 1 threads are started; the caller of run is the first. ZERO1_ERR_MEMORY,
 *  ZERO1_ERR_DEVICE. */
zero1_status zero1__pool_create(int32_t threads, zero1__pool **pool, zero1__error *error);
void zero1__pool_destroy(zero1__pool *pool);

/** Runs fn on every thread of the pool and returns when all are done. One caller at a time. */
void zero1__pool_run(zero1__pool *pool, zero1__pool_fn fn, void *context);

int32_t zero1__pool_threads(const zero1__pool *pool);

#endif
