#include "nccl_load.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

zero1__nccl_functions zero1__nccl;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static zero1__error failure; /* of the one attempt; written before `once` is done */

/* In the program itself, loaded by it, where the system looks, where the build found it. Returns
 * whether it is anywhere; RTLD_DEFAULT may be NULL. */
static int find_library(void **library) {
  *library = RTLD_DEFAULT;
  if (dlsym(RTLD_DEFAULT, "ncclGetVersion")) return 1;
  *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
  if (!*library) *library = dlopen("libnccl.so.2", RTLD_NOW);
  if (!*library) *library = dlopen(ZERO1__NCCL_LIBRARY, RTLD_NOW);
  return *library != NULL;
}

/* A pointer to a function from one to an object, which C does not convert. */
static void take(void *library, const char *name, void *member, int optional) {
  void *const address = dlsym(library, name);
  memcpy(member, &address, sizeof address);
  if (!address && !optional)
    zero1__fail(&failure, ZERO1_ERR_UNSUPPORTED, "the NCCL that was found has no %s", name);
}

static void load(void) {
  void *library;
  if (!find_library(&library)) {
    zero1__fail(&failure, ZERO1_ERR_UNSUPPORTED, "NCCL was not found: %.300s", dlerror());
    return;
  }
#define TAKE(name) take(library, #name, &zero1__nccl.name, 0);
#define TAKE_OPTIONAL(name) take(library, #name, &zero1__nccl.name, 1);
  ZERO1__NCCL_FUNCTIONS(TAKE)
  ZERO1__NCCL_OPTIONAL(TAKE_OPTIONAL)
}

zero1_status zero1__nccl_load(zero1__error *error) {
  pthread_once(&once, load);
  if (!failure.status) return ZERO1_OK;
  return zero1__fail(error, failure.status, "%s", failure.text);
}
