#include "manifest.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "dtype.h"
#include "json_text.h"
#include "manifest_text.h"

void zero1__manifest_end(zero1__manifest *manifest) {
  free(manifest->groups);
  zero1__pairs_end(&manifest->metadata);
  for (int32_t i = 0; manifest->rank_metadata && i < manifest->world_size; ++i)
    zero1__pairs_end(&manifest->rank_metadata[i]);
  free(manifest->rank_metadata);
  zero1__registry_end(&manifest->params);
  zero1__index_end(&manifest->index);
  memset(manifest, 0, sizeof *manifest);
}

/* ---- writing ---- */

static void add_integer(zero1__json_text *json, const char *before, int64_t value) {
  zero1__json_add(json, before);
  zero1__json_add_integer(json, value);
}

static void add_real(zero1__json_text *json, const char *before, double value) {
  zero1__json_add(json, before);
  zero1__json_add_real(json, value);
}

static void add_string(zero1__json_text *json, const char *before, const char *value) {
  zero1__json_add(json, before);
  zero1__json_add_string(json, value);
}

/* Between the elements of a list, one a line. */
static void add_line(zero1__json_text *json, int64_t index) {
  zero1__json_add(json, index ? ",\n" : "\n");
}

static void add_pairs(zero1__json_text *json, const zero1__pairs *pairs) {
  for (int64_t i = 0; i < pairs->count; ++i) {
    add_string(json, i ? ", " : "{", pairs->pairs[i].key);
    add_string(json, ": ", pairs->pairs[i].value);
  }
  zero1__json_add(json, pairs->count ? "}" : "{}");
}

static void add_group(zero1__json_text *json, const zero1_group *group) {
  add_real(json, "{\"lr\": ", group->lr);
  add_real(json, ", \"beta1\": ", group->beta1);
  add_real(json, ", \"beta2\": ", group->beta2);
  add_real(json, ", \"eps\": ", group->eps);
  add_real(json, ", \"weight_decay\": ", group->weight_decay);
  zero1__json_add(json, ", \"decoupled_weight_decay\": ");
  zero1__json_add(json, group->decoupled_weight_decay ? "true}" : "false}");
}

static void add_param(zero1__json_text *json, const zero1__registry *params, int64_t index) {
  add_string(json, "{\"name\": ", params->names[index]);
  zero1__json_add(json, ", \"shape\": [");
  for (int32_t i = 0; i < params->ndim[index]; ++i)
    add_integer(json, i ? ", " : "", params->shapes[index][i]);
  add_integer(json, "], \"group\": ", params->group[index]);
  if (params->flags[index] & ZERO1_PARAM_FROZEN) zero1__json_add(json, ", \"frozen\": true");
  if (params->flags[index] & ZERO1_PARAM_NOT_IN_NORM)
    zero1__json_add(json, ", \"not_in_norm\": true");
  zero1__json_add(json, "}");
}

static void add_head(zero1__json_text *json, const zero1__manifest *manifest) {
  add_integer(
      json, "{\"format\": \"" ZERO1__MANIFEST_FORMAT "\", \"version\": ", ZERO1__MANIFEST_VERSION);
  add_integer(json, ",\n\"count\": ", manifest->count);
  add_integer(json, ", \"attempts\": ", manifest->attempts);
  add_integer(json, ", \"world_size\": ", manifest->world_size);
  add_string(json, ", \"param_dtype\": ", zero1__dtype_name(manifest->param_dtype));
  add_real(json, ",\n\"grad_scale\": ", manifest->grad_scale);
  add_real(json, ", \"max_grad_norm\": ", manifest->max_grad_norm);
  add_real(json, ", \"skip_grad_norm\": ", manifest->skip_grad_norm);
  zero1__json_add(json, ",\n\"groups\": [");
  for (int64_t i = 0; i < manifest->group_count; ++i) {
    add_line(json, i);
    add_group(json, &manifest->groups[i]);
  }
  zero1__json_add(json, "],\n\"metadata\": ");
  add_pairs(json, &manifest->metadata);
  zero1__json_add(json, ",\n\"rank_metadata\": [");
  for (int32_t i = 0; i < manifest->world_size; ++i) {
    add_line(json, i);
    add_pairs(json, &manifest->rank_metadata[i]);
  }
  zero1__json_add(json, "],\n\"parameters\": [");
  for (int64_t i = 0; i < manifest->params.count; ++i) {
    add_line(json, i);
    add_param(json, &manifest->params, i);
  }
  zero1__json_add(json, "],\n");
}

