#include "memory_limit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The number in a file of one number; UINT64_MAX: none, or "max". */
static uint64_t read_number(const char *path) {
  uint64_t value = UINT64_MAX;
  FILE *file = fopen(path, "r");
  if (!file) return UINT64_MAX;
  if (fscanf(file, "%" SCNu64, &value) != 1) value = UINT64_MAX;
  fclose(file);
  return value;
}

static uint64_t meminfo_available(void) {
  char line[128];
  uint64_t kib = 0, available = UINT64_MAX;
  FILE *file = fopen("/proc/meminfo", "r");
  if (!file) return UINT64_MAX;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) available = kib * 1024;
  fclose(file);
  return available;
}

/* What a control group leaves: its limit less what it uses, with page cache that it can drop among
 * what it does not use. */
static uint64_t cgroup_available(const char *limit_path, const char *current_path,
                                 const char *stat_path, const char *cache_key) {
  char line[128];
  uint64_t value = 0, cache = 0;
  const uint64_t limit = read_number(limit_path), current = read_number(current_path);
  if (limit == UINT64_MAX || current == UINT64_MAX) return UINT64_MAX;
  FILE *file = fopen(stat_path, "r");
  const size_t key = strlen(cache_key);
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, cache_key, key) && sscanf(line + key, " %" SCNu64, &value) == 1)
      cache += value;
  if (file) fclose(file);
  const uint64_t used = current > cache ? current - cache : 0;
  return limit > used ? limit - used : 0;
}

/* What ulimit -v leaves this process. */
static uint64_t address_space_available(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  const uint64_t pages = read_number("/proc/self/statm");
  if (pages == UINT64_MAX) return UINT64_MAX;
  const uint64_t used = pages * (uint64_t)sysconf(_SC_PAGESIZE);
  return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

zero1_status zero1__memory_check(uint64_t rank_bytes, int32_t ranks, zero1__error *error) {
  const struct {
    const char *name;
    uint64_t bytes;
  } limits[] = {
      {"MemAvailable of /proc/meminfo", meminfo_available()},
      {"memory.max of the control group",
       cgroup_available("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
                        "/sys/fs/cgroup/memory.stat", "inactive_file")},
      {"memory.limit_in_bytes of the control group",
       cgroup_available("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                        "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file")},
  };
  const uint64_t address_space = address_space_available();
  if (rank_bytes > address_space)
    return zero1__fail(error, ZERO1_ERR_MEMORY,
                       "%" PRIu64
                       " bytes are needed by this rank, and the limit of its address "
                       "space (ulimit -v) leaves %" PRIu64,
                       rank_bytes, address_space);
  const uint64_t need =
      rank_bytes > UINT64_MAX / (uint64_t)ranks ? UINT64_MAX : rank_bytes * (uint64_t)ranks;
  for (size_t i = 0; i < sizeof limits / sizeof *limits; ++i)
    if (need > limits[i].bytes)
      return zero1__fail(error, ZERO1_ERR_MEMORY,
                         "%" PRIu64 " bytes are needed on this machine, %" PRIu64
                         " for each of %d ranks, and %s leaves %" PRIu64,
                         need, rank_bytes, ranks, limits[i].name, limits[i].bytes);
  return ZERO1_OK;
}
