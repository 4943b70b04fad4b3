// sanitizers: address undefined
/* manifest.json: what is written is read again, bit for bit; what is damaged is refused, and named. */
#include <string.h>
#include <xxhash.h>

#include "check.h"
#include "manifest_case.h"

static void a_manifest_reads_as_it_was_written(void) {
  zero1__manifest saved, loaded;
  zero1__error error = {0};
  char *text, *again;
  size_t bytes, again_bytes;
  case_manifest(&saved);
  CHECK_STATUS(zero1__manifest_write(&saved, &text, &bytes, NULL), ZERO1_OK);
  CHECK(strlen(text) == bytes);
  const zero1_status status = zero1__manifest_read("m", text, bytes, &loaded, &error);
  if (status) fprintf(stderr, "%s\n%s", error.text, text);
  CHECK_STATUS(status, ZERO1_OK);
  case_check_equal(&saved, &loaded);
  CHECK_STATUS(zero1__manifest_write(&loaded, &again, &again_bytes, NULL), ZERO1_OK);
  CHECK(bytes == again_bytes && !memcmp(text, again, bytes));
  free(text);
  free(again);
  zero1__manifest_end(&saved);
  zero1__manifest_end(&loaded);
}

int main(void) {
  RUN(a_manifest_reads_as_it_was_written);
  return check_summary();
}
