/* Any bytes may come: nothing is allocated that is not in proportion to the text. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "config.h"
#include "dtype.h"
#include "json_text.h"
#include "manifest.h"
#include "manifest_text.h"

#define INDEX_NUMBERS 5 /* of a range */

/* What is read, and where failures go. */
typedef struct reading {
  const char *path;
  zero1__error *error;
} reading;

static zero1_status out_of_memory(const reading *at, const char *what) {
  return zero1__fail_at(at->error, ZERO1_ERR_MEMORY, at->path, "no memory for its %s", what);
}

/* A failure with text of one's own becomes one of this file. */
static zero1_status pass_on(const reading *at, zero1_status status, const zero1__error *inner) {
  if (status == ZERO1_OK) return ZERO1_OK;
  return zero1__fail_at(at->error,
                        status == ZERO1_ERR_MEMORY ? ZERO1_ERR_MEMORY : ZERO1_ERR_CORRUPT, at->path,
                        "%s", inner->text);
}

/* json_unpack_ex failed on element `index` of a list `what`, or on what is no list (-1). */
static zero1_status unpack_failed(const reading *at, const char *what, int64_t index,
                                  const json_error_t *why) {
  char place[32] = "", shown[ZERO1__SHOWN_BYTES];
  if (json_error_code(why) == json_error_out_of_memory) return out_of_memory(at, what);
  if (index >= 0) snprintf(place, sizeof place, "[%lld]", (long long)index);
  return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "%s%s: %s", what, place,
                        zero1__show_text(why->text, shown));
}

/* ---- the text as a whole ---- */

/* Whether a text ends with the checksum of all that is before it. */
static int hash_fits(const char *text, size_t bytes) {
  const size_t end = sizeof ZERO1__HASH_END - 1;
  if (bytes < ZERO1__HASH_DIGITS + end) return 0;
  const size_t hashed = bytes - ZERO1__HASH_DIGITS - end;
  char expected[ZERO1__HASH_DIGITS + 1];
  snprintf(expected, sizeof expected, "%016llx", (unsigned long long)XXH3_64bits(text, hashed));
  return !memcmp(text + hashed, expected, ZERO1__HASH_DIGITS) &&
         !memcmp(text + hashed + ZERO1__HASH_DIGITS, ZERO1__HASH_END, end);
}

static zero1_status check_version(const reading *at, const json_t *root, const char *format) {
  const json_t *const found = json_object_get(root, "format");
  const json_t *const version = json_object_get(root, "version");
  if (!json_is_string(found) || strcmp(json_string_value(found), format))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "it is no %s", format);
  if (!json_is_integer(version) || json_integer_value(version) < 1)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "it has no version");
  if (json_integer_value(version) > ZERO1__MANIFEST_VERSION)
    return zero1__fail_at(at->error, ZERO1_ERR_VERSION, at->path,
                          "a newer library wrote it: its version is %lld, and this one knows %d",
                          (long long)json_integer_value(version), ZERO1__MANIFEST_VERSION);
  return ZERO1_OK;
}

/* Sets *root, to be json_decref'ed, after a failure too. */
static zero1_status load(const reading *at, const char *text, size_t bytes, const char *format,
                         json_t **root) {
  json_error_t why;
  char shown[ZERO1__SHOWN_BYTES];
  const int fits = hash_fits(text, bytes);
  *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
  const zero1_status status = *root ? check_version(at, *root, format) : ZERO1_ERR_CORRUPT;
  if (status == ZERO1_ERR_VERSION) return status;
  if (!fits)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "the checksum at its end is not that of its %zu bytes", bytes);
  if (!*root) /* jansson does not always say which */
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "line %d is not JSON, or there was no memory: %s", why.line,
                          zero1__show_text(why.text, shown));
  return status;
}

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

