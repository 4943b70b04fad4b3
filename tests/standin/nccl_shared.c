/* What the ranks of a communicator of the stand-in NCCL (no NCCL) share: one mapping per process,
 * so that threads see each other through it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nccl_group.h"

typedef struct mapping {
  struct mapping *next;
  char name[STANDIN_NCCL_NAME];
  standin_group *group;
  int32_t users;
} mapping;

static pthread_mutex_t mappings_mutex = PTHREAD_MUTEX_INITIALIZER;
static mapping *mappings;

static standin_group *map_group(const char *name) {
  const int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
  void *base = MAP_FAILED;
  if (fd < 0) return NULL;
  if (!ftruncate(fd, sizeof(standin_group)))
    base = mmap(NULL, sizeof(standin_group), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return base == MAP_FAILED ? NULL : base;
}

standin_group *standin_nccl_group_open(const char *name) {
  pthread_mutex_lock(&mappings_mutex);
  mapping *found = mappings;
  while (found && strcmp(found->name, name)) found = found->next;
  if (!found) {
    found = calloc(1, sizeof *found);
    if (found && !(found->group = map_group(name))) {
      free(found);
      found = NULL;
    }
    if (found) {
      snprintf(found->name, sizeof found->name, "%s", name);
      found->next = mappings;
      mappings = found;
    }
  }
  if (found) ++found->users;
  pthread_mutex_unlock(&mappings_mutex);
  return found ? found->group : NULL;
}

void standin_nccl_group_close(const char *name) {
  pthread_mutex_lock(&mappings_mutex);
  mapping **at = &mappings;
  while (strcmp((*at)->name, name)) at = &(*at)->next;
  mapping *found = *at;
  if (--found->users == 0) {
    *at = found->next;
    munmap(found->group, sizeof *found->group);
    shm_unlink(name); /* a second time, mostly */
    free(found);
  }
  pthread_mutex_unlock(&mappings_mutex);
}
