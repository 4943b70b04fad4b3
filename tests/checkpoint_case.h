/* A checkpoint folder made by hand, as three ranks would write it, with every value known: what
 * tests of reading start from.
 *
 *   parameter            numel     flags    states
 *   0 "wide" [400, 1000] 400000             master_param, exp_avg, exp_avg_sq, residual
 *   1 "mask" [301]          301    frozen   param
 *   2 "none" [0, 7]           0
 *   3 "bias" []               1             as "wide"
 *
 * "mask" is the first thing in file 0: of bf16 it takes 602 bytes, so that all that follows begins
 * at odd places, and elements of 4 bytes are cut by the ends of chunks. Each state of "wide" is
 * split over the files in its own way, and its last part lies before its first. */
#ifndef ZERO1_TESTS_CHECKPOINT_CASE_H
#define ZERO1_TESTS_CHECKPOINT_CASE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "check.h"
#include "dtype.h"
#include "folder.h"
#include "manifest.h"
#include "rules.h"
#include "safetensors.h"

enum { CASE_FILES = 3, CASE_WIDE = 400000, CASE_MASK = 301 };
enum { WIDE, MASK, NONE, BIAS };

typedef struct checkpoint_case {
  char root[128]; /* made and removed */
  char path[160]; /* of the checkpoint in it */
  zero1__manifest manifest;
} checkpoint_case;

/* ---- values ---- */

/* Every number of the state is of its own: an integer below 2^24, or now and then something odd. */
static inline uint32_t case_bits(int64_t param, int32_t state, int32_t rank, int64_t element) {
  static const uint32_t odd[] = {
      0x7fc00000u, 0x7f800001u, 0xffc12345u, 0xff800000u, /* NaNs, an infinity */
      0x00000001u, 0x80000000u, 0x3f808000u, 0x3f818000u, /* tiny, -0, halfway twice */
      0x7f7fffffu};                                       /* the largest */
  const int64_t whole = element * 7 + param * 101 + state * 1000003 + rank * 13;
  if (element % 1000 == 999) return odd[element / 1000 % 9];
  return zero1__bits((float)(whole % 16777213) - 8000000.0f);
}

/* Of "mask", in bf16: any 16 bits. */
static inline uint16_t case_half(int64_t element) {
  return (uint16_t)((uint64_t)element * 40503u);
}

/* ---- files ---- */

static inline void case_path(const checkpoint_case *it, const char *name, char path[256]) {
  CHECK(snprintf(path, 256, "%s/%s", it->path, name) < 256);
}

static inline void case_file_path(const checkpoint_case *it, int64_t file, char path[256]) {
  case_path(it, it->manifest.index.files[file].name, path);
}

static inline void case_write(const char *path, const void *data, size_t bytes) {
  FILE *const file = fopen(path, "wb");
  CHECK(file && fwrite(data, 1, bytes, file) == bytes && !fclose(file));
}

/* Inverts the byte at `offset`. */
static inline void case_flip(const char *path, int64_t offset) {
  unsigned char byte;
  const int descriptor = open(path, O_RDWR);
  CHECK(descriptor >= 0 && read(descriptor, &byte, 0) == 0);
  CHECK(lseek(descriptor, offset, SEEK_SET) == offset && read(descriptor, &byte, 1) == 1);
  byte = (unsigned char)~byte;
  CHECK(lseek(descriptor, offset, SEEK_SET) == offset && write(descriptor, &byte, 1) == 1);
  close(descriptor);
}

/* ---- making ---- */

/* Where file `file` begins in a state of "wide"; of file CASE_FILES: the end. */
static inline int64_t case_cut(int32_t state, int32_t file) {
  if (file == 0) return 0;
  if (file == CASE_FILES) return CASE_WIDE;
  return 100003 * file + 1001 * state;
}

