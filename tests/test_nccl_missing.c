// sanitizers: address undefined
// wrap: dlopen

/* A program without NCCL on a machine without one: the calls that need it say so. */
#include <dlfcn.h>
#include <string.h>

#include "check.h"
#include "zero1/comm.h"

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);

void *__wrap_dlopen(const char *name, int flags) {
  if (strstr(name, "libnccl")) name = "no-such-libnccl.so.2";
  return __real_dlopen(name, flags);
}

static int32_t alone(void *context, const void *in, void *out, size_t bytes) {
  (void)context;
  memcpy(out, in, bytes);
  return 0;
}

static void check_refused(zero1_status status, zero1_comm **comm, const char *text) {
  CHECK_STATUS(status, ZERO1_ERR_UNSUPPORTED);
  CHECK(!*comm);
  *comm = (zero1_comm *)(uintptr_t)1;
  if (!strstr(text, "has no NCCL")) /* else the build */
    CHECK(strstr(text, "NCCL was not found: no-such-libnccl.so.2"));
}

static void every_way_in_says_that_there_is_no_nccl(void) {
  unsigned char id[ZERO1_NCCL_ID_BYTES] = {0};
  char text[300] = "";
  int given;
  zero1_comm *comm = (zero1_comm *)(uintptr_t)1;
  zero1_comm_options options;
  CHECK_STATUS(zero1_comm_options_init(&options, sizeof options), ZERO1_OK);
  options.error_text = text;
  options.error_bytes = sizeof text;
  check_refused(zero1_comm_create_nccl(&given, &options, &comm), &comm, text);
  check_refused(zero1_comm_create_nccl_id(0, 1, id, sizeof id, &options, &comm), &comm, text);
  check_refused(zero1_comm_create_nccl_allgather(0, 1, alone, NULL, &options, &comm), &comm, text);
  CHECK_STATUS(zero1_nccl_unique_id(id, sizeof id), ZERO1_ERR_UNSUPPORTED);
}

int main(void) {
  RUN(every_way_in_says_that_there_is_no_nccl);
  return check_summary();
}
