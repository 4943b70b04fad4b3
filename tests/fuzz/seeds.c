/* seeds FOLDER: writes there what fuzzing starts from, in manifest/ and safetensors/, which exist:
 * texts without their checksum, and JSON without its length, since the targets put these there. */
#include <string.h>

#include "../manifest_case.h"

static void write_seed(const char *folder, const char *name, const char *data, size_t bytes) {
  char path[4096];
  CHECK(snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path);
  FILE *const file = fopen(path, "wb");
  CHECK(file);
  CHECK(fwrite(data, 1, bytes, file) == bytes);
  CHECK(!fclose(file));
}

/* Up to where the 16 digits of the checksum begin. */
static void write_text(const char *folder, const char *name, char *text, size_t bytes) {
  write_seed(folder, name, text, bytes - strlen("0123456789abcdef\"}\n"));
  free(text);
}

/* One rank, one parameter: short, so that a mutation often hits what matters. */
static void make_least(zero1__manifest *manifest) {
  static const int64_t shape[] = {4};
  static const zero1_param_spec spec = {"w", shape, 1, 0, ZERO1_PARAM_FROZEN, 0};
  int64_t offset = CASE_HEADER;
  memset(manifest, 0, sizeof *manifest);
  manifest->world_size = 1;
  manifest->param_dtype = ZERO1_DTYPE_BF16;
  manifest->group_count = 1;
  manifest->groups = calloc(1, sizeof *manifest->groups);
  manifest->rank_metadata = calloc(1, sizeof *manifest->rank_metadata);
  CHECK(manifest->groups && manifest->rank_metadata);
  CHECK_STATUS(zero1_group_init(manifest->groups, sizeof(zero1_group)), ZERO1_OK);
  CHECK_STATUS(zero1__registry_begin(&manifest->params, &spec, sizeof spec, 1, 1, NULL), ZERO1_OK);
  case_add_range(&manifest->index, 0, 0, ZERO1_STATE_PARAM, 0, 4, &offset);
  CHECK_STATUS(zero1__index_add_file(&manifest->index, "f", 0, offset + 8, NULL), ZERO1_OK);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  zero1__manifest manifest, least;
  zero1__safetensors header;
  zero1__index index = {0};
  char folder[4000], *text;
  size_t bytes;
  CHECK(snprintf(folder, sizeof folder, "%s/manifest", argv[1]) < (int)sizeof folder);
  case_manifest(&manifest);
  CHECK_STATUS(zero1__manifest_write(&manifest, &text, &bytes, NULL), ZERO1_OK);
  write_text(folder, "two_ranks", text, bytes);
  make_least(&least);
  CHECK_STATUS(zero1__manifest_write(&least, &text, &bytes, NULL), ZERO1_OK);
  write_text(folder, "least", text, bytes);
  case_add_file(&index, 0, 0);
  CHECK_STATUS(zero1__part_write(&index, &manifest.metadata, &text, &bytes, NULL), ZERO1_OK);
  write_text(folder, "part", text, bytes);

  CHECK(snprintf(folder, sizeof folder, "%s/safetensors", argv[1]) < (int)sizeof folder);
  case_place_headers(&manifest);
  CHECK_STATUS(case_header(&header, &manifest, 0, NULL), ZERO1_OK);
  write_seed(folder, "whole", header.text, header.bytes);
  write_seed(folder, "json", header.text + 8, header.bytes - 8);
  zero1__safetensors_end(&header);
  zero1__index_end(&index);
  zero1__manifest_end(&manifest);
  zero1__manifest_end(&least);
  return 0;
}