static inline int64_t case_range_bytes(const checkpoint_case *it, const zero1__saved_range *range) {
  const int32_t dtype = zero1__saved_dtype(range->state, it->manifest.param_dtype);
  return (range->end - range->begin) * (int64_t)zero1__dtype_bytes(dtype);
}

/* The offset is set later: the header is not there yet. */
static inline void case_add(checkpoint_case *it, int32_t file, int64_t param, int32_t state,
                            int64_t begin, int64_t end) {
  const zero1__saved_range range = {param, state, file, begin, end, 0};
  CHECK_STATUS(zero1__index_add_range(&it->manifest.index, &range, NULL), ZERO1_OK);
}

static inline void case_add_ranges(checkpoint_case *it, int32_t file) {
  if (file == 0) case_add(it, file, MASK, ZERO1_STATE_PARAM, 0, CASE_MASK);
  for (int32_t state = ZERO1_STATE_EXP_AVG_SQ; state >= ZERO1_STATE_MASTER_PARAM; --state) {
    const int64_t begin = case_cut(state, file), end = case_cut(state, file + 1);
    case_add(it, file, WIDE, state, begin + 77777, end);
    case_add(it, file, WIDE, state, begin, begin + 1);
    case_add(it, file, WIDE, state, begin + 1, begin + 77777);
    if (file == 1) case_add(it, file, BIAS, state, 0, 1);
  }
  case_add(it, file, WIDE, ZERO1_STATE_RESIDUAL, 0, CASE_WIDE);
  case_add(it, file, BIAS, ZERO1_STATE_RESIDUAL, 0, 1);
}

static inline void case_fill(const checkpoint_case *it, const zero1__saved_range *range,
                             int32_t rank, char *data) {
  const int narrow = zero1__saved_dtype(range->state, it->manifest.param_dtype) == ZERO1_DTYPE_BF16;
  const int32_t of_rank = range->state == ZERO1_STATE_RESIDUAL ? rank : 0;
  for (int64_t i = range->begin; i < range->end; ++i) {
    const uint16_t half = case_half(i);
    const uint32_t bits = case_bits(range->param, range->state, of_rank, i);
    if (narrow)
      memcpy(data + (i - range->begin) * 2, &half, sizeof half);
    else
      memcpy(data + (i - range->begin) * 4, &bits, sizeof bits);
  }
}

/* The header of a file's ranges, and where each of them lies. wrong: a tensor has another name. */
static inline void case_header(checkpoint_case *it, int64_t first, int wrong,
                               zero1__safetensors *header) {
  zero1__index *const index = &it->manifest.index;
  char name[256];
  CHECK_STATUS(zero1__safetensors_begin(header, NULL, 0, NULL), ZERO1_OK);
  for (int64_t i = first; i < index->range_count; ++i) {
    zero1__saved_range *const range = &index->ranges[i];
    const int64_t numel = range->end - range->begin;
    zero1__safetensors_name(it->manifest.params.names[range->param], range->state, range->begin,
                            range->end, name, sizeof name);
    if (wrong && i == first) name[0] = '?';
    range->offset = header->data_bytes;
    CHECK_STATUS(zero1__safetensors_add(header, name,
                                        zero1__saved_dtype(range->state, it->manifest.param_dtype),
                                        &numel, 1, NULL),
                 ZERO1_OK);
  }
  CHECK_STATUS(zero1__safetensors_finish(header, NULL), ZERO1_OK);
  for (int64_t i = first; i < index->range_count; ++i)
    index->ranges[i].offset += (int64_t)header->bytes;
}

