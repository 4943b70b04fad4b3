#include "bench_machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench_world.h"

#define TEXT_BYTES 128

static void copy(char *to, const char *from, size_t bytes) {
  if (bytes >= TEXT_BYTES) bytes = TEXT_BYTES - 1;
  memcpy(to, from, bytes);
  to[bytes] = 0;
}

/* Of the file's first line that has `begin` in it: from there to the next `end`. */
static void find_text(const char *path, const char *begin, const char *end, char *text) {
  char line[512];
  FILE *file = fopen(path, "r");
  copy(text, "unknown", 7);
  while (file && fgets(line, sizeof line, file)) {
    const char *found = strstr(line, begin);
    if (!found) continue;
    found += strlen(begin);
    copy(text, found, strcspn(found, end));
    break;
  }
  if (file) fclose(file);
}

/* "Open MPI v4.1.4, package: ..." ends at its first comma: what follows names a builder. */
static void find_mpi(char *text) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length;
  MPI_Get_library_version(version, &length);
  copy(text, version, strcspn(version, ",\n"));
}

void bench_machine_find(bench_machine *machine) {
  struct utsname names;
  memset(machine, 0, sizeof *machine);
  find_text("/proc/cpuinfo", "model name\t: ", "\n", machine->cpu);
  machine->cores = sysconf(_SC_NPROCESSORS_ONLN);
  machine->memory_gib = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (1 << 30);
  copy(machine->kernel, "unknown", 7);
  if (!uname(&names))
    snprintf(machine->kernel, TEXT_BYTES, "%.40s %.64s", names.sysname, names.release);
#if defined(__clang__)
  snprintf(machine->compiler, TEXT_BYTES, "%.100s", __VERSION__);
#else
  snprintf(machine->compiler, TEXT_BYTES, "GCC %.100s", __VERSION__);
#endif
  find_mpi(machine->mpi);
  find_text("/sys/kernel/mm/transparent_hugepage/enabled", "[", "]", machine->huge_pages);
  find_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "[", "]",
            machine->shared_huge_pages);
}

void bench_machine_json(bench_json *object, const bench_machine *machine) {
  bench_json_text(object, "cpu", machine->cpu);
  bench_json_whole(object, "cores", machine->cores);
  bench_json_real(object, "memory_gib", machine->memory_gib);
  bench_json_text(object, "kernel", machine->kernel);
  bench_json_text(object, "compiler", machine->compiler);
  bench_json_text(object, "mpi", machine->mpi);
  bench_json_text(object, "huge_pages", machine->huge_pages);
  bench_json_text(object, "shared_huge_pages", machine->shared_huge_pages);
}