static zero1_status read_ranges(const reading *at, const json_t *numbers, int32_t file,
                                zero1__index *index) {
  const char *const name = index->files[file].name;
  const size_t count = json_array_size(numbers);
  char shown[ZERO1__SHOWN_BYTES];
  if (!json_is_array(numbers) || count % INDEX_NUMBERS != 0)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "the index of file '%s' is no list of %d numbers a range",
                          zero1__show_text(name, shown), INDEX_NUMBERS);
  for (size_t i = 0; i < count; i += INDEX_NUMBERS) {
    json_int_t values[INDEX_NUMBERS];
    for (size_t k = 0; k < INDEX_NUMBERS; ++k) {
      const json_t *const number = json_array_get(numbers, i + k);
      values[k] = json_is_integer(number) ? json_integer_value(number) : -1;
      if (values[k] < 0 || (k == 1 && values[k] > ZERO1_STATE_RESIDUAL))
        return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                              "number %zu of the index of file '%s' is out of its range", i + k,
                              zero1__show_text(name, shown));
    }
    const zero1__saved_range range = {.param = values[0],
                                      .state = (int32_t)values[1],
                                      .file = file,
                                      .begin = values[2],
                                      .end = values[3],
                                      .offset = values[4]};
    zero1__error inner = {0};
    const zero1_status status = zero1__index_add_range(index, &range, &inner);
    if (status) return pass_on(at, status, &inner);
  }
  return ZERO1_OK;
}

/* File `number` of a list. Its rank is below `rank_end`, and its hashes are all there, before any
 * memory is taken for them. */
static zero1_status read_file(const reading *at, json_t *item, int64_t number, int32_t rank_begin,
                              int32_t rank_end, zero1__index *index) {
  json_error_t why;
  const char *name, *hashes;
  size_t digits;
  json_int_t rank, bytes;
  json_t *numbers;
  if (json_unpack_ex(item, &why, JSON_STRICT, "{s:s, s:I, s:I, s:s%, s:o}", "name", &name, "rank",
                     &rank, "bytes", &bytes, "xxh3", &hashes, &digits, "index", &numbers))
    return unpack_failed(at, "files", number, &why);
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
  if (status) return pass_on(at, status, &inner);
  const int32_t file = (int32_t)index->file_count - 1;
  if (!read_hashes(hashes, index->files[file].xxh3, zero1__chunk_count(bytes)))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "files[%lld]: xxh3 has what is no digit", (long long)number);
  return read_ranges(at, numbers, file, index);
}

static zero1_status read_files(const reading *at, const json_t *files, int32_t rank_begin,
                               int32_t rank_end, zero1__index *index) {
  zero1_status status = ZERO1_OK;
  for (size_t i = 0; i < json_array_size(files) && !status; ++i)
    status = read_file(at, json_array_get(files, i), (int64_t)i, rank_begin, rank_end, index);
  return status;
}

/* ---- the other lists ---- */

static zero1_status read_pairs(const reading *at, json_t *object, const char *what,
                               zero1__pairs *pairs) {
  const size_t count = json_object_size(object);
  const char *key;
  json_t *value;
  int64_t used = 0;
  int all_texts = json_is_object(object);
  zero1_pair *const given = malloc((count + 1) * sizeof *given);
  if (!given) return out_of_memory(at, what);
  json_object_foreach(object, key, value) {
    given[used].key = key;
    given[used].value = json_string_value(value);
    all_texts &= given[used++].value != NULL;
  }
  zero1__error inner = {0};
  zero1_status status = ZERO1_OK;
  if (all_texts)
    status = pass_on(at, zero1__pairs_begin(pairs, given, used, what, &inner), &inner);
  else
    status = zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                            "%s: keys and texts are missing", what);
  free(given);
  return status;
}

static zero1_status read_rank_metadata(const reading *at, const json_t *list,
                                       zero1__manifest *manifest) {
  zero1_status status = ZERO1_OK;
  for (size_t i = 0; i < json_array_size(list) && !status; ++i) {
    char what[48];
    snprintf(what, sizeof what, "rank_metadata[%zu]", i);
    status = read_pairs(at, json_array_get(list, i), what, &manifest->rank_metadata[i]);
  }
  return status;
}

