// sanitizers: address undefined
/* Memory that processes of a machine share: whose addresses suit huge pages, and what is taken of
 * the address space is given back. */
#include "mapping.h"

#include <stdio.h>
#include <string.h>

#include "check.h"

enum { HUGE = 2 << 20, PAGE = 4096 };

/* Lines of /proc/self/maps that lie in [begin, end). */
static int mapped_in(uintptr_t begin, uintptr_t end) {
  char line[512];
  int count = 0;
  FILE *const maps = fopen("/proc/self/maps", "r");
  CHECK(maps);
  while (fgets(line, sizeof line, maps)) {
    uintptr_t from, to;
    CHECK(sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) == 2);
    count += from < end && to > begin;
  }
  fclose(maps);
  return count;
}

static void check_shared(int threads, size_t bytes, int aligned) {
  zero1__mapping own, peers;
  zero1__mapping_key key;
  zero1__error error;
  zero1__error_clear(&error);
  CHECK_STATUS(zero1__mapping_create(threads, bytes, &own, &key, &error), ZERO1_OK);
  CHECK_STATUS(zero1__mapping_open(&key, &peers, &error), ZERO1_OK);
  char *const here = own.base, *const there = peers.base;
  for (size_t i = 0; i < bytes; i += PAGE) CHECK(here[i] == 0);
  here[0] = 'a';
  here[bytes - 1] = 'z';
  CHECK(there[0] == 'a' && there[bytes - 1] == 'z');
  if (aligned) CHECK((uintptr_t)here % HUGE == 0 && (uintptr_t)there % HUGE == 0);
  zero1__mapping_close(&peers);
  zero1__mapping_close(&own);
  CHECK_EQ(mapped_in((uintptr_t)here, (uintptr_t)here + bytes), 0);
}

static void small_memory_is_shared(void) {
  check_shared(0, PAGE, 0);
  check_shared(1, PAGE, 0);
}

static void large_memory_begins_where_a_huge_page_can(void) {
  check_shared(0, HUGE, 1);
  check_shared(0, 5 * (size_t)HUGE + 3 * PAGE, 1);
  check_shared(1, 5 * (size_t)HUGE + 3 * PAGE, 1);
}

int main(void) {
  RUN(small_memory_is_shared);
  RUN(large_memory_begins_where_a_huge_page_can);
  return check_summary();
}
