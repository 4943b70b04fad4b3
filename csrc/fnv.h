/* FNV-1a, 64 bits: a hash of small things, for comparing what ranks were given. */
#ifndef ZERO1__FNV_H
#define ZERO1__FNV_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ZERO1__FNV_BEGIN 0xcbf29ce484222325u

static inline uint64_t zero1__fnv(uint64_t hash, const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i)
    hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
  return hash;
}

static inline uint64_t zero1__fnv_text(uint64_t hash, const char *text) {
  return zero1__fnv(hash, text, strlen(text) + 1);
}

#endif
