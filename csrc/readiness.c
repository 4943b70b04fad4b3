#include "readiness.h"

#include <stdlib.h>
#include <string.h>

zero1_status zero1__readiness_begin(zero1__readiness *readiness, const zero1__layout *layout,
                                    zero1__error *error) {
  memset(readiness, 0, sizeof *readiness);
  readiness->layout = layout;
  readiness->grads = calloc((size_t)layout->param_count + 1, sizeof *readiness->grads);
  readiness->pending = calloc((size_t)layout->bucket_count + 1, sizeof *readiness->pending);
  readiness->all = calloc((size_t)layout->bucket_count + 1, sizeof *readiness->all);
  if (!readiness->grads || !readiness->pending || !readiness->all)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %lld gradients",
                       (long long)layout->param_count);
  for (int64_t i = 0; i < layout->param_count; ++i) {
    const zero1__range buckets = zero1__layout_buckets_of(layout, i);
    for (int64_t bucket = buckets.begin; bucket < buckets.end; ++bucket)
      readiness->all[bucket] += 1;
  }
  zero1__readiness_reset(readiness);
  return ZERO1_OK;
}

void zero1__readiness_end(zero1__readiness *readiness) {
  free(readiness->grads);
  free(readiness->pending);
  free(readiness->all);
  memset(readiness, 0, sizeof *readiness);
}

void zero1__readiness_reset(zero1__readiness *readiness) {
  const zero1__layout *layout = readiness->layout;
  memset(readiness->grads, ZERO1__GRAD_WAITING, (size_t)layout->param_count);
  memcpy(readiness->pending, readiness->all,
         (size_t)layout->bucket_count * sizeof *readiness->pending);
  readiness->complete = 0;
  readiness->waiting = layout->slot_count;
  readiness->absent = 0;
}

int zero1__readiness_mark(zero1__readiness *readiness, int64_t param, uint8_t grad) {
  if (readiness->grads[param] != ZERO1__GRAD_WAITING) return 0;
  readiness->grads[param] = grad;
  const zero1__range buckets = zero1__layout_buckets_of(readiness->layout, param);
  if (buckets.begin == buckets.end) return 1; /* without elements: nobody waits for it */
  for (int64_t bucket = buckets.begin; bucket < buckets.end; ++bucket)
    readiness->complete += --readiness->pending[bucket] == 0;
  readiness->waiting -= 1;
  readiness->absent += grad == ZERO1__GRAD_ABSENT;
  return 1;
}

int zero1__readiness_bucket(const zero1__readiness *readiness, int64_t bucket) {
  return readiness->pending[bucket] == 0;
}

void zero1__readiness_absent_bits(const zero1__readiness *readiness, uint8_t *bits) {
  const zero1__layout *layout = readiness->layout;
  memset(bits, 0, zero1__absent_bytes(layout->slot_count));
  for (int64_t slot = 0; readiness->absent && slot < layout->slot_count; ++slot)
    if (readiness->grads[layout->slots[slot].param] == ZERO1__GRAD_ABSENT)
      bits[slot / 8] |= (uint8_t)(1 << slot % 8);
}

int64_t zero1__readiness_missing(const zero1__readiness *readiness) {
  if (!readiness->waiting) return -1;
  for (int64_t i = 0; i < readiness->layout->param_count; ++i)
    if (readiness->layout->slot_of_param[i] >= 0 && readiness->grads[i] == ZERO1__GRAD_WAITING)
      return i;
  return -1;
}
