/* A small manifest of two ranks with all that one can have: what tests of manifests and of
 * safetensors headers, and the fuzzers' seeds, start from.
 *
 *   parameter             numel  group  flags     states
 *   "embed"    [2, 300]     600      0            rank 0 has [0, 512), rank 1 the rest
 *   odd name   [3]            3      1  not in norm   rank 1
 *   "empty"    [0, 7]         0      0            none
 *   "scale"    []             1      0  frozen    rank 0
 *
 * Of the first two each rank has a residual. */
#ifndef ZERO1_TESTS_MANIFEST_CASE_H
#define ZERO1_TESTS_MANIFEST_CASE_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dtype.h"
#include "manifest.h"
#include "safetensors.h"

/* A failure's text has this part. */
#define CHECK_SAYS(text, part) case_says(__FILE__, __LINE__, (text), (part))

static inline void case_says(const char *file, int line, const char *text, const char *part) {
  if (strstr(text, part)) return;
  check__place(file, line);
  fprintf(stderr, "\"%s\" does not contain \"%s\"\n", text, part);
  check__exit(1);
}

/* Quotes, a backslash, control characters, and UTF-8 of two, three and four bytes. */
#define CASE_ODD_NAME "a\"b\\c\n\t\x01\x7f/\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x8e"
enum { CASE_PARAMS = 4, CASE_HEADER = 1024, CASE_WORLD = 2 };

/* 0.1 has no short form in base 2, the next is subnormal, the third is the largest. */
static const double case_reals[] = {0.1, 4.9406564584124654e-324, 1.7976931348623157e308};

static inline void case_add_range(zero1__index *index, int32_t file, int64_t param, int32_t state,
                                  int64_t begin, int64_t end, int64_t *offset) {
  const zero1__saved_range range = {param, state, file, begin, end, *offset};
  CHECK_STATUS(zero1__index_add_range(index, &range, NULL), ZERO1_OK);
  *offset +=
      (end - begin) * (int64_t)zero1__dtype_bytes(zero1__saved_dtype(state, ZERO1_DTYPE_BF16));
}

/* The file of one rank: its index is `file`. */
static inline void case_add_file(zero1__index *index, int32_t file, int32_t rank) {
  static const char *const names[] = {"rank-00000-of-00002-00000.safetensors",
                                      "rank-00001-of-00002-00000.safetensors"};
  int64_t offset = CASE_HEADER;
  for (int32_t state = ZERO1_STATE_MASTER_PARAM; state <= ZERO1_STATE_EXP_AVG_SQ; ++state) {
    case_add_range(index, file, 0, state, rank ? 512 : 0, rank ? 600 : 512, &offset);
    if (rank) case_add_range(index, file, 1, state, 0, 3, &offset);
  }
  case_add_range(index, file, 0, ZERO1_STATE_RESIDUAL, 0, 600, &offset);
  case_add_range(index, file, 1, ZERO1_STATE_RESIDUAL, 0, 3, &offset);
  if (!rank) case_add_range(index, file, 3, ZERO1_STATE_PARAM, 0, 1, &offset);
  CHECK_STATUS(zero1__index_add_file(index, names[rank], rank, offset, NULL), ZERO1_OK);
  for (int64_t i = 0; i < zero1__chunk_count(offset); ++i)
    index->files[file].xxh3[i] = 0xfedcba9876543210u >> rank;
}

/* All but the files and what ranks add to them. */
static inline void case_head(zero1__manifest *manifest) {
  static const int64_t embed[] = {2, 300}, odd[] = {3}, empty[] = {0, 7};
  static const zero1_param_spec specs[CASE_PARAMS] = {
      {"embed", embed, 2, 0, 0, 0},
      {CASE_ODD_NAME, odd, 1, 1, ZERO1_PARAM_NOT_IN_NORM, 0},
      {"empty", empty, 2, 0, 0, 0},
      {"scale", NULL, 0, 0, ZERO1_PARAM_FROZEN, 0}};
  static const zero1_pair metadata[] = {{"data", "17"}, {"\"", "\\\n"}, {"a", ""}};
  memset(manifest, 0, sizeof *manifest);
  manifest->count = 120;
  manifest->attempts = 121;
  manifest->world_size = CASE_WORLD;
  manifest->param_dtype = ZERO1_DTYPE_BF16;
  manifest->grad_scale = case_reals[0];
  manifest->max_grad_norm = case_reals[1];
  manifest->skip_grad_norm = case_reals[2];
  manifest->groups = calloc(2, sizeof *manifest->groups);
  manifest->rank_metadata = calloc(CASE_WORLD, sizeof *manifest->rank_metadata);
  CHECK(manifest->groups && manifest->rank_metadata);
  manifest->group_count = 2;
  CHECK_STATUS(zero1_group_init(&manifest->groups[0], sizeof(zero1_group)), ZERO1_OK);
  CHECK_STATUS(zero1_group_init(&manifest->groups[1], sizeof(zero1_group)), ZERO1_OK);
  manifest->groups[1].lr = 1.0 / 3;
  manifest->groups[1].decoupled_weight_decay = 0;
  CHECK_STATUS(zero1__pairs_begin(&manifest->metadata, metadata, 3, "metadata", NULL), ZERO1_OK);
  CHECK_STATUS(zero1__registry_begin(&manifest->params, specs, sizeof *specs, CASE_PARAMS, 2, NULL),
               ZERO1_OK);
}

