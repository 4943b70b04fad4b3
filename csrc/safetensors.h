/* Headers of safetensors files (https://github.com/huggingface/safetensors): 8 bytes of length,
 * little endian, JSON of that length, padded with spaces so that the data begins at a multiple of
 * 64, then the data, without holes. Readers refuse a header of more than 100 MB, so a rank that has
 * very many ranges writes several files. */
#ifndef ZERO1__SAFETENSORS_H
#define ZERO1__SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "manifest.h"

#define ZERO1__HEADER_LENGTH_BYTES 8
#define ZERO1__HEADER_METADATA "__metadata__" /* no tensor has this name */

/** Bytes of the JSON, of what a file begins with: [ZERO1__HEADER_LENGTH_BYTES]. */
static inline uint64_t zero1__header_length(const void *begin) {
  const unsigned char *const bytes = (const unsigned char *)begin;
  uint64_t length = 0;
  for (int i = ZERO1__HEADER_LENGTH_BYTES; i-- > 0;) length = length << 8 | bytes[i];
  return length;
}

/** A header that has as many takes no more tensors: the next one goes into another file. */
#define ZERO1__HEADER_BYTES ((size_t)32 << 20)

/** Grows tensor by tensor, in the order of the data. */
typedef struct zero1__safetensors {
  char *text; /* what is made so far, the 8 bytes included; owned */
  size_t bytes, room;
  int64_t data_bytes; /* of the tensors so far */
} zero1__safetensors;

/** Begins a header with "__metadata__": {"format": "zero1"} and the pairs given (or NULL, 0), of
 *  which one may be another format. Ended with zero1__safetensors_end, after a failure too.
 *  ZERO1_ERR_MEMORY. */
zero1_status zero1__safetensors_begin(zero1__safetensors *header, const zero1_pair *metadata,
                                      int64_t metadata_count, zero1__error *error);
void zero1__safetensors_end(zero1__safetensors *header);

/** Adds a tensor after those that are there. dtype: ZERO1_DTYPE_. ZERO1_ERR_INVALID: the name is
 *  not UTF-8. ZERO1_ERR_MEMORY. */
zero1_status zero1__safetensors_add(zero1__safetensors *header, const char *name, int32_t dtype,
                                    const int64_t *shape, int32_t ndim, zero1__error *error);

/** Closes the JSON, pads, and sets the length: `text` [bytes] is what the file begins with. */
zero1_status zero1__safetensors_finish(zero1__safetensors *header, zero1__error *error);

/** The tensor of a range: "<parameter>.<state>[<begin>:<end>]", of one dimension. The names of
 *  states: param, master_param, exp_avg, exp_avg_sq, residual. Returns as snprintf. */
int zero1__safetensors_name(const char *param, int32_t state, int64_t begin, int64_t end,
                            char *text, size_t text_bytes);

/** "param" for ZERO1_STATE_PARAM and so on. */
const char *zero1__state_name(int32_t state);

/** Checks that the header of a file, [bytes] from its begin (any bytes, maybe not all of the
 *  header), names exactly the ranges that the manifest has for file `file`, where it has them.
 *  ZERO1_ERR_CORRUPT: `path` and what differs. ZERO1_ERR_MEMORY. */
zero1_status zero1__safetensors_check(const char *path, const char *text, size_t bytes,
                                      const zero1__manifest *manifest, int32_t file,
                                      zero1__error *error);

#endif
