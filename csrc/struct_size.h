/* Public structs that begin with their size: an older caller's is shorter and gets the defaults for
 * what it does not know; a newer caller's is refused, for it asks for what is not here. */
#ifndef ZERO1__STRUCT_SIZE_H
#define ZERO1__STRUCT_SIZE_H

#include <string.h>

#include "error.h"

/** Reads a caller's struct of `bytes` over the defaults in `known`. */
static inline zero1_status zero1__struct_get(const void *given, size_t bytes, void *known,
                                             size_t known_bytes, const char *name,
                                             zero1__error *error) {
  if (bytes < sizeof(size_t) || bytes > known_bytes)
    return zero1__fail(error, ZERO1_ERR_VERSION,
                       "%s has size %zu; this library knows up to %zu (was it initialised?)", name,
                       bytes, known_bytes);
  memcpy(known, given, bytes);
  memcpy(known, &known_bytes, sizeof known_bytes);
  return ZERO1_OK;
}

/** Writes as much of `known` as the caller's struct of `bytes` has room for, its size included. */
static inline zero1_status zero1__struct_put(void *given, size_t bytes, const void *known,
                                             size_t known_bytes) {
  if (!given) return ZERO1_ERR_INVALID;
  if (bytes < sizeof(size_t) || bytes > known_bytes) return ZERO1_ERR_VERSION;
  memcpy(given, known, bytes);
  memcpy(given, &bytes, sizeof bytes);
  return ZERO1_OK;
}

#endif