static inline void case_manifest(zero1__manifest *manifest) {
  static const zero1_pair pair = {"seed", "1 2 3"};
  case_head(manifest);
  for (int32_t rank = 0; rank < CASE_WORLD; ++rank) case_add_file(&manifest->index, rank, rank);
  CHECK_STATUS(zero1__pairs_begin(&manifest->rank_metadata[1], &pair, 1, "", NULL), ZERO1_OK);
}

/* The safetensors header of file `file`, finished; to be ended, after a failure too. */
static inline zero1_status case_header(zero1__safetensors *header, const zero1__manifest *manifest,
                                       int32_t file, zero1__error *error) {
  zero1_status status =
      zero1__safetensors_begin(header, manifest->metadata.pairs, manifest->metadata.count, error);
  for (int64_t i = 0; i < manifest->index.range_count && !status; ++i) {
    const zero1__saved_range *const range = &manifest->index.ranges[i];
    const int64_t count = range->end - range->begin;
    char name[200];
    if (range->file != file) continue;
    CHECK(zero1__safetensors_name(manifest->params.names[range->param], range->state, range->begin,
                                  range->end, name, sizeof name) < (int)sizeof name);
    status = zero1__safetensors_add(
        header, name, zero1__saved_dtype(range->state, manifest->param_dtype), &count, 1, error);
  }
  return status ? status : zero1__safetensors_finish(header, error);
}

/* Moves the ranges of each file to where its header ends, and the file's end likewise. */
static inline void case_place_headers(zero1__manifest *manifest) {
  for (int32_t file = 0; file < manifest->index.file_count; ++file) {
    zero1__safetensors header;
    CHECK_STATUS(case_header(&header, manifest, file, NULL), ZERO1_OK);
    const int64_t move = (int64_t)header.bytes - CASE_HEADER;
    manifest->index.files[file].bytes += move;
    for (int64_t i = 0; i < manifest->index.range_count; ++i)
      if (manifest->index.ranges[i].file == file) manifest->index.ranges[i].offset += move;
    zero1__safetensors_end(&header);
  }
}

static inline void case_check_pairs(const zero1__pairs *left, const zero1__pairs *right) {
  CHECK_EQ(left->count, right->count);
  for (int64_t i = 0; i < left->count; ++i) {
    CHECK(!strcmp(left->pairs[i].key, right->pairs[i].key));
    CHECK(!strcmp(left->pairs[i].value, right->pairs[i].value));
  }
}

static inline void case_check_files(const zero1__index *left, const zero1__index *right) {
  CHECK_EQ(left->file_count, right->file_count);
  for (int64_t i = 0; i < left->file_count; ++i) {
    const zero1__saved_file *const a = &left->files[i], *const b = &right->files[i];
    CHECK(!strcmp(a->name, b->name));
    CHECK(a->rank == b->rank && a->bytes == b->bytes);
    CHECK(!memcmp(a->xxh3, b->xxh3, (size_t)zero1__chunk_count(a->bytes) * sizeof *a->xxh3));
  }
  CHECK_EQ(left->range_count, right->range_count);
  for (int64_t i = 0; i < left->range_count; ++i) {
    const zero1__saved_range *const a = &left->ranges[i], *const b = &right->ranges[i];
    CHECK(a->param == b->param && a->state == b->state && a->file == b->file);
    CHECK(a->begin == b->begin && a->end == b->end && a->offset == b->offset);
  }
}

/* Doubles by their bits. */
static inline void case_check_equal(const zero1__manifest *left, const zero1__manifest *right) {
  CHECK(left->count == right->count && left->attempts == right->attempts);
  CHECK(left->world_size == right->world_size && left->param_dtype == right->param_dtype);
  CHECK(!memcmp(&left->grad_scale, &right->grad_scale, 3 * sizeof(double)));
  CHECK_EQ(left->group_count, right->group_count);
  CHECK(!memcmp(left->groups, right->groups, (size_t)left->group_count * sizeof *left->groups));
  case_check_pairs(&left->metadata, &right->metadata);
  for (int32_t i = 0; i < left->world_size; ++i)
    case_check_pairs(&left->rank_metadata[i], &right->rank_metadata[i]);
  CHECK_EQ(left->params.count, right->params.count);
  for (int64_t i = 0; i < left->params.count; ++i)
    CHECK(!strcmp(left->params.names[i], right->params.names[i]) &&
          zero1__registry_hash(&left->params, i) == zero1__registry_hash(&right->params, i));
  case_check_files(&left->index, &right->index);
}

#endif
