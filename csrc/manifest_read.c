/* Any bytes may come: nothing is allocated that is not in proportion to the text. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint_folder.h"
#include "config.h"
#include "dtype.h"
#include "json_text.h"
#include "manifest.h"
#include "manifest_text.h"

/* ---- files and ranges ---- */

/* Hex digits of small letters, 16 for each of [count] hashes. */
static int read_hashes(const char *digits, uint64_t *hashes, int64_t count) {
  for (int64_t i = 0; i < count * ZERO1__HASH_DIGITS; ++i) {
    const char digit = digits[i];
    const int is_letter = digit >= 'a' && digit <= 'f';
    if (!is_letter && (digit < '0' || digit > '9')) return 0;
    uint64_t *const hash = &hashes[i / ZERO1__HASH_DIGITS];
    *hash = *hash << 4 | (uint64_t)(is_letter ? digit - 'a' + 10 : digit - '0');
  }
  return 1;
}

/* A number and the character that follows it; *text is moved behind both. 0: there is no such. */
static int read_number(const char **text, char follows, int64_t *value) {
  const char *at = *text;
  *value = 0;
  for (; *at >= '0' && *at <= '9'; ++at) {
    if (*value > (INT64_MAX - 9) / 10) return 0;
    *value = 10 * *value + (*at - '0');
  }
  if (at == *text || *at != follows) return 0;
  *text = at + (follows != 0);
  return 1;
}

/* "param state begin end offset", the last one followed by a comma or the end. */
static int read_range(const char **text, zero1__saved_range *range) {
  int64_t state;
  if (!read_number(text, ' ', &range->param) || !read_number(text, ' ', &state) ||
      !read_number(text, ' ', &range->begin) || !read_number(text, ' ', &range->end) ||
      state >= ZERO1__STATE_COUNT)
    return 0;
  range->state = (int32_t)state;
  const char *const offset = *text;
  if (read_number(text, ',', &range->offset)) return 1;
  *text = offset;
  return read_number(text, 0, &range->offset);
}

static zero1_status read_ranges(const zero1__reading *at, const char *numbers, int32_t file,
                                zero1__index *index) {
  const char *next = numbers;
  char shown[ZERO1__SHOWN_BYTES];
  while (*next) {
    const char *const begin = next;
    zero1__saved_range range = {.file = file};
    zero1__error inner = {0};
    if (!read_range(&next, &range))
      return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                            "the index of file '%s' has no range at its character %lld",
                            zero1__show_text(index->files[file].name, shown),
                            (long long)(begin - numbers));
    const zero1_status status = zero1__index_add_range(index, &range, &inner);
    if (status) return zero1__reading_pass_on(at, status, &inner);
  }
  return ZERO1_OK;
}

/* File `number` of a list. Its rank is below `rank_end`, and its hashes are all there, before any
 * memory is taken for them. */
static zero1_status read_file(const zero1__reading *at, json_t *item, int64_t number,
                              int32_t rank_begin, int32_t rank_end, zero1__index *index) {
  json_error_t why;
  const char *name, *hashes, *numbers;
  size_t digits;
  json_int_t rank, bytes;
  if (json_unpack_ex(item, &why, JSON_STRICT, "{s:s, s:I, s:I, s:s%, s:s}", "name", &name, "rank",
                     &rank, "bytes", &bytes, "xxh3", &hashes, &digits, "index", &numbers))
    return zero1__reading_unpack(at, "files", number, &why);
  if (rank < rank_begin || rank >= rank_end)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "files[%lld]: rank %lld is not in [%d, %d)", (long long)number,
                          (long long)rank, rank_begin, rank_end);
  if (bytes < 0 || digits % ZERO1__HASH_DIGITS != 0 ||
      (int64_t)(digits / ZERO1__HASH_DIGITS) != zero1__chunk_count(bytes))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "files[%lld]: xxh3 has %zu digits, which do not fit its %lld bytes",
                          (long long)number, digits, (long long)bytes);
  if (index->file_count == INT32_MAX)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "it has too many files");
  zero1__error inner = {0};
  const zero1_status status = zero1__index_add_file(index, name, (int32_t)rank, bytes, &inner);
  if (status) return zero1__reading_pass_on(at, status, &inner);
  const int32_t file = (int32_t)index->file_count - 1;
  if (!read_hashes(hashes, index->files[file].xxh3, zero1__chunk_count(bytes)))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "files[%lld]: xxh3 has what is no digit", (long long)number);
  return read_ranges(at, numbers, file, index);
}

static zero1_status read_files(const zero1__reading *at, const json_t *files, int32_t rank_begin,
                               int32_t rank_end, zero1__index *index) {
  zero1_status status = ZERO1_OK;
  for (size_t i = 0; i < json_array_size(files) && !status; ++i)
    status = read_file(at, json_array_get(files, i), (int64_t)i, rank_begin, rank_end, index);
  return status;
}

/* ---- the other lists ---- */

