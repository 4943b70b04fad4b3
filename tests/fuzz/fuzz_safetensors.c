/* Any bytes as the begin of a safetensors file of the small manifest: as they are, and as the JSON
 * of a header of the length that the manifest expects. */
#include <stdlib.h>
#include <string.h>

#include "../manifest_case.h"
#include "fuzz.h"

static void check_one(const zero1__manifest *manifest, const char *text, size_t bytes) {
  const zero1_status status = zero1__safetensors_check("path", text, bytes, manifest, 0, NULL);
  if (status != ZERO1_OK && status != ZERO1_ERR_CORRUPT) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  zero1__manifest manifest;
  case_manifest(&manifest);
  case_place_headers(&manifest);
  const size_t header_bytes = (size_t)manifest.index.ranges[0].offset;
  char *const exact = malloc(bytes + 1), *const header = malloc(header_bytes);
  if (!exact || !header) abort();
  if (bytes) memcpy(exact, data, bytes);
  check_one(&manifest, exact, bytes);
  memset(header, ' ', header_bytes);
  for (int i = 0; i < 8; ++i) header[i] = (char)((header_bytes - 8) >> (8 * i) & 0xff);
  if (bytes) memcpy(header + 8, data, bytes < header_bytes - 8 ? bytes : header_bytes - 8);
  check_one(&manifest, header, header_bytes);
  free(exact);
  free(header);
  zero1__manifest_end(&manifest);
  return 0;
}