/* File `file`, whose ranges begin at place *at of the order; *at is moved behind them. */
static void add_file(zero1__json_text *json, const zero1__index *index, int64_t file,
                     const int64_t *order, int64_t *at) {
  const zero1__saved_file *const saved = &index->files[file];
  const int64_t begin = *at;
  add_string(json, "{\"name\": ", saved->name);
  add_integer(json, ", \"rank\": ", saved->rank);
  add_integer(json, ", \"bytes\": ", saved->bytes);
  zero1__json_add(json, ", \"xxh3\": \"");
  for (int64_t i = 0; i < zero1__chunk_count(saved->bytes); ++i)
    zero1__json_add_hash(json, saved->xxh3[i]);
  zero1__json_add(json, "\", \"index\": \"");
  for (; *at < index->range_count && index->ranges[order[*at]].file == file; ++*at) {
    const zero1__saved_range *const range = &index->ranges[order[*at]];
    add_integer(json, *at == begin ? "" : ",", range->param);
    add_integer(json, " ", range->state);
    add_integer(json, " ", range->begin);
    add_integer(json, " ", range->end);
    add_integer(json, " ", range->offset);
  }
  zero1__json_add(json, "\"}");
}

static zero1_status add_files(zero1__json_text *json, const zero1__index *index,
                              zero1__error *error) {
  int64_t *const order = zero1__index_by_place(index, error), at = 0;
  if (!order) return ZERO1_ERR_MEMORY;
  zero1__json_add(json, "\"files\": [");
  for (int64_t i = 0; i < index->file_count; ++i) {
    add_line(json, i);
    add_file(json, index, i, order, &at);
  }
  zero1__json_add(json, "],\n");
  free(order);
  return ZERO1_OK;
}

/* Adds the checksum and gives the text away, unless `status` is a failure. */
static zero1_status finish(zero1__json_text *json, zero1_status status, char **text, size_t *bytes,
                           zero1__error *error) {
  zero1__json_add(json, ZERO1__HASH_BEGIN);
  if (!status && !json->status) zero1__json_add_hash(json, XXH3_64bits(json->text, json->bytes));
  zero1__json_add_bytes(json, ZERO1__HASH_END, sizeof ZERO1__HASH_END); /* and its NUL */
  if (!status && json->status)
    status = zero1__fail(error, json->status, "no memory for a manifest of %zu bytes", json->bytes);
  if (status) {
    zero1__json_end(json);
  } else {
    *text = json->text;
    *bytes = json->bytes - 1;
  }
  return status;
}

static zero1_status check_names(const zero1__registry *params, zero1__error *error) {
  char shown[ZERO1__SHOWN_BYTES];
  for (int64_t i = 0; i < params->count; ++i)
    if (!zero1__utf8_valid(params->names[i]))
      return zero1__fail(error, ZERO1_ERR_INVALID,
                         "the name of parameter %lld, '%s', is not UTF-8, which checkpoints take",
                         (long long)i, zero1__show_text(params->names[i], shown));
  return ZERO1_OK;
}

zero1_status zero1__manifest_write(const zero1__manifest *manifest, char **text, size_t *bytes,
                                   zero1__error *error) {
  zero1__json_text json = {0};
  *text = NULL;
  *bytes = 0;
  zero1_status status = check_names(&manifest->params, error);
  if (!status) add_head(&json, manifest);
  if (!status) status = add_files(&json, &manifest->index, error);
  return finish(&json, status, text, bytes, error);
}

zero1_status zero1__part_write(const zero1__index *index, const zero1__pairs *rank_metadata,
                               char **text, size_t *bytes, zero1__error *error) {
  zero1__json_text json = {0};
  *text = NULL;
  *bytes = 0;
  add_integer(&json,
              "{\"format\": \"" ZERO1__PART_FORMAT "\", \"version\": ", ZERO1__MANIFEST_VERSION);
  zero1__json_add(&json, ",\n\"metadata\": ");
  add_pairs(&json, rank_metadata);
  zero1__json_add(&json, ",\n");
  return finish(&json, add_files(&json, index, error), text, bytes, error);
}
