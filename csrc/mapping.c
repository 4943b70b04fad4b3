#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"

static zero1_status no_memory(zero1__error *error, size_t bytes, const char *what, int number) {
  return zero1__fail(error, ZERO1_ERR_MEMORY, "%zu bytes of memory for the node: %s: %s", bytes,
                     what, strerror(number));
}

/* ---- huge pages: fewer TLB misses ----
 *
 * With them a step of 2 ranks and 32 Mi fp32 parameters took 0.88 of its time in one pass, 0.83 in
 * two, on a Xeon of 2023. Shared memory has them where its file and its addresses both begin at a
 * multiple of their size, and where the kernel is asked for them page by page: what it gives
 * unasked (transparent_hugepage/shmem_enabled) is none by default. */

#define HUGE_BYTES ((size_t)2 << 20)
#define ASK_BYTES ((size_t)64 << 20) /* at once */
#define ASK_NS ((int64_t)5000000000) /* in all, for one mapping */
#if !defined(MADV_COLLAPSE)
  #define MADV_COLLAPSE 25 /* Linux 6.1; others refuse it, and nothing is lost */
#endif

/* Addresses for `bytes`, taken, that begin at a multiple of HUGE_BYTES; or NULL. */
static void *take_addresses(size_t bytes) {
  if (bytes < HUGE_BYTES || bytes > SIZE_MAX - 2 * HUGE_BYTES) return NULL;
  const size_t whole = zero1__whole_pages(bytes);
  char *const taken =
      mmap(NULL, whole + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (taken == MAP_FAILED) return NULL;
  const size_t before = (HUGE_BYTES - (uintptr_t)taken % HUGE_BYTES) % HUGE_BYTES;
  if (before) munmap(taken, before);
  munmap(taken + before + whole, HUGE_BYTES - before);
  return taken + before;
}

/* Huge pages come where there were none or small ones, as far as the machine has any: it may have to
 * move others for them, which is worth some seconds, and no more. */
static void ask_for_huge_pages(char *base, size_t bytes) {
  const int64_t end_ns = zero1__now_ns() + ASK_NS;
  madvise(base, bytes, MADV_HUGEPAGE);
  for (size_t at = 0; at < bytes && zero1__now_ns() < end_ns; at += ASK_BYTES) {
    const size_t part = bytes - at < ASK_BYTES ? bytes - at : ASK_BYTES;
    if (madvise(base + at, part, MADV_COLLAPSE) && errno != EAGAIN) return;
  }
}

static zero1_status map(zero1__mapping *mapping, int fd, zero1__error *error) {
  void *const place = take_addresses(mapping->bytes);
  const int flags =
      MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0) | (place ? MAP_FIXED : 0); /* in place of `place` */
  void *base = mmap(place, mapping->bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) {
    const int number = errno;
    if (place) munmap(place, mapping->bytes);
    return no_memory(error, mapping->bytes, "mmap", number);
  }
  ask_for_huge_pages(base, mapping->bytes);
  mapping->base = base;
  return ZERO1_OK;
}

static zero1_status set_size(int fd, size_t bytes, zero1__error *error) {
  struct rlimit limit;
  if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur < bytes)
    return zero1__fail(
        error, ZERO1_ERR_MEMORY,
        "%zu bytes of memory for the node: the limit of file sizes (ulimit -f) is %llu "
        "bytes",
        bytes, (unsigned long long)limit.rlim_cur);
  return ftruncate(fd, (off_t)bytes) ? no_memory(error, bytes, "ftruncate", errno) : ZERO1_OK;
}

/* Every page that is not there yet: without it, a write could end in a bus error when memory has
 * run out. */
static zero1_status reserve(int fd, size_t bytes, zero1__error *error) {
  int result;
  do result = fallocate(fd, 0, 0, (off_t)bytes);
  while (result && errno == EINTR);
  return result ? no_memory(error, bytes, "fallocate", errno) : ZERO1_OK;
}

static zero1_status create_counted(zero1__mapping *mapping, zero1__error *error) {
  atomic_int *refs = malloc(sizeof *refs);
  if (!refs) return no_memory(error, sizeof *refs, "malloc", errno);
  const zero1_status status = map(mapping, -1, error);
  if (status) {
    free(refs);
    return status;
  }
  atomic_init(refs, 1);
  mapping->refs = refs;
  return ZERO1_OK;
}

