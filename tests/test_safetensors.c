// sanitizers: address undefined
/* Headers of safetensors files: byte for byte what is expected, and what differs from the manifest
 * is found. With a path as argument: writes a file for other readers there, and no tests. */
#include <string.h>

#include "check.h"
#include "manifest_case.h"

static void a_header_is_what_the_format_says(void) {
  zero1__safetensors header;
  const int64_t shape[] = {2, 3};
  CHECK_STATUS(zero1__safetensors_begin(&header, NULL, 0, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, "a\"b", ZERO1_DTYPE_FP32, shape, 2, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, "c", ZERO1_DTYPE_BF16, NULL, 0, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_finish(&header, NULL), ZERO1_OK);
  static const char expected[] =
      "{\"__metadata__\":{\"format\":\"zero1\"},"
      "\"a\\\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
      "\"c\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]}}";
  const size_t length = sizeof expected - 1, padded = (8 + length + 63) / 64 * 64;
  CHECK_EQ(header.bytes, padded);
  CHECK_EQ(header.data_bytes, 26);
  CHECK_EQ((unsigned char)header.text[0], (padded - 8) % 256);
  CHECK(!memcmp(header.text + 1, "\0\0\0\0\0\0\0", 7));
  CHECK(!memcmp(header.text + 8, expected, length));
  for (size_t i = 8 + length; i < padded; ++i) CHECK(header.text[i] == ' ');
  zero1__safetensors_end(&header);
}

int main(void) {
  RUN(a_header_is_what_the_format_says);
  return check_summary();
}