static zero1_status read_group(const reading *at, json_t *item, int64_t index, zero1_group *group) {
  json_error_t why;
  int decoupled;
  zero1__error inner = {0};
  zero1_group_init(group, sizeof *group);
  if (json_unpack_ex(item, &why, JSON_STRICT, "{s:F, s:F, s:F, s:F, s:F, s:b}", "lr", &group->lr,
                     "beta1", &group->beta1, "beta2", &group->beta2, "eps", &group->eps,
                     "weight_decay", &group->weight_decay, "decoupled_weight_decay", &decoupled))
    return unpack_failed(at, "groups", index, &why);
  group->decoupled_weight_decay = decoupled;
  return pass_on(at, zero1__group_check(group, index, &inner), &inner);
}

static zero1_status read_groups(const reading *at, const json_t *list, zero1__manifest *manifest) {
  const size_t count = json_array_size(list);
  zero1_status status = ZERO1_OK;
  manifest->groups = calloc(count + 1, sizeof *manifest->groups);
  if (!manifest->groups) return out_of_memory(at, "groups");
  manifest->group_count = (int64_t)count;
  for (size_t i = 0; i < count && !status; ++i)
    status = read_group(at, json_array_get(list, i), (int64_t)i, &manifest->groups[i]);
  return status;
}

/* Sizes go to `sizes`, with as much room as the list has items. */
static zero1_status read_param(const reading *at, json_t *item, int64_t index, int64_t *sizes,
                               zero1_param_spec *spec) {
  json_error_t why;
  json_t *shape;
  json_int_t group;
  int frozen = 0, not_in_norm = 0;
  if (json_unpack_ex(item, &why, JSON_STRICT, "{s:s, s:o, s:I, s?b, s?b}", "name", &spec->name,
                     "shape", &shape, "group", &group, "frozen", &frozen, "not_in_norm",
                     &not_in_norm))
    return unpack_failed(at, "parameters", index, &why);
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

static zero1_status read_params(const reading *at, const json_t *list, zero1__manifest *manifest) {
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
  zero1_status status = specs && sizes ? ZERO1_OK : out_of_memory(at, "parameters");
  for (size_t i = 0; i < count && !status; ++i) {
    status = read_param(at, json_array_get(list, i), (int64_t)i, next, &specs[i]);
    next += specs[i].ndim;
  }
  if (!status) {
    zero1__error inner = {0};
    status = zero1__registry_begin(&manifest->params, specs, sizeof *specs, (int64_t)count,
                                   manifest->group_count, &inner);
    status = pass_on(at, status, &inner);
  }
  free(specs);
  free(sizes);
  return status;
}

/* ---- all of it ---- */

typedef struct lists {
  json_t *groups, *metadata, *rank_metadata, *parameters, *files;
} lists;

static zero1_status read_numbers(const reading *at, json_t *root, zero1__manifest *manifest,
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
    return unpack_failed(at, "manifest", -1, &why);
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
  if (!manifest->rank_metadata) return out_of_memory(at, "rank_metadata");
  manifest->world_size = (int32_t)world_size;
  return ZERO1_OK;
}

zero1_status zero1__manifest_read(const char *path, const char *text, size_t bytes,
                                  zero1__manifest *manifest, zero1__error *error) {
  const reading at = {path, error};
  json_t *root;
  lists found = {0};
  memset(manifest, 0, sizeof *manifest);
  zero1_status status = load(&at, text, bytes, ZERO1__MANIFEST_FORMAT, &root);
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
  const reading at = {path, error};
  json_error_t why;
  json_t *root, *metadata = NULL, *files = NULL;
  const char *format, *hash;
  int version;
  zero1_status status = load(&at, text, bytes, ZERO1__PART_FORMAT, &root);
  if (!status &&
      json_unpack_ex(root, &why, JSON_STRICT, "{s:s, s:i, s:o, s:o, s:s}", "format", &format,
                     "version", &version, "metadata", &metadata, "files", &files, "xxh3", &hash))
    status = unpack_failed(&at, "part", -1, &why);
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