static zero1_status read_pairs(const zero1__reading *at, json_t *object, const char *what,
                               zero1__pairs *pairs) {
  const size_t count = json_object_size(object);
  const char *key;
  json_t *value;
  int64_t used = 0;
  int all_texts = json_is_object(object);
  zero1_pair *const given = malloc((count + 1) * sizeof *given);
  if (!given) return zero1__reading_memory(at, what);
  json_object_foreach(object, key, value) {
    given[used].key = key;
    given[used].value = json_string_value(value);
    all_texts &= given[used++].value != NULL;
  }
  zero1__error inner = {0};
  zero1_status status = ZERO1_OK;
  if (all_texts)
    status =
        zero1__reading_pass_on(at, zero1__pairs_begin(pairs, given, used, what, &inner), &inner);
  else
    status = zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                            "%s: keys and texts are missing", what);
  free(given);
  return status;
}

static zero1_status read_rank_metadata(const zero1__reading *at, const json_t *list,
                                       zero1__manifest *manifest) {
  zero1_status status = ZERO1_OK;
  for (size_t i = 0; i < json_array_size(list) && !status; ++i) {
    char what[48];
    snprintf(what, sizeof what, "rank_metadata[%zu]", i);
    status = read_pairs(at, json_array_get(list, i), what, &manifest->rank_metadata[i]);
  }
  return status;
}

static zero1_status read_group(const zero1__reading *at, json_t *item, int64_t index,
                               zero1_group *group) {
  json_error_t why;
  int decoupled;
  zero1__error inner = {0};
  zero1_group_init(group, sizeof *group);
  if (json_unpack_ex(item, &why, JSON_STRICT, "{s:F, s:F, s:F, s:F, s:F, s:b}", "lr", &group->lr,
                     "beta1", &group->beta1, "beta2", &group->beta2, "eps", &group->eps,
                     "weight_decay", &group->weight_decay, "decoupled_weight_decay", &decoupled))
    return zero1__reading_unpack(at, "groups", index, &why);
  group->decoupled_weight_decay = decoupled;
  return zero1__reading_pass_on(at, zero1__group_check(group, index, &inner), &inner);
}

static zero1_status read_groups(const zero1__reading *at, const json_t *list,
                                zero1__manifest *manifest) {
  const size_t count = json_array_size(list);
  zero1_status status = ZERO1_OK;
  manifest->groups = calloc(count + 1, sizeof *manifest->groups);
  if (!manifest->groups) return zero1__reading_memory(at, "groups");
  manifest->group_count = (int64_t)count;
  for (size_t i = 0; i < count && !status; ++i)
    status = read_group(at, json_array_get(list, i), (int64_t)i, &manifest->groups[i]);
  return status;
}

/* Sizes go to `sizes`, with as much room as the list has items. */
static zero1_status read_param(const zero1__reading *at, json_t *item, int64_t index,
                               int64_t *sizes, zero1_param_spec *spec) {
  json_error_t why;
  json_t *shape;
  json_int_t group;
  int frozen = 0, not_in_norm = 0;
  if (json_unpack_ex(item, &why, JSON_STRICT, "{s:s, s:o, s:I, s?b, s?b}", "name", &spec->name,
                     "shape", &shape, "group", &group, "frozen", &frozen, "not_in_norm",
                     &not_in_norm))
    return zero1__reading_unpack(at, "parameters", index, &why);
  int fits = json_is_array(shape) && group >= 0 && group <= INT32_MAX;
  for (size_t i = 0; fits && i < json_array_size(shape); ++i) {
    const json_t *const size = json_array_get(shape, i);
    fits = json_is_integer(size);
    sizes[i] = json_integer_value(size);
  }
  if (!fits)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "parameters[%lld]: its shape or its group are no such thing",
                          (long long)index);
  spec->shape = sizes;
  spec->ndim = (int32_t)json_array_size(shape);
  spec->group = (int32_t)group;
  spec->flags = (frozen ? ZERO1_PARAM_FROZEN : 0u) | (not_in_norm ? ZERO1_PARAM_NOT_IN_NORM : 0u);
  return ZERO1_OK;
}

static zero1_status read_params(const zero1__reading *at, const json_t *list,
                                zero1__manifest *manifest) {
  const size_t count = json_array_size(list);
  size_t size_count = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t ndim = json_array_size(json_object_get(json_array_get(list, i), "shape"));
    size_count += ndim;
    if (ndim > INT32_MAX)
      return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                            "parameters[%zu] has too many dimensions", i);
  }
  zero1_param_spec *const specs = calloc(count + 1, sizeof *specs);
  int64_t *const sizes = calloc(size_count + 1, sizeof *sizes), *next = sizes;
  zero1_status status = specs && sizes ? ZERO1_OK : zero1__reading_memory(at, "parameters");
  for (size_t i = 0; i < count && !status; ++i) {
    status = read_param(at, json_array_get(list, i), (int64_t)i, next, &specs[i]);
    next += specs[i].ndim;
  }
  if (!status) {
    zero1__error inner = {0};
    status = zero1__registry_begin(&manifest->params, specs, sizeof *specs, (int64_t)count,
                                   manifest->group_count, &inner);
    status = zero1__reading_pass_on(at, status, &inner);
  }
  free(specs);
  free(sizes);
  return status;
}

