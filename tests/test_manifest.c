// sanitizers: address undefined
// timeout: 300
/* manifest.json: what is written is read again, bit for bit; what is damaged is refused, and
 * named. */
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "check.h"
#include "manifest_case.h"

#define PATH "dir/manifest.json"

typedef struct document {
  char *data; /* and a NUL */
  size_t bytes;
} document;

static document text_of(const zero1__manifest *manifest) {
  document text;
  CHECK_STATUS(zero1__manifest_write(manifest, &text.data, &text.bytes, NULL), ZERO1_OK);
  CHECK_EQ(strlen(text.data), text.bytes);
  return text;
}

static document case_text(void) {
  zero1__manifest manifest;
  case_manifest(&manifest);
  const document text = text_of(&manifest);
  zero1__manifest_end(&manifest);
  return text;
}

/* Reads and ends; the failure's text is in *error. */
static zero1_status read_text(const char *data, size_t bytes, zero1__error *error) {
  zero1__manifest manifest;
  memset(error, 0, sizeof *error);
  const zero1_status status = zero1__manifest_read(PATH, data, bytes, &manifest, error);
  zero1__manifest_end(&manifest);
  if (status) CHECK(!strncmp(error->text, PATH ": ", strlen(PATH ": ")));
  return status;
}

/* Makes the checksum right again. */
static void seal(document text) {
  char *const digits = text.data + text.bytes - 19;
  char right[17];
  snprintf(right, sizeof right, "%016llx",
           (unsigned long long)XXH3_64bits(text.data, text.bytes - 19));
  memcpy(digits, right, 16);
}

/* The small manifest with the first `from` become `to`, and a right checksum. */
static document changed(const char *from, const char *to) {
  const document before = case_text();
  const char *const place = strstr(before.data, from);
  if (!place) fprintf(stderr, "'%s' is not in\n%s\n", from, before.data);
  CHECK(place);
  const size_t begin = (size_t)(place - before.data), end = begin + strlen(from);
  document after = {malloc(before.bytes + strlen(to) + 1), 0};
  CHECK(after.data);
  memcpy(after.data, before.data, begin);
  strcpy(after.data + begin, to);
  strcat(after.data, before.data + end);
  after.bytes = strlen(after.data);
  free(before.data);
  seal(after);
  return after;
}

/* ---- round trips ---- */

static void a_manifest_reads_as_it_was_written(void) {
  zero1__manifest saved, loaded;
  case_manifest(&saved);
  const document text = text_of(&saved);
  CHECK_STATUS(zero1__manifest_read(PATH, text.data, text.bytes, &loaded, NULL), ZERO1_OK);
  case_check_equal(&saved, &loaded);
  CHECK(loaded.xxh3 == XXH3_64bits(text.data, text.bytes));
  const document again = text_of(&loaded);
  CHECK(text.bytes == again.bytes && !memcmp(text.data, again.data, text.bytes));
  free(text.data);
  free(again.data);
  zero1__manifest_end(&saved);
  zero1__manifest_end(&loaded);
}

static void the_order_of_ranges_makes_no_difference(void) {
  zero1__manifest manifest;
  case_manifest(&manifest);
  const document text = text_of(&manifest);
  for (int64_t i = 0, k = manifest.index.range_count - 1; i < k; ++i, --k) {
    const zero1__saved_range range = manifest.index.ranges[i];
    manifest.index.ranges[i] = manifest.index.ranges[k];
    manifest.index.ranges[k] = range;
  }
  const document again = text_of(&manifest);
  CHECK(text.bytes == again.bytes && !memcmp(text.data, again.data, text.bytes));
  CHECK_STATUS(zero1__manifest_check(PATH, &manifest, NULL), ZERO1_OK);
  free(text.data);
  free(again.data);
  zero1__manifest_end(&manifest);
}

static void parts_of_ranks_make_a_manifest(void) {
  zero1__manifest expected, manifest;
  case_manifest(&expected);
  case_head(&manifest);
  for (int32_t rank = 0; rank < CASE_WORLD; ++rank) {
    zero1__index index = {0};
    document part;
    case_add_file(&index, 0, rank);
    CHECK_STATUS(
        zero1__part_write(&index, &expected.rank_metadata[rank], &part.data, &part.bytes, NULL),
        ZERO1_OK);
    CHECK_STATUS(zero1__part_read("part", part.data, part.bytes, rank, &manifest, NULL), ZERO1_OK);
    zero1__index_end(&index);
    free(part.data);
  }
  case_check_equal(&expected, &manifest);
  CHECK_STATUS(zero1__manifest_check("part", &manifest, NULL), ZERO1_OK);
  zero1__manifest_end(&expected);
  zero1__manifest_end(&manifest);
}

