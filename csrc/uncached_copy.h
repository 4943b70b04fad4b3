/* A copy whose stores go past the caches.
 *
 * A store into a line that is not in a cache fetches the line first, and throws out another one. For
 * memory that nobody reads before more has been written than caches hold, both are in vain: 32 Mi
 * gradients of fp32, copied from a cache, take 15 ms by memcpy here and 10 ms so. (glibc's memcpy does
 * the same, but only from a size on that is a part of the last cache, which may be hundreds of MiB.) */
#ifndef ZERO1__UNCACHED_COPY_H
#define ZERO1__UNCACHED_COPY_H

#include <stddef.h>

/** Apart. Who synchronises with the caller afterwards, by any atomic store, sees all of it.
 *  [out] to  16 bytes aligned */
void zero1__uncached_copy(void *to, const void *from, size_t bytes);

#endif