/* ---- all of it ---- */

typedef struct lists {
  json_t *groups, *metadata, *rank_metadata, *parameters, *files;
} lists;

static zero1_status read_numbers(const zero1__reading *at, json_t *root, zero1__manifest *manifest,
                                 lists *found) {
  json_error_t why;
  json_int_t count, attempts, world_size;
  const char *dtype, *format, *hash;
  int version;
  if (json_unpack_ex(root, &why, JSON_STRICT,
                     "{s:s, s:i, s:I, s:I, s:I, s:s, s:F, s:F, s:F, s:o, s:o, s:o, s:o, s:o, s:s}",
                     "format", &format, "version", &version, "count", &count, "attempts", &attempts,
                     "world_size", &world_size, "param_dtype", &dtype, "grad_scale",
                     &manifest->grad_scale, "max_grad_norm", &manifest->max_grad_norm,
                     "skip_grad_norm", &manifest->skip_grad_norm, "groups", &found->groups,
                     "metadata", &found->metadata, "rank_metadata", &found->rank_metadata,
                     "parameters", &found->parameters, "files", &found->files, "xxh3", &hash))
    return zero1__reading_unpack(at, "manifest", -1, &why);
  const char *wrong = NULL;
  const int is_bf16 = !strcmp(dtype, zero1__dtype_name(ZERO1_DTYPE_BF16));
  if (count < 0 || attempts < count) wrong = "count or attempts";
  if (world_size < 1 || world_size > INT32_MAX) wrong = "world_size";
  if (!is_bf16 && strcmp(dtype, zero1__dtype_name(ZERO1_DTYPE_FP32))) wrong = "param_dtype";
  if (manifest->grad_scale < 0) wrong = "grad_scale";
  if (manifest->max_grad_norm < 0) wrong = "max_grad_norm";
  if (manifest->skip_grad_norm < 0) wrong = "skip_grad_norm";
  if (!json_is_array(found->groups)) wrong = "groups";
  if (!json_is_array(found->parameters)) wrong = "parameters";
  if (!json_is_array(found->files)) wrong = "files";
  if (!json_is_array(found->rank_metadata) ||
      (int64_t)json_array_size(found->rank_metadata) != world_size)
    wrong = "rank_metadata, which is no list of world_size elements,";
  if (wrong)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "%s cannot be so", wrong);
  manifest->count = count;
  manifest->attempts = attempts;
  manifest->param_dtype = is_bf16 ? ZERO1_DTYPE_BF16 : ZERO1_DTYPE_FP32;
  manifest->rank_metadata = calloc((size_t)world_size, sizeof *manifest->rank_metadata);
  if (!manifest->rank_metadata) return zero1__reading_memory(at, "rank_metadata");
  manifest->world_size = (int32_t)world_size;
  return ZERO1_OK;
}

zero1_status zero1__manifest_read(const char *path, const char *text, size_t bytes,
                                  zero1__manifest *manifest, zero1__error *error) {
  const zero1__reading at = {path, error};
  json_t *root;
  lists found = {0};
  memset(manifest, 0, sizeof *manifest);
  zero1_status status = zero1__reading_load(&at, text, bytes, ZERO1__MANIFEST_FORMAT, &root);
  if (!status) manifest->xxh3 = XXH3_64bits(text, bytes);
  if (!status) status = read_numbers(&at, root, manifest, &found);
  if (!status) status = read_groups(&at, found.groups, manifest);
  if (!status) status = read_pairs(&at, found.metadata, "metadata", &manifest->metadata);
  if (!status) status = read_rank_metadata(&at, found.rank_metadata, manifest);
  if (!status) status = read_params(&at, found.parameters, manifest);
  if (!status) status = read_files(&at, found.files, 0, manifest->world_size, &manifest->index);
  json_decref(root);
  if (!status) status = zero1__manifest_check(path, manifest, error);
  return status;
}

zero1_status zero1__part_read(const char *path, const char *text, size_t bytes, int32_t rank,
                              zero1__manifest *manifest, zero1__error *error) {
  const zero1__reading at = {path, error};
  json_error_t why;
  json_t *root, *metadata = NULL, *files = NULL;
  const char *format, *hash;
  int version;
  zero1_status status = zero1__reading_load(&at, text, bytes, ZERO1__PART_FORMAT, &root);
  if (!status &&
      json_unpack_ex(root, &why, JSON_STRICT, "{s:s, s:i, s:o, s:o, s:s}", "format", &format,
                     "version", &version, "metadata", &metadata, "files", &files, "xxh3", &hash))
    status = zero1__reading_unpack(&at, "part", -1, &why);
  if (!status && !json_is_array(files))
    status = zero1__fail_at(error, ZERO1_ERR_CORRUPT, path, "files are no list");
  if (!status) {
    zero1__pairs_end(&manifest->rank_metadata[rank]);
    status = read_pairs(&at, metadata, "metadata", &manifest->rank_metadata[rank]);
  }
  if (!status) status = read_files(&at, files, rank, rank + 1, &manifest->index);
  json_decref(root);
  return status;
}