static void a_part_of_another_rank_or_a_manifest_is_no_part(void) {
  zero1__manifest manifest;
  zero1__error error = {0};
  zero1__index index = {0};
  document part;
  case_head(&manifest);
  case_add_file(&index, 0, 1);
  CHECK_STATUS(zero1__part_write(&index, &manifest.metadata, &part.data, &part.bytes, NULL),
               ZERO1_OK);
  CHECK_STATUS(zero1__part_read("part", part.data, part.bytes, 0, &manifest, &error),
               ZERO1_ERR_CORRUPT);
  CHECK(!strcmp(error.text, "part: files[0]: rank 1 is not in [0, 1)"));
  const document whole = case_text();
  memset(&error, 0, sizeof error);
  CHECK_STATUS(zero1__part_read("part", whole.data, whole.bytes, 0, &manifest, &error),
               ZERO1_ERR_CORRUPT);
  CHECK(!strcmp(error.text, "part: it is no zero1 checkpoint part"));
  CHECK_STATUS(read_text(part.data, part.bytes, &error), ZERO1_ERR_CORRUPT);
  CHECK(!strcmp(error.text, PATH ": it is no zero1 checkpoint"));
  free(part.data);
  free(whole.data);
  zero1__index_end(&index);
  zero1__manifest_end(&manifest);
}

static void reals_keep_their_bits(void) {
  uint64_t state = 1;
  zero1__manifest saved, loaded;
  case_manifest(&saved);
  for (int i = 0; i < 500; ++i) {
    double values[3];
    for (int k = 0; k < 3; ++k) { /* any bits but the sign's and those of what is not finite */
      state = state * 6364136223846793005u + 1442695040888963407u;
      uint64_t bits = (state ^ state >> 29) & 0x7fffffffffffffffu;
      if (bits >= 0x7ff0000000000000u) bits -= 0x7ff0000000000000u;
      memcpy(&values[k], &bits, sizeof bits);
    }
    memcpy(&saved.grad_scale, values, sizeof values);
    saved.groups[0].lr = values[0];
    const document text = text_of(&saved);
    CHECK_STATUS(zero1__manifest_read(PATH, text.data, text.bytes, &loaded, NULL), ZERO1_OK);
    CHECK(!memcmp(&loaded.grad_scale, values, sizeof values));
    CHECK(!memcmp(&loaded.groups[0].lr, values, sizeof *values));
    zero1__manifest_end(&loaded);
    free(text.data);
  }
  zero1__manifest_end(&saved);
}

/* ---- what is refused ---- */

static void every_flipped_byte_is_found(void) {
  const document text = case_text();
  const size_t version = (size_t)(strstr(text.data, "\"version\": 1") - text.data) + 11;
  zero1__error error;
  for (size_t i = 0; i < text.bytes; ++i)
    for (int bit = 0; bit < 8; ++bit) {
      text.data[i] ^= (char)(1 << bit);
      const zero1_status status = read_text(text.data, text.bytes, &error);
      if (i != version || status != ZERO1_ERR_VERSION) CHECK_STATUS(status, ZERO1_ERR_CORRUPT);
      text.data[i] ^= (char)(1 << bit);
    }
  CHECK_STATUS(read_text(text.data, text.bytes, &error), ZERO1_OK);
  free(text.data);
}

static void every_truncation_is_found(void) {
  const document text = case_text();
  zero1__error error;
  for (size_t bytes = 0; bytes < text.bytes; ++bytes) {
    char *const exact = malloc(bytes + 1); /* no byte behind it may be looked at */
    CHECK(exact);
    memcpy(exact, text.data, bytes);
    CHECK_STATUS(read_text(exact, bytes, &error), ZERO1_ERR_CORRUPT);
    CHECK_SAYS(error.text, "checksum");
    free(exact);
  }
  free(text.data);
}

