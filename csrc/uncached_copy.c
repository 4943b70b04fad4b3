#include "uncached_copy.h"

#include <string.h>

/* Sanitizers see no store of this kind. */
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  #include <emmintrin.h>

enum { LINE = 64 };

void zero1__uncached_copy(void *to, const void *from, size_t bytes) {
  char *out = to;
  const char *in = from;
  size_t at = 0;
  for (; at + LINE <= bytes; at += LINE) /* whole lines: a part of one would be fetched after all */
    for (size_t word = at; word < at + LINE; word += sizeof(__m128i))
      _mm_stream_si128((__m128i *)(void *)(out + word),
                       _mm_loadu_si128((const __m128i *)(const void *)(in + word)));
  _mm_sfence(); /* such stores are in no order with those that follow */
  memcpy(out + at, in + at, bytes - at);
}
#else
void zero1__uncached_copy(void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
}
#endif
