#include "bench_plain_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "bench_require.h"

static int open_or_end(const char *path, int flags) {
  const int file = open(path, flags | O_CLOEXEC, 0644);
  bench_require(file >= 0, "%s: %m", path);
  return file;
}

/* ---- a plain writer and reader ---- */

void bench_plain_write(const char *path, const void *data, size_t bytes) {
  const int file = open_or_end(path, O_WRONLY | O_CREAT | O_TRUNC);
  for (size_t done = 0; done < bytes;) {
    const size_t left = bytes - done;
    const ssize_t wrote =
        write(file, (const char *)data + done, left < BENCH_PLAIN_PIECE ? left : BENCH_PLAIN_PIECE);
    bench_require(wrote > 0, "%s: writing failed: %m", path);
    done += (size_t)wrote;
  }
  bench_require(!fsync(file), "%s: flushing failed: %m", path);
  close(file);
}

void bench_plain_read(const char *path, void *data, size_t bytes) {
  const int file = open_or_end(path, O_RDONLY);
  for (size_t done = 0; done < bytes;) {
    const size_t left = bytes - done;
    const ssize_t got =
        read(file, (char *)data + done, left < BENCH_PLAIN_PIECE ? left : BENCH_PLAIN_PIECE);
    bench_require(got >= 0, "%s: reading failed: %m", path);
    bench_require(got > 0, "%s: is too short", path);
    done += (size_t)got;
  }
  close(file);
}

void bench_flush_folder(const char *path) {
  const int folder = open_or_end(path, O_RDONLY | O_DIRECTORY);
  bench_require(!fsync(folder), "%s: flushing failed: %m", path);
  close(folder);
}

size_t bench_file_bytes(const char *path) {
  struct stat found;
  bench_require(!stat(path, &found), "%s: %m", path);
  return (size_t)found.st_size;
}

/* ---- the page cache ---- */

void bench_drop_cached(const char *path) {
  const int file = open_or_end(path, O_RDONLY);
  fsync(file); /* what is not on disk yet cannot be dropped */
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  close(file);
}

double bench_cached_part(const char *path) {
  const size_t bytes = bench_file_bytes(path), page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t pages = (bytes + page - 1) / page;
  const int file = open_or_end(path, O_RDONLY);
  void *mapped = pages ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  unsigned char *there = bench_alloc(pages, 1);
  size_t count = 0;
  const int told = mapped != MAP_FAILED && !mincore(mapped, bytes, there);
  for (size_t i = 0; told && i < pages; ++i) count += there[i] & 1;
  if (mapped != MAP_FAILED) munmap(mapped, bytes);
  free(there);
  close(file);
  return told ? (double)count / (double)pages : 1;
}

/* ---- where ---- */

void bench_filesystem_name(const char *path, char *text, size_t text_bytes) {
  static const struct {
    unsigned long type;
    const char *name;
  } known[] = {{0xef53, "ext4"},      {0x58465342, "xfs"},     {0x9123683e, "btrfs"},
               {0x01021994, "tmpfs"}, {0x794c7630, "overlay"}, {0x6969, "nfs"},
               {0x2fc12fc1, "zfs"},   {0x0bd00bd0, "lustre"},  {0x858458f6, "ramfs"},
               {0x65735546, "fuse"},  {0xf2f52010, "f2fs"}};
  struct statfs found;
  bench_require(!statfs(path, &found), "%s: %m", path);
  const unsigned long type = (unsigned long)found.f_type & 0xffffffff;
  snprintf(text, text_bytes, "type 0x%lx", type);
  for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
    if (known[i].type == type) snprintf(text, text_bytes, "%s", known[i].name);
}