static inline void case_make_file(checkpoint_case *it, int32_t file, int wrong) {
  zero1__index *const index = &it->manifest.index;
  zero1__safetensors header;
  char name[64], path[256];
  const int64_t first = index->range_count;
  case_add_ranges(it, file);
  case_header(it, first, wrong, &header);
  const int64_t bytes = (int64_t)header.bytes + header.data_bytes;
  char *const text = malloc((size_t)bytes);
  CHECK(text != NULL);
  memcpy(text, header.text, header.bytes);
  for (int64_t i = first; i < index->range_count; ++i)
    case_fill(it, &index->ranges[i], file, text + index->ranges[i].offset);
  snprintf(name, sizeof name, "rank-%05d-of-%05d-00000.safetensors", file, CASE_FILES);
  CHECK_STATUS(zero1__index_add_file(index, name, file, bytes, NULL), ZERO1_OK);
  for (int64_t i = 0; i < zero1__chunk_count(bytes); ++i) {
    const int64_t begin = i * ZERO1__CHUNK_BYTES, left = bytes - begin;
    index->files[file].xxh3[i] =
        XXH3_64bits(text + begin, (size_t)(left < ZERO1__CHUNK_BYTES ? left : ZERO1__CHUNK_BYTES));
  }
  case_file_path(it, file, path);
  case_write(path, text, (size_t)bytes);
  free(text);
  zero1__safetensors_end(&header);
}

static inline void case_make_head(zero1__manifest *manifest, int32_t param_dtype) {
  static const int64_t wide[] = {400, 1000}, mask[] = {CASE_MASK}, none[] = {0, 7};
  static const zero1_param_spec specs[] = {{"wide", wide, 2, 0, 0, 0},
                                           {"mask", mask, 1, 0, ZERO1_PARAM_FROZEN, 0},
                                           {"none", none, 2, 0, 0, 0},
                                           {"bias", NULL, 0, 1, 0, 0}};
  static const zero1_pair run[] = {{"data", "17"}, {"note", ""}}, rank[] = {{"seed", "1 2 3"}};
  memset(manifest, 0, sizeof *manifest);
  manifest->count = 120;
  manifest->attempts = 121;
  manifest->world_size = CASE_FILES;
  manifest->param_dtype = param_dtype;
  manifest->grad_scale = 0.25;
  manifest->max_grad_norm = 1.5;
  manifest->groups = calloc(2, sizeof *manifest->groups);
  manifest->rank_metadata = calloc(CASE_FILES, sizeof *manifest->rank_metadata);
  CHECK(manifest->groups && manifest->rank_metadata);
  manifest->group_count = 2;
  for (int i = 0; i < 2; ++i)
    CHECK_STATUS(zero1_group_init(&manifest->groups[i], sizeof(zero1_group)), ZERO1_OK);
  manifest->groups[1].lr = 0.125;
  CHECK_STATUS(zero1__pairs_begin(&manifest->metadata, run, 2, "", NULL), ZERO1_OK);
  CHECK_STATUS(zero1__pairs_begin(&manifest->rank_metadata[2], rank, 1, "", NULL), ZERO1_OK);
  CHECK_STATUS(zero1__registry_begin(&manifest->params, specs, sizeof *specs, 4, 2, NULL),
               ZERO1_OK);
}

/* Makes the folder, under a root of its own. wrong_header: of this file; -1: of none. */
static inline void case_make_with(checkpoint_case *it, int32_t param_dtype, int32_t wrong_header) {
  char path[256], *text;
  size_t bytes;
  folder_begin(it->root, sizeof it->root);
  snprintf(it->path, sizeof it->path, "%s/step-000000000120", it->root);
  CHECK(!mkdir(it->path, 0777));
  case_make_head(&it->manifest, param_dtype);
  for (int32_t file = 0; file < CASE_FILES; ++file) case_make_file(it, file, file == wrong_header);
  CHECK_STATUS(zero1__manifest_write(&it->manifest, &text, &bytes, NULL), ZERO1_OK);
  case_path(it, ZERO1__MANIFEST_NAME, path);
  case_write(path, text, bytes);
  free(text);
}

static inline void case_make(checkpoint_case *it, int32_t param_dtype) {
  case_make_with(it, param_dtype, -1);
}

static inline void case_remove(checkpoint_case *it) {
  folder_end(it->root);
  zero1__manifest_end(&it->manifest);
}

#endif
