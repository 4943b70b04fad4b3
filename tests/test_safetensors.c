// sanitizers: address undefined
/* Headers of safetensors files: byte for byte what is expected, and what differs from the manifest
 * is found. With a path as its argument it runs no test: it writes a file for other readers
 * there. */
#include <string.h>

#include "check.h"
#include "manifest_case.h"

#define PATH "dir/rank-0"

/* ---- what is written ---- */

static void a_header_is_what_the_format_says(void) {
  static const char expected[] =
      "{\"__metadata__\":{\"format\":\"zero1\",\"k\":\"v\\n\"},"
      "\"a\\\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
      "\"c\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]}}";
  const size_t length = sizeof expected - 1, padded = (8 + length + 63) / 64 * 64;
  const int64_t shape[] = {2, 3};
  const zero1_pair metadata = {"k", "v\n"};
  zero1__safetensors header;
  CHECK_STATUS(zero1__safetensors_begin(&header, &metadata, 1, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, "a\"b", ZERO1_DTYPE_FP32, shape, 2, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, "c", ZERO1_DTYPE_BF16, NULL, 0, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_finish(&header, NULL), ZERO1_OK);
  CHECK_EQ(header.bytes, padded);
  CHECK_EQ(header.data_bytes, 26);
  CHECK_EQ((unsigned char)header.text[0], (padded - 8) % 256);
  CHECK_EQ((unsigned char)header.text[1], (padded - 8) / 256);
  CHECK(!memcmp(header.text + 2, "\0\0\0\0\0\0", 6));
  CHECK(!memcmp(header.text + 8, expected, length));
  for (size_t i = 8 + length; i < padded; ++i) CHECK(header.text[i] == ' ');
  zero1__safetensors_end(&header);
}

static void another_format_takes_the_place_of_ours(void) {
  static const char expected[] = "{\"__metadata__\":{\"k\":\"v\",\"format\":\"pt\"}}";
  const zero1_pair metadata[] = {{"k", "v"}, {"format", "pt"}};
  zero1__safetensors header;
  CHECK_STATUS(zero1__safetensors_begin(&header, metadata, 2, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_finish(&header, NULL), ZERO1_OK);
  CHECK_EQ(header.bytes, 64);
  CHECK(!memcmp(header.text + 8, expected, sizeof expected - 1));
  zero1__safetensors_end(&header);
}

static void tensors_that_cannot_be_are_named(void) {
  static const struct {
    const char *name, *says;
    int64_t size;
  } cases[] = {
      {"caf\xe9", "tensor 'caf\\xe9' is not UTF-8", 1},
      {"__metadata__", "named '__metadata__'", 1},
      {"big", "the size of tensor 'big' overflows", INT64_MAX},
      {"second", "the size of tensor 'second' overflows", INT64_MAX / 8},
  };
  const int64_t large = INT64_MAX / 8; /* the most elements that there may be, of 4 bytes */
  zero1__safetensors header;
  CHECK_STATUS(zero1__safetensors_begin(&header, NULL, 0, NULL), ZERO1_OK);
  for (int i = 0; i < 2; ++i)
    CHECK_STATUS(zero1__safetensors_add(&header, i ? "b" : "a", ZERO1_DTYPE_FP32, &large, 1, NULL),
                 ZERO1_OK);
  const size_t bytes = header.bytes;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    zero1__error error = {0};
    CHECK_STATUS(
        zero1__safetensors_add(&header, cases[i].name, ZERO1_DTYPE_FP32, &cases[i].size, 1, &error),
        ZERO1_ERR_INVALID);
    CHECK_SAYS(error.text, cases[i].says);
    CHECK(header.bytes == bytes);
  }
  zero1__safetensors_end(&header);
}

static void names_tell_state_and_range(void) {
  static const char *const names[] = {"w.param[5:7]", "w.master_param[5:7]", "w.exp_avg[5:7]",
                                      "w.exp_avg_sq[5:7]", "w.residual[5:7]"};
  for (int32_t state = ZERO1_STATE_PARAM; state <= ZERO1_STATE_RESIDUAL; ++state) {
    char text[40];
    const int length = zero1__safetensors_name("w", state, 5, 7, text, sizeof text);
    CHECK(!strcmp(text, names[state]));
    CHECK_EQ(length, strlen(text));
    CHECK_EQ(zero1__safetensors_name("w", state, 5, 7, NULL, 0), length);
  }
}

/* ---- what is compared ---- */

enum { MORE_PADDING = 256 }; /* so that damage may be longer than what it replaces */

/* The small manifest, and the header of its file 0. */
static void make(zero1__manifest *manifest, zero1__safetensors *header) {
  case_manifest(manifest);
  case_place_headers(manifest);
  CHECK_STATUS(case_header(header, manifest, 0, NULL), ZERO1_OK);
  header->text = realloc(header->text, header->bytes + MORE_PADDING);
  CHECK(header->text);
  memset(header->text + header->bytes, ' ', MORE_PADDING);
  header->bytes += MORE_PADDING;
  header->text[1] = (char)(header->text[1] + MORE_PADDING / 256);
  manifest->index.files[0].bytes += MORE_PADDING;
  for (int64_t i = 0; manifest->index.ranges[i].file == 0; ++i)
    manifest->index.ranges[i].offset += MORE_PADDING;
}

/* Puts `after` in the place of the first `before`; the padding gives or takes. */
static void replace(zero1__safetensors *header, const char *before, const char *after) {
  const size_t room = header->bytes + MORE_PADDING;
  char *const text = malloc(room);
  CHECK(text);
  header->text[header->bytes - 1] = 0;
  char *const place = strstr(header->text + 8, before);
  CHECK(place);
  *place = 0;
  const int length =
      snprintf(text, room, "%s%s%s", header->text + 8, after, place + strlen(before));
  CHECK(length >= 0 && (size_t)length < room);
  memset(text + length, ' ', room - (size_t)length);
  memcpy(header->text + 8, text, header->bytes - 8);
  free(text);
}

static zero1_status check_text(const zero1__manifest *manifest, const char *text, size_t bytes,
                               zero1__error *error) {
  char *const exact = malloc(bytes + 1); /* no byte behind it may be looked at */
  CHECK(exact);
  memcpy(exact, text, bytes);
  memset(error, 0, sizeof *error);
  const zero1_status status = zero1__safetensors_check(PATH, exact, bytes, manifest, 0, error);
  if (status) CHECK(!strncmp(error->text, PATH ": ", strlen(PATH ": ")));
  free(exact);
  return status;
}

static void the_header_of_a_manifest_fits_it(void) {
  zero1__manifest manifest;
  zero1__safetensors header;
  zero1__error error;
  make(&manifest, &header);
  CHECK_STATUS(check_text(&manifest, header.text, header.bytes, &error), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_check(PATH, header.text, header.bytes, &manifest, 1, &error),
               ZERO1_ERR_CORRUPT); /* that of the other file does not */
  for (size_t bytes = 0; bytes < header.bytes; ++bytes) {
    CHECK_STATUS(check_text(&manifest, header.text, bytes, &error), ZERO1_ERR_CORRUPT);
    CHECK_SAYS(error.text, "its header takes");
  }
  zero1__safetensors_end(&header);
  zero1__manifest_end(&manifest);
}

/* Of what a flip may hit, only the pairs of __metadata__ and the padding say nothing of tensors. */
static void every_flipped_byte_of_a_tensor_is_found(void) {
  zero1__manifest manifest;
  zero1__safetensors header;
  zero1__error error;
  make(&manifest, &header);
  const char *const tensors = strstr(header.text + 8, "},") + 1;
  const size_t begin = (size_t)(tensors - header.text);
  size_t end = header.bytes;
  while (header.text[end - 1] == ' ') --end;
  for (size_t i = 0; i < end; i = i == 7 ? begin : i + 1)
    for (int bit = 0; bit < 8; ++bit) {
      header.text[i] ^= (char)(1 << bit);
      const zero1_status status = check_text(&manifest, header.text, header.bytes, &error);
      header.text[i] ^= (char)(1 << bit);
      CHECK_STATUS(status, ZERO1_ERR_CORRUPT);
    }
  zero1__safetensors_end(&header);
  zero1__manifest_end(&manifest);
}

static const struct {
  const char *before, *after, *says;
} damages[] = {
    {"embed.master_param[0:512]", "embed.master_param[0:511]", "lacks 'embed.master_param[0:512]'"},
    {"embed.exp_avg_sq", "embed.exp_avg", "duplicate object key"},
    {"\"dtype\":\"F32\"", "\"dtype\":\"BF16\"", "another dtype of 'embed.master_param[0:512]'"},
    {"\"shape\":[512]", "\"shape\":[513]", "another shape of 'embed.master_param[0:512]'"},
    {"\"shape\":[512]", "\"shape\":[1,512]", "has 'embed.master_param[0:512]' wrong"},
    {"\"shape\":[512]", "\"shape\":512", "has 'embed.master_param[0:512]' wrong"},
    {"[0,2048]", "[0,2049]", "another data_offsets of 'embed.master_param[0:512]'"},
    {"[0,2048]", "[-1,2048]", "another data_offsets of 'embed.master_param[0:512]'"},
    {"[2048,4096]", "[4096,6144]", "another data_offsets of 'embed.exp_avg[0:512]'"},
    {"\"embed.master_param[0:512]\":{", "\"x\":{},\"embed.master_param[0:512]\":{",
     "has 7 tensors, and the manifest has 6"},
    {"\"embed.master_param[0:512]\":{", "\"x\":{},\"embed.master_param[0:512]\":{\"y\":0,",
     "has 'embed.master_param[0:512]' wrong"},
    {"\"format\":\"zero1\"", "\"format\":1", "__metadata__ that are no texts"},
    {"{\"__metadata__\"", "[{\"__metadata__\"", "is not JSON"},
};

static void each_difference_is_named(void) {
  for (size_t i = 0; i < sizeof damages / sizeof *damages; ++i) {
    zero1__manifest manifest;
    zero1__safetensors header;
    zero1__error error;
    make(&manifest, &header);
    replace(&header, damages[i].before, damages[i].after);
    const zero1_status status = check_text(&manifest, header.text, header.bytes, &error);
    if (status != ZERO1_ERR_CORRUPT) fprintf(stderr, "%s\n", damages[i].after);
    CHECK_STATUS(status, ZERO1_ERR_CORRUPT);
    CHECK_SAYS(error.text, damages[i].says);
    zero1__safetensors_end(&header);
    zero1__manifest_end(&manifest);
  }
}

static void data_without_a_tensor_is_found(void) {
  zero1__manifest manifest;
  zero1__safetensors header;
  zero1__error error;
  make(&manifest, &header);
  manifest.index.files[0].bytes += 4;
  CHECK_STATUS(check_text(&manifest, header.text, header.bytes, &error), ZERO1_ERR_CORRUPT);
  CHECK_SAYS(error.text, "follow its header");
  zero1__safetensors_end(&header);
  zero1__manifest_end(&manifest);
}

static void metadata_may_be_missing(void) {
  zero1__manifest manifest;
  zero1__safetensors header;
  zero1__error error;
  make(&manifest, &header);
  char *const tensors = strstr(header.text + 8, "},") + 2;
  memset(header.text + 9, ' ', (size_t)(tensors - header.text) - 9);
  CHECK_STATUS(check_text(&manifest, header.text, header.bytes, &error), ZERO1_OK);
  zero1__safetensors_end(&header);
  zero1__manifest_end(&manifest);
}

/* ---- for other readers ---- */

/* "odd" of the case's odd name: fp32 0, 1, ... 5 as [2, 3]; "half": bf16 1.0 and -2.0; "none":
 * [0]. */
static int write_file(const char *path) {
  static const int64_t odd[] = {2, 3}, half[] = {2}, none[] = {0};
  static const float values[] = {0, 1, 2, 3, 4, 5};
  static const uint16_t halves[] = {0x3f80, 0xc000};
  const zero1_pair metadata = {"note", "\"\\\n\xc3\xa9"};
  zero1__safetensors header;
  FILE *const file = fopen(path, "wb");
  CHECK(file);
  CHECK_STATUS(zero1__safetensors_begin(&header, &metadata, 1, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, CASE_ODD_NAME, ZERO1_DTYPE_FP32, odd, 2, NULL),
               ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, "half", ZERO1_DTYPE_BF16, half, 1, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_add(&header, "none", ZERO1_DTYPE_FP32, none, 1, NULL), ZERO1_OK);
  CHECK_STATUS(zero1__safetensors_finish(&header, NULL), ZERO1_OK);
  CHECK(fwrite(header.text, header.bytes, 1, file) == 1);
  CHECK(fwrite(values, sizeof values, 1, file) == 1);
  CHECK(fwrite(halves, sizeof halves, 1, file) == 1);
  CHECK(!fclose(file));
  zero1__safetensors_end(&header);
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 1) return write_file(argv[1]);
  RUN(a_header_is_what_the_format_says);
  RUN(another_format_takes_the_place_of_ours);
  RUN(tensors_that_cannot_be_are_named);
  RUN(names_tell_state_and_range);
  RUN(the_header_of_a_manifest_fits_it);
  RUN(every_flipped_byte_of_a_tensor_is_found);
  RUN(each_difference_is_named);
  RUN(data_without_a_tensor_is_found);
  RUN(metadata_may_be_missing);
  return check_summary();
}
