/* Which gradients of the current step are complete, and which buckets with them. */
#ifndef ZERO1__READINESS_H
#define ZERO1__READINESS_H

#include "error.h"
#include "layout.h"

enum { ZERO1__GRAD_WAITING = 0, ZERO1__GRAD_READY = 1, ZERO1__GRAD_ABSENT = 2 };

typedef struct zero1__readiness {
  const zero1__layout *layout;
  uint8_t *grads;   /* [param_count] ZERO1__GRAD_ */
  int32_t *pending; /* [bucket_count] parameters of the bucket that are not ready */
  int32_t *all;     /* [bucket_count] parameters of the bucket */
  int64_t complete; /* buckets with nothing pending */
  int64_t waiting;  /* parameters with elements that are not ready */
  int64_t absent;   /* that are absent */
} zero1__readiness;

/** ZERO1_ERR_MEMORY. Ended with zero1__readiness_end, after a failure too. */
zero1_status zero1__readiness_begin(zero1__readiness *readiness, const zero1__layout *layout,
                                    zero1__error *error);
void zero1__readiness_end(zero1__readiness *readiness);

/** Nothing is ready any more. */
void zero1__readiness_reset(zero1__readiness *readiness);

/** Marks a trainable gradient; 0: it was marked already, and stays as it is. */
int zero1__readiness_mark(zero1__readiness *readiness, int64_t param, uint8_t grad);

int zero1__readiness_bucket(const zero1__readiness *readiness, int64_t bucket);

/** Bytes of a bit for every slot: slot s is bit s % 8 of byte s / 8. */
static inline size_t zero1__absent_bytes(int64_t slot_count) {
  return (size_t)slot_count / 8 + 1;
}

/** bits [zero1__absent_bytes]: which slots are absent on this rank. */
void zero1__readiness_absent_bits(const zero1__readiness *readiness, uint8_t *bits);

/** The lowest parameter that is not ready; -1: none. */
int64_t zero1__readiness_missing(const zero1__readiness *readiness);

#endif