static zero1_status create_file(zero1__mapping *mapping, zero1__error *error) {
  mapping->fd = memfd_create("zero1", MFD_CLOEXEC);
  if (mapping->fd < 0) return no_memory(error, mapping->bytes, "memfd_create", errno);
  zero1_status status = set_size(mapping->fd, mapping->bytes, error);
  if (!status)
    status = map(mapping, mapping->fd, error); /* huge pages, before there are small ones */
  if (!status) status = reserve(mapping->fd, mapping->bytes, error);
  return status;
}

zero1_status zero1__mapping_create(int threads, size_t bytes, zero1__mapping *mapping,
                                   zero1__mapping_key *key, zero1__error *error) {
  *mapping = (zero1__mapping){.bytes = bytes, .fd = -1};
  memset(key, 0, sizeof *key);
  if (!bytes) return ZERO1_OK;
  const zero1_status status =
      threads ? create_counted(mapping, error) : create_file(mapping, error);
  if (status) {
    zero1__mapping_close(mapping);
    return status;
  }
  key->bytes = bytes;
  key->threads = threads;
  key->base = (uint64_t)(uintptr_t)mapping->base;
  key->refs = (uint64_t)(uintptr_t)mapping->refs;
  key->pid = getpid();
  key->fd = mapping->fd;
  return ZERO1_OK;
}

zero1_status zero1__mapping_open(const zero1__mapping_key *key, zero1__mapping *mapping,
                                 zero1__error *error) {
  *mapping = (zero1__mapping){.bytes = key->bytes, .fd = -1};
  if (!key->bytes) return ZERO1_OK;
  if (key->threads) {
    mapping->base = (void *)(uintptr_t)key->base;
    mapping->refs = (void *)(uintptr_t)key->refs;
    atomic_fetch_add((atomic_int *)mapping->refs, 1);
    return ZERO1_OK;
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)key->pid, (int)key->fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    *mapping = (zero1__mapping){.fd = -1};
    return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                       "memory of process %lld cannot be seen: %s: %s", (long long)key->pid, path,
                       strerror(errno));
  }
  const zero1_status status = map(mapping, fd, error);
  close(fd);
  if (status) *mapping = (zero1__mapping){.fd = -1};
  return status;
}

static void close_file(zero1__mapping *mapping) {
  if (mapping->bytes && mapping->fd >= 0) close(mapping->fd);
  mapping->fd = -1;
}

void zero1__mapping_close(zero1__mapping *mapping) {
  close_file(mapping);
  const int last = !mapping->refs || atomic_fetch_sub((atomic_int *)mapping->refs, 1) == 1;
  if (last && mapping->base) munmap(mapping->base, mapping->bytes);
  if (last) free(mapping->refs);
  *mapping = (zero1__mapping){.fd = -1};
}

static void close_all(zero1__mapping *mappings, int32_t count) {
  for (int32_t i = 0; i < count; ++i) zero1__mapping_close(&mappings[i]);
}

zero1_status zero1__mapping_share(zero1__lane *lane, const zero1__node_shape *shape, size_t bytes,
                                  zero1__mapping *mappings, zero1__error *error) {
  const zero1_comm *comm = lane->comm;
  const int32_t own = comm->rank - shape->rank_begin;
  zero1__mapping_key key;
  zero1__mapping_key *keys = calloc((size_t)comm->world_size, sizeof *keys);
  memset(mappings, 0, (size_t)shape->size * sizeof *mappings);
  zero1_status status = keys ? ZERO1_OK : no_memory(error, sizeof *keys, "malloc", ENOMEM);
  if (!status) status = zero1__mapping_create(shape->threads, bytes, &mappings[own], &key, error);
  status = zero1__lane_agree(lane, status, error);
  if (!status) status = zero1__lane_gather(lane, &key, keys, sizeof key, error);
  if (!status) {
    for (int32_t i = 0; i < shape->size && !status; ++i)
      if (i != own) status = zero1__mapping_open(&keys[shape->rank_begin + i], &mappings[i], error);
    status = zero1__lane_agree(lane, status, error);
  }
  close_file(&mappings[own]); /* every peer has its mapping */
  if (status) close_all(mappings, shape->size);
  free(keys);
  return status;
}
