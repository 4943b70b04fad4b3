#include "safetensors.h"

#include <stdio.h>
#include <string.h>

#include "dtype.h"
#include "json_text.h"
#include "layout.h"

#define DATA_ALIGNMENT 64

/* The header's text, to be added to; given back with `give`. */
static zero1__json_text take(const zero1__safetensors *header) {
  const zero1__json_text json = {header->text, header->bytes, header->room, ZERO1_OK};
  return json;
}

static zero1_status give(zero1__safetensors *header, const zero1__json_text *json,
                         zero1__error *error) {
  header->text = json->text;
  header->bytes = json->bytes;
  header->room = json->room;
  if (!json->status) return ZERO1_OK;
  return zero1__fail(error, json->status, "no memory for a safetensors header of %zu bytes",
                     json->bytes);
}

static int has_format(const zero1_pair *metadata, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!strcmp(metadata[i].key, "format")) return 1;
  return 0;
}

zero1_status zero1__safetensors_begin(zero1__safetensors *header, const zero1_pair *metadata,
                                      int64_t metadata_count, zero1__error *error) {
  static const char no_length[ZERO1__HEADER_LENGTH_BYTES] = {0};
  memset(header, 0, sizeof *header);
  zero1__json_text json = {0};
  zero1__json_add_bytes(&json, no_length, sizeof no_length);
  zero1__json_add(&json, "{\"" ZERO1__HEADER_METADATA "\":{");
  if (!has_format(metadata, metadata_count))
    zero1__json_add(&json, metadata_count ? "\"format\":\"zero1\"," : "\"format\":\"zero1\"");
  for (int64_t i = 0; i < metadata_count; ++i) {
    if (i) zero1__json_add(&json, ",");
    zero1__json_add_string(&json, metadata[i].key);
    zero1__json_add(&json, ":");
    zero1__json_add_string(&json, metadata[i].value);
  }
  zero1__json_add(&json, "}");
  return give(header, &json, error);
}

void zero1__safetensors_end(zero1__safetensors *header) {
  zero1__json_text json = take(header);
  zero1__json_end(&json);
  memset(header, 0, sizeof *header);
}

/* Bytes of a tensor; -1: the header's data would be too many. */
static int64_t tensor_bytes(const zero1__safetensors *header, int32_t dtype, const int64_t *shape,
                            int32_t ndim) {
  int64_t numel;
  const int64_t element = (int64_t)zero1__dtype_bytes(dtype);
  if (zero1__shape_numel(shape, ndim, &numel)) return -1;
  if (numel > (INT64_MAX - header->data_bytes) / element) return -1;
  return numel * element;
}

zero1_status zero1__safetensors_add(zero1__safetensors *header, const char *name, int32_t dtype,
                                    const int64_t *shape, int32_t ndim, zero1__error *error) {
  char shown[ZERO1__SHOWN_BYTES];
  const int64_t bytes = tensor_bytes(header, dtype, shape, ndim);
  if (!zero1__utf8_valid(name))
    return zero1__fail(error, ZERO1_ERR_INVALID, "the name of tensor '%s' is not UTF-8",
                       zero1__show_text(name, shown));
  if (!strcmp(name, ZERO1__HEADER_METADATA))
    return zero1__fail(error, ZERO1_ERR_INVALID, "no tensor can be named '%s'", name);
  if (bytes < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "the size of tensor '%s' overflows",
                       zero1__show_text(name, shown));
  zero1__json_text json = take(header);
  zero1__json_add(&json, ",");
  zero1__json_add_string(&json, name);
  zero1__json_add(&json, ":{\"dtype\":");
  zero1__json_add_string(&json, zero1__dtype_name(dtype));
  zero1__json_add(&json, ",\"shape\":[");
  for (int32_t i = 0; i < ndim; ++i) {
    if (i) zero1__json_add(&json, ",");
    zero1__json_add_integer(&json, shape[i]);
  }
  zero1__json_add(&json, "],\"data_offsets\":[");
  zero1__json_add_integer(&json, header->data_bytes);
  zero1__json_add(&json, ",");
  zero1__json_add_integer(&json, header->data_bytes + bytes);
  zero1__json_add(&json, "]}");
  const zero1_status status = give(header, &json, error);
  if (!status) header->data_bytes += bytes;
  return status;
}

zero1_status zero1__safetensors_finish(zero1__safetensors *header, zero1__error *error) {
  zero1__json_text json = take(header);
  zero1__json_add(&json, "}");
  while (!json.status && json.bytes % DATA_ALIGNMENT != 0) zero1__json_add(&json, " ");
  const zero1_status status = give(header, &json, error);
  for (int i = 0; i < ZERO1__HEADER_LENGTH_BYTES && !status; ++i)
    header->text[i] =
        (char)((uint64_t)(header->bytes - ZERO1__HEADER_LENGTH_BYTES) >> (8 * i) & 0xff);
  return status;
}

const char *zero1__state_name(int32_t state) {
  static const char *const names[ZERO1__STATE_COUNT] = {"param", "master_param", "exp_avg",
                                                        "exp_avg_sq", "residual"};
  return state >= 0 && state < ZERO1__STATE_COUNT ? names[state] : "unknown";
}

int zero1__safetensors_name(const char *param, int32_t state, int64_t begin, int64_t end,
                            char *text, size_t text_bytes) {
  return snprintf(text, text_bytes, "%s.%s[%lld:%lld]", param, zero1__state_name(state),
                  (long long)begin, (long long)end);
}