/* Damage that keeps the checksum right: an attack, or an error of the writer. */
static const struct {
  const char *from, *to, *says;
} damages[] = {
    {"\"format\": \"zero1 checkpoint\"", "\"format\": \"other\"", "no zero1 checkpoint"},
    {"\"version\": 1", "\"version\": 0", "no version"},
    {"\"version\": 1", "\"version\": true", "no version"},
    {"\"count\": 120", "\"count\": -1", "count or attempts cannot be so"},
    {"\"count\": 120", "\"count\": 122", "count or attempts cannot be so"},
    {"\"count\": 120", "\"count\": 1.5", "Expected integer, got real"},
    {"\"count\": 120", "\"count\": 92233720368547758080", "too big integer"},
    {"\"count\": 120, ", "", "count"},
    {"\"count\": 120", "\"count\": 120, \"count\": 120", "duplicate object key"},
    {"\"count\": 120", "\"count\": 120, \"more\": 0", "more"},
    {"\"world_size\": 2", "\"world_size\": 2147483647", "no list of world_size elements"},
    {"\"world_size\": 2", "\"world_size\": 4294967298", "world_size"},
    {"\"world_size\": 2", "\"world_size\": 0", "world_size"},
    {"\"param_dtype\": \"BF16\"", "\"param_dtype\": \"F16\"", "param_dtype cannot be so"},
    {"\"grad_scale\": 0.1", "\"grad_scale\": -0.1", "grad_scale cannot be so"},
    {"\"grad_scale\": 0.1", "\"grad_scale\": 1e999, \"a\": 0", "real number overflow"},
    {"\"beta1\": 0.9", "\"beta1\": 1.9", "beta1 of group 0 is 1.9"},
    {"\"decoupled_weight_decay\": true", "\"decoupled_weight_decay\": 1", "groups[0]"},
    {"\"data\": \"17\"", "\"data\": 17", "metadata"},
    {"\"data\": \"17\"", "\"\": \"17\"", "is empty"},
    {"\"data\": \"17\"", "\"data\": \"1\\u00007\"", "\\u0000"},
    {"\"name\": \"embed\"", "\"name\": \"empty\"", "both named 'empty'"},
    {"\"name\": \"embed\"", "\"name\": \"\"", "has no name"},
    {"\"name\": \"embed\"", "\"name\": \"em\xff\"", "unable to decode byte 0xff"},
    {"\"shape\": [2, 300]", "\"shape\": [4294967296, 4294967296]", "overflows"},
    {"\"shape\": [2, 300]", "\"shape\": [-2, 300]", "size -2"},
    {"\"shape\": [2, 300]", "\"shape\": 600", "parameters[0]"},
    {"\"shape\": [2, 300]", "\"shape\": [2, 301]", "ends at element 600 of 602"},
    {"\"shape\": [2, 300]", "\"shape\": [2, 299]", "does not lie in its parameter"},
    {"\"group\": 1", "\"group\": 2", "is in group 2, and there are 2"},
    {"\"group\": 1", "\"group\": 4294967296", "parameters[1]"},
    {"\"frozen\": true", "\"frozen\": false", "that only frozen parameters have"},
    {"\"group\": 1", "\"group\": 1, \"frozen\": true", "that frozen parameters have not"},
    {"rank-00001", "rank-00000", "is there twice"},
    {"rank-00001", "../rank-00001", "is no plain name"},
    {"rank-00001-of-00002-00000.safetensors", "manifest.json", "is no plain name"},
    {"\"rank\": 1", "\"rank\": 2", "rank 2 is not in [0, 2)"},
    {"\"rank\": 1", "\"rank\": -1", "rank -1 is not in [0, 2)"},
    {"\"bytes\": ", "\"bytes\": 900000000000000", "do not fit its"},
    {"\"bytes\": ", "\"bytes\": -", "do not fit its"},
    {"\"xxh3\": \"fe", "\"xxh3\": \"f", "15 digits"},
    {"\"xxh3\": \"fe", "\"xxh3\": \"fE", "what is no digit"},
    {"\"index\": \"0 1", "\"index\": 0, \"i\": \"0 1", "Expected string, got integer"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512,", "no range at its character 0"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512 1024 0,", "no range at its character 0"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512  1024,", "no range at its character 0"},
    {"\"0 1 0 512 1024,", "\"0 1 0 -512 1024,", "no range at its character 0"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512 9223372036854775808,", "no range at its character 0"},
    {"\"0 1 0 512 1024,", "\"0 5 0 512 1024,", "no range at its character 0"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512 1024,,", "no range at its character 15"},
    {"\"0 1 0 512 1024,", "\"4 1 0 512 1024,", "is of no parameter"},
    {"\"0 1 0 512 1024,", "\"0 1 512 512 1024,", "does not lie in its parameter"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512 922337203685477579,", "does not lie in its file"},
    {"\"0 1 0 512 1024,", "\"0 1 0 512 1025,", "two ranges overlap at byte 3072"},
    {"\"0 1 0 512 1024,", "\"0 1 0 511 1024,",
     "ends at element 511, and the next one begins at 512"},
    {"\"0 1 0 512 1024,", "\"0 1 1 512 1024,", "ends at element 0, and the next one begins at 1"},
    {"0 4 0 600 ", "0 4 0 599 ", "residual of rank 0 of parameter 'embed' ends at element 599"},
    {"\"files\": [", "\"files\": [1,", "files[0]: Expected object, got integer"},
    {"\"files\": [", "\"files\": 1, \"f\": [", "f"},
};

static void each_damage_is_named(void) {
  zero1__error error;
  for (size_t i = 0; i < sizeof damages / sizeof *damages; ++i) {
    const document text = changed(damages[i].from, damages[i].to);
    const zero1_status status = read_text(text.data, text.bytes, &error);
    if (status != ZERO1_ERR_CORRUPT) fprintf(stderr, "%s -> %s\n", damages[i].from, damages[i].to);
    CHECK_STATUS(status, ZERO1_ERR_CORRUPT);
    CHECK_SAYS(error.text, damages[i].says);
    free(text.data);
  }
}

static void what_is_whole_in_another_form_is_read(void) {
  zero1__error error;
  const document text = changed("\"count\": 120", "\"count\"\n : 7");
  CHECK_STATUS(read_text(text.data, text.bytes, &error), ZERO1_OK);
  free(text.data);
}

static void a_newer_version_is_told_whatever_follows(void) {
  static const char newer[] = "{\"format\": \"zero1 checkpoint\", \"version\": 2, \"sum\": [1]}";
  zero1__error error;
  CHECK_STATUS(read_text(newer, sizeof newer - 1, &error), ZERO1_ERR_VERSION);
  CHECK_SAYS(error.text, "its version is 2, and this one knows 1");
}

/* Residuals of rank 1 are taken away, then both. */
static void residuals_are_of_all_ranks_or_of_none(void) {
  zero1__manifest manifest;
  zero1__error error = {0};
  for (int32_t all = 0; all < 2; ++all) {
    case_manifest(&manifest);
    int64_t kept = 0;
    for (int64_t i = 0; i < manifest.index.range_count; ++i) {
      const zero1__saved_range range = manifest.index.ranges[i];
      if (range.state != ZERO1_STATE_RESIDUAL || (!all && range.file == 0))
        manifest.index.ranges[kept++] = range;
    }
    manifest.index.range_count = kept;
    const document text = text_of(&manifest);
    CHECK_STATUS(read_text(text.data, text.bytes, &error), all ? ZERO1_OK : ZERO1_ERR_CORRUPT);
    if (!all) CHECK_SAYS(error.text, "residual of rank 1 of parameter 'embed' ends at element 0");
    free(text.data);
    zero1__manifest_end(&manifest);
  }
}

static void names_that_are_not_utf8_are_named(void) {
  static const char *const names[] = {"caf\xe9",          "\xed\xa0\x80",     "\xc0\xaf",
                                      "\xf4\x90\x80\x80", "\xf0\x80\x80\x80", "\xe2\x82"};
  static const char *const shown[] = {
      "caf\\xe9",  "\\xed\\xa0\\x80", "\\xc0\\xaf", "\\xf4\\x90\\x80\\x80", "\\xf0\\x80\\x80\\x80",
      "\\xe2\\x82"};
  for (int i = 0; i < 6; ++i) {
    zero1__manifest manifest = {.world_size = 0};
    zero1__error error = {0};
    document text;
    const zero1_param_spec spec = {names[i], NULL, 0, 0, 0, 0};
    CHECK_STATUS(zero1__registry_begin(&manifest.params, &spec, sizeof spec, 1, 1, NULL), ZERO1_OK);
    CHECK_STATUS(zero1__manifest_write(&manifest, &text.data, &text.bytes, &error),
                 ZERO1_ERR_INVALID);
    CHECK(!text.data && !text.bytes);
    CHECK_SAYS(error.text, "parameter 0");
    CHECK_SAYS(error.text, shown[i]);
    zero1__manifest_end(&manifest);
  }
}

static void pairs_that_are_wrong_are_named(void) {
  static const struct {
    zero1_pair pairs[2];
    const char *says;
  } cases[] = {
      {{{NULL, "1"}}, "data: the key of pair 0 is NULL"},
      {{{"", "1"}}, "data: the key of pair 0 is empty"},
      {{{"a", NULL}}, "data: the value of 'a' is NULL"},
      {{{"a\xff", "1"}}, "data: the key 'a\\xff' is not UTF-8"},
      {{{"a", "\xff"}}, "data: the value of 'a' is not UTF-8"},
      {{{"a\n", "1"}, {"a\n", "2"}}, "data: the key 'a\\n' is there twice"},
  };
  zero1__pairs pairs;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    zero1__error error = {0};
    const int64_t count = cases[i].pairs[1].key ? 2 : 1;
    CHECK_STATUS(zero1__pairs_begin(&pairs, cases[i].pairs, count, "data", &error),
                 ZERO1_ERR_INVALID);
    CHECK(!strcmp(error.text, cases[i].says));
    zero1__pairs_end(&pairs);
  }
  CHECK_STATUS(zero1__pairs_begin(&pairs, NULL, 0, "data", NULL), ZERO1_OK);
  zero1__pairs_end(&pairs);
  CHECK_STATUS(zero1__pairs_begin(&pairs, NULL, 1, "data", NULL), ZERO1_ERR_INVALID);
  zero1__pairs_end(&pairs);
  CHECK_STATUS(zero1__pairs_begin(&pairs, NULL, -1, "data", NULL), ZERO1_ERR_INVALID);
  zero1__pairs_end(&pairs);
}

/* ---- size ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MANY = 50000 };
#else
enum { MANY = 1000000 };
#endif

/* Two files, parameters in turn; states follow each other as they do in buckets. */
static void make_many(zero1__manifest *manifest) {
  static const int64_t shape[] = {16, 16};
  zero1_param_spec *const specs = calloc(MANY, sizeof *specs);
  char(*const names)[40] = calloc(MANY, sizeof *names);
  CHECK(specs && names);
  case_head(manifest);
  zero1__registry_end(&manifest->params);
  for (int i = 0; i < MANY; ++i) {
    snprintf(names[i], sizeof names[i], "layers.%d.attention.weight", i);
    specs[i] = (zero1_param_spec){names[i], shape, 2, 0, 0, 0};
  }
  CHECK_STATUS(zero1__registry_begin(&manifest->params, specs, sizeof *specs, MANY, 2, NULL),
               ZERO1_OK);
  for (int32_t file = 0; file < 2; ++file) {
    int64_t offset = CASE_HEADER;
    for (int32_t state = ZERO1_STATE_MASTER_PARAM; state <= ZERO1_STATE_EXP_AVG_SQ; ++state)
      for (int i = file; i < MANY; i += 2)
        case_add_range(&manifest->index, file, i, state, 0, 256, &offset);
    CHECK_STATUS(zero1__index_add_file(&manifest->index, file ? "b" : "a", file, offset, NULL),
                 ZERO1_OK);
  }
  free(specs);
  free(names);
}

static void a_million_parameters_take_seconds(void) {
  zero1__manifest saved, loaded;
  make_many(&saved);
  const clock_t begin = clock(); /* of the processor: the machine may be busy */
  const document text = text_of(&saved);
  const clock_t written = clock();
  CHECK_STATUS(zero1__manifest_read(PATH, text.data, text.bytes, &loaded, NULL), ZERO1_OK);
  const clock_t read = clock();
  printf("  %d parameters, %zu bytes: written in %.2f s, read in %.2f s\n", MANY, text.bytes,
         (double)(written - begin) / CLOCKS_PER_SEC, (double)(read - written) / CLOCKS_PER_SEC);
  case_check_files(&saved.index, &loaded.index);
  CHECK((read - begin) / CLOCKS_PER_SEC < 60); /* about 5; what is quadratic takes hours */
  free(text.data);
  zero1__manifest_end(&saved);
  zero1__manifest_end(&loaded);
}

int main(void) {
  RUN(a_manifest_reads_as_it_was_written);
  RUN(the_order_of_ranges_makes_no_difference);
  RUN(parts_of_ranks_make_a_manifest);
  RUN(a_part_of_another_rank_or_a_manifest_is_no_part);
  RUN(reals_keep_their_bits);
  RUN(every_flipped_byte_is_found);
  RUN(every_truncation_is_found);
  RUN(each_damage_is_named);
  RUN(what_is_whole_in_another_form_is_read);
  RUN(a_newer_version_is_told_whatever_follows);
  RUN(residuals_are_of_all_ranks_or_of_none);
  RUN(names_that_are_not_utf8_are_named);
  RUN(pairs_that_are_wrong_are_named);
  RUN(a_million_parameters_take_seconds);
  return check_summary();
}
