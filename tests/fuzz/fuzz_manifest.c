/* Any bytes as a manifest, and as a part of one: as they are, and with the checksum that they would
 * have, without which hardly any would get further than to the check of it. What is accepted is
 * written again, and that reads as the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fuzz.h"
#include "manifest.h"

static void require(int holds) {
  if (!holds) abort();
}

/* Writes what was read; a second round changes nothing. */
static void read_again(const zero1__manifest *manifest) {
  zero1__manifest again;
  char *text, *more;
  size_t bytes, more_bytes;
  require(!zero1__manifest_write(manifest, &text, &bytes, NULL));
  require(!zero1__manifest_read("again", text, bytes, &again, NULL));
  require(!zero1__manifest_write(&again, &more, &more_bytes, NULL));
  require(bytes == more_bytes && !memcmp(text, more, bytes));
  zero1__manifest_end(&again);
  free(text);
  free(more);
}

static void read_one(const char *text, size_t bytes) {
  zero1__manifest manifest;
  zero1__error error = {0};
  const zero1_status status = zero1__manifest_read("path", text, bytes, &manifest, &error);
  require(status == ZERO1_OK || status == ZERO1_ERR_CORRUPT || status == ZERO1_ERR_VERSION);
  require((status == ZERO1_OK) == !error.text[0]);
  if (!status) read_again(&manifest);
  zero1__manifest_end(&manifest);
}

static void read_part(const char *text, size_t bytes) {
  zero1__pairs metadata[1] = {{0}};
  zero1__manifest manifest = {.world_size = 1, .rank_metadata = metadata};
  const zero1_status status = zero1__part_read("path", text, bytes, 0, &manifest, NULL);
  require(status == ZERO1_OK || status == ZERO1_ERR_CORRUPT || status == ZERO1_ERR_VERSION);
  if (!status) zero1__manifest_check("path", &manifest, NULL);
  zero1__index_end(&manifest.index);
  zero1__pairs_end(metadata);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  char *const text = malloc(bytes + 32);
  if (!text) return 0;
  if (bytes) memcpy(text, data, bytes);
  char *const exact = realloc(text, bytes ? bytes : 1); /* what is behind it must not be read */
  read_one(exact, bytes);
  char *const sealed = realloc(exact, bytes + 32);
  const unsigned long long hash = XXH3_64bits(sealed, bytes);
  const size_t sealed_bytes = bytes + (size_t)snprintf(sealed + bytes, 32, "%016llx\"}\n", hash);
  read_one(sealed, sealed_bytes);
  read_part(sealed, sealed_bytes);
  free(sealed);
  return 0;
}
