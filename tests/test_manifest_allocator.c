// sanitizers: address undefined
// wrap: malloc calloc realloc free
/* The n-th allocation fails, for every n: the failure is told and nothing is left over. (Of the
 * library itself: jansson, which it asks first, does not bear that.) */
#include <string.h>

#include "check.h"
#include "manifest_case.h"

static int64_t left = INT64_MAX; /* allocations that still succeed */
static int for_good;             /* 0: one fails; 1: and all that follow */
static int64_t alive;

static int fails(void) {
  if (left == INT64_MAX) return 0;
  --left;
  return for_good ? left < 0 : left == -1;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void __wrap_free(void *memory);

static void *counted(void *memory) {
  alive += memory != NULL;
  return memory;
}

void *__wrap_malloc(size_t bytes) {
  return fails() ? NULL : counted(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes) {
  return fails() ? NULL : counted(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *memory, size_t bytes) {
  if (fails()) return NULL;
  void *const grown = __real_realloc(memory, bytes);
  return memory ? grown : counted(grown);
}

void __wrap_free(void *memory) {
  alive -= memory != NULL;
  __real_free(memory);
}

/* ---- what is tried ---- */

typedef struct made {
  char *text, *part;
  size_t text_bytes, part_bytes;
  zero1__safetensors header;
  zero1__manifest manifest;
} made;

static zero1_status write_manifest(const made *from, zero1__error *error) {
  char *text;
  size_t bytes;
  const zero1_status status = zero1__manifest_write(&from->manifest, &text, &bytes, error);
  CHECK(!text == (status != ZERO1_OK));
  free(text);
  return status;
}

static zero1_status read_manifest(const made *from, zero1__error *error) {
  zero1__manifest manifest;
  const zero1_status status =
      zero1__manifest_read("m", from->text, from->text_bytes, &manifest, error);
  zero1__manifest_end(&manifest);
  return status;
}

static zero1_status read_part(const made *from, zero1__error *error) {
  zero1__pairs none = {0};
  zero1__manifest manifest = {.world_size = 1, .rank_metadata = &none};
  const zero1_status status =
      zero1__part_read("p", from->part, from->part_bytes, 0, &manifest, error);
  zero1__index_end(&manifest.index);
  zero1__pairs_end(&none);
  return status;
}

static zero1_status copy_pairs(const made *from, zero1__error *error) {
  zero1__pairs pairs;
  const zero1_status status = zero1__pairs_begin(&pairs, from->manifest.metadata.pairs,
                                                 from->manifest.metadata.count, "data", error);
  zero1__pairs_end(&pairs);
  return status;
}

static zero1_status write_header(const made *from, zero1__error *error) {
  zero1__safetensors header;
  zero1_status status = case_header(&header, &from->manifest, 0, error);
  zero1__safetensors_end(&header);
  return status;
}

static zero1_status check_header(const made *from, zero1__error *error) {
  return zero1__safetensors_check("h", from->header.text, from->header.bytes, &from->manifest, 0,
                                  error);
}

static void each_allocation_may_fail(void) {
  static zero1_status (*const calls[])(const made *, zero1__error *) = {
      write_manifest, read_manifest, read_part, copy_pairs, write_header, check_header};
  const zero1__pairs none = {0};
  zero1__index index = {0};
  made from;
  case_manifest(&from.manifest);
  case_place_headers(&from.manifest);
  CHECK_STATUS(zero1__manifest_write(&from.manifest, &from.text, &from.text_bytes, NULL), ZERO1_OK);
  CHECK_STATUS(case_header(&from.header, &from.manifest, 0, NULL), ZERO1_OK);
  case_add_file(&index, 0, 0);
  CHECK_STATUS(zero1__part_write(&index, &none, &from.part, &from.part_bytes, NULL), ZERO1_OK);
  for (size_t i = 0; i < sizeof calls / sizeof *calls; ++i)
    for (for_good = 0; for_good < 2; ++for_good) {
      zero1_status status = ZERO1_ERR_MEMORY;
      for (int64_t n = 0; status; ++n) {
        zero1__error error = {0};
        const int64_t before = alive;
        CHECK(n < 2000);
        left = n;
        status = calls[i](&from, &error);
        const int64_t rest = left;
        left = INT64_MAX;
        if (status) {
          CHECK_STATUS(status, ZERO1_ERR_MEMORY);
          CHECK_SAYS(error.text, "memory");
        }
        if (!status) CHECK(rest >= 0 && n > 0); /* no failure was passed over */
        CHECK_EQ(alive, before);
      }
    }
  zero1__index_end(&index);
  zero1__safetensors_end(&from.header);
  zero1__manifest_end(&from.manifest);
  free(from.text);
  free(from.part);
}

int main(void) {
  RUN(each_allocation_may_fail);
  return check_summary();
}
