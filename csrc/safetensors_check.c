/* Any bytes may come. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_folder.h"
#include "dtype.h"
#include "json_text.h"
#include "manifest_text.h"
#include "safetensors.h"

typedef struct checking {
  const char *path;
  const zero1__manifest *manifest;
  zero1__error *error;
  int64_t data_begin; /* of the file, as its header has it */
  char *name;         /* of the tensor that is looked for; owned */
  size_t name_room;
} checking;

static zero1_status parse(checking *at, const char *text, size_t bytes, json_t **root) {
  if (bytes < ZERO1__HEADER_LENGTH_BYTES ||
      zero1__header_length(text) > bytes - ZERO1__HEADER_LENGTH_BYTES)
    return zero1__fail_at(
        at->error, ZERO1_ERR_CORRUPT, at->path, "its header takes %llu bytes, and there are %zu",
        bytes < ZERO1__HEADER_LENGTH_BYTES ? 0ULL : (unsigned long long)zero1__header_length(text),
        bytes < ZERO1__HEADER_LENGTH_BYTES ? bytes : bytes - ZERO1__HEADER_LENGTH_BYTES);
  const size_t length = (size_t)zero1__header_length(text);
  at->data_begin = (int64_t)(length + ZERO1__HEADER_LENGTH_BYTES);
  const zero1__reading reading = {at->path, at->error};
  const zero1_status status =
      zero1__reading_parse(&reading, "header", text + ZERO1__HEADER_LENGTH_BYTES, length, root);
  if (status) return status;
  if (!json_is_object(*root))
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "its header is no JSON object");
  return ZERO1_OK;
}

/* Sets at->name to that of a range's tensor. */
static zero1_status make_name(checking *at, const zero1__saved_range *range) {
  const char *const param = at->manifest->params.names[range->param];
  for (;;) {
    const int length = zero1__safetensors_name(param, range->state, range->begin, range->end,
                                               at->name, at->name_room);
    if (length >= 0 && (size_t)length < at->name_room) return ZERO1_OK;
    const size_t room = length >= 0 ? 2 * ((size_t)length + 1) : 0;
    char *const name = room ? realloc(at->name, room) : NULL;
    if (!name)
      return zero1__fail_at(at->error, ZERO1_ERR_MEMORY, at->path, "no memory for a tensor's name");
    at->name = name;
    at->name_room = room;
  }
}

/* The header has this range, where the manifest has it. *data_bytes grows by its size. */
static zero1_status check_range(checking *at, const json_t *root, const zero1__saved_range *range,
                                int64_t *data_bytes) {
  char shown[ZERO1__SHOWN_BYTES];
  json_error_t why;
  const char *dtype;
  json_int_t size, begin, end;
  const int32_t saved = zero1__saved_dtype(range->state, at->manifest->param_dtype);
  const int64_t bytes = (range->end - range->begin) *
                        zero1__saved_element_bytes(range->state, at->manifest->param_dtype);
  const int64_t data_offset = range->offset - at->data_begin;
  const zero1_status status = make_name(at, range);
  if (status) return status;
  zero1__show_text(at->name, shown);
  json_t *const tensor = json_object_get(root, at->name);
  if (!tensor)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "its header lacks '%s', which the manifest has", shown);
  if (json_unpack_ex(tensor, &why, JSON_STRICT, "{s:s, s:[I], s:[I,I]}", "dtype", &dtype, "shape",
                     &size, "data_offsets", &begin, &end)) {
    if (json_error_code(&why) == json_error_out_of_memory)
      return zero1__fail_at(at->error, ZERO1_ERR_MEMORY, at->path, "no memory for its header");
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "its header has '%s' wrong: %s",
                          shown, why.text);
  }
  const char *wrong = NULL;
  if (strcmp(dtype, zero1__dtype_name(saved))) wrong = "dtype";
  if (size != range->end - range->begin) wrong = "shape";
  if (data_offset < 0 || begin != data_offset || end != data_offset + bytes) wrong = "data_offsets";
  if (wrong)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "its header has another %s of '%s' than the manifest", wrong, shown);
  *data_bytes += bytes;
  return ZERO1_OK;
}

static zero1_status check_rest(const checking *at, const json_t *root, int64_t tensor_count,
                               int64_t data_bytes, int64_t file_bytes) {
  json_t *const metadata = json_object_get(root, ZERO1__HEADER_METADATA), *value;
  const char *key;
  int all_texts = !metadata || json_is_object(metadata);
  json_object_foreach(metadata, key, value) all_texts &= json_is_string(value);
  if (!all_texts)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "its header has " ZERO1__HEADER_METADATA " that are no texts");
  const int64_t named = (int64_t)json_object_size(root) - (metadata != NULL);
  if (named != tensor_count)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "its header has %lld tensors, and the manifest has %lld",
                          (long long)named, (long long)tensor_count);
  if (data_bytes != file_bytes - at->data_begin)
    return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                          "its tensors take %lld bytes, and %lld follow its header",
                          (long long)data_bytes, (long long)(file_bytes - at->data_begin));
  return ZERO1_OK;
}

zero1_status zero1__safetensors_check(const char *path, const char *text, size_t bytes,
                                      const zero1__manifest *manifest, int32_t file,
                                      zero1__error *error) {
  const zero1__index *const index = &manifest->index;
  checking at = {.path = path, .manifest = manifest, .error = error};
  json_t *root = NULL;
  const int64_t range_begin = zero1__index_file_begin(index, file);
  const int64_t range_end = zero1__index_file_begin(index, (int64_t)file + 1);
  int64_t data_bytes = 0;
  zero1_status status = parse(&at, text, bytes, &root);
  for (int64_t i = range_begin; i < range_end && !status; ++i)
    status = check_range(&at, root, &index->ranges[i], &data_bytes);
  if (!status)
    status = check_rest(&at, root, range_end - range_begin, data_bytes, index->files[file].bytes);
  json_decref(root);
  free(at.name);
  return status;
}
