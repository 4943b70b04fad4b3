#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_folder.h"
#include "json_text.h"
#include "manifest.h"
#include "safetensors.h"

#define FILE_NAME_MAX 255

typedef struct checking {
  const char *path;
  const zero1__manifest *manifest;
  zero1__error *error;
} checking;

/* ---- files ---- */

/* One that no folder gives another meaning, and that is no file of ours of another kind. */
static int is_plain_name(const char *name) {
  const size_t bytes = strlen(name);
  return bytes > 0 && bytes <= FILE_NAME_MAX && name[0] != '.' &&
         bytes == strspn(name,
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                         "0123456789._-") &&
         strcmp(name, ZERO1__MANIFEST_NAME);
}

static int by_name(const void *left, const void *right) {
  return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static zero1_status check_file_names(const checking *at) {
  const zero1__index *const index = &at->manifest->index;
  const char **const names = malloc(((size_t)index->file_count + 1) * sizeof *names);
  char shown[ZERO1__SHOWN_BYTES];
  const char *wrong = NULL, *how = "";
  if (!names)
    return zero1__fail_at(at->error, ZERO1_ERR_MEMORY, at->path, "no memory for names of files");
  for (int64_t i = 0; i < index->file_count && !wrong; ++i) {
    names[i] = index->files[i].name;
    if (!is_plain_name(names[i])) wrong = names[i], how = "is no plain name";
  }
  if (!wrong) {
    qsort(names, (size_t)index->file_count, sizeof *names, by_name);
    for (int64_t i = 1; i < index->file_count && !wrong; ++i)
      if (!strcmp(names[i - 1], names[i])) wrong = names[i], how = "is there twice";
  }
  free(names);
  if (!wrong) return ZERO1_OK;
  return zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path, "file '%s' %s",
                        zero1__show_text(wrong, shown), how);
}

/* ---- each range by itself ---- */

static int64_t element_bytes(const zero1__manifest *manifest, const zero1__saved_range *range) {
  return zero1__saved_element_bytes(range->state, manifest->param_dtype);
}

static const char *what_is_wrong(const zero1__manifest *manifest, const zero1__saved_range *range) {
  const zero1__registry *const params = &manifest->params;
  if (range->param < 0 || range->param >= params->count) return "is of no parameter";
  const int frozen = (params->flags[range->param] & ZERO1_PARAM_FROZEN) != 0;
  if (range->state < 0 || range->state >= ZERO1__STATE_COUNT) return "is of no state";
  if (frozen != (range->state == ZERO1_STATE_PARAM))
    return frozen ? "is of a state that frozen parameters have not"
                  : "is of a state that only frozen parameters have";
  if (range->begin < 0 || range->begin >= range->end || range->end > params->numel[range->param])
    return "does not lie in its parameter";
  const int64_t bytes = manifest->index.files[range->file].bytes;
  if (range->offset < 0 || range->offset > bytes ||
      range->end - range->begin > (bytes - range->offset) / element_bytes(manifest, range))
    return "does not lie in its file";
  return NULL;
}

static zero1_status check_ranges(const checking *at) {
  const zero1__index *const index = &at->manifest->index;
  char shown[ZERO1__SHOWN_BYTES];
  for (int64_t i = 0; i < index->range_count; ++i) {
    const zero1__saved_range *const range = &index->ranges[i];
    const char *const wrong = what_is_wrong(at->manifest, range);
    if (wrong)
      return zero1__fail_at(
          at->error, ZERO1_ERR_CORRUPT, at->path,
          "in file '%s', range [%lld, %lld) of state %d of parameter %lld at byte %lld %s",
          zero1__show_text(index->files[range->file].name, shown), (long long)range->begin,
          (long long)range->end, range->state, (long long)range->param, (long long)range->offset,
          wrong);
  }
  return ZERO1_OK;
}

static zero1_status check_overlaps(const checking *at) {
  const zero1__index *const index = &at->manifest->index;
  char shown[ZERO1__SHOWN_BYTES];
  zero1_status status = ZERO1_OK;
  int64_t *const order = zero1__index_by_place(index, at->error);
  if (!order) return ZERO1_ERR_MEMORY;
  for (int64_t i = 1; i < index->range_count && !status; ++i) {
    const zero1__saved_range *const range = &index->ranges[order[i - 1]];
    const zero1__saved_range *const next = &index->ranges[order[i]];
    const int64_t end =
        range->offset + (range->end - range->begin) * element_bytes(at->manifest, range);
    if (range->file == next->file && end > next->offset)
      status = zero1__fail_at(
          at->error, ZERO1_ERR_CORRUPT, at->path, "in file '%s' two ranges overlap at byte %lld",
          zero1__show_text(index->files[range->file].name, shown), (long long)next->offset);
  }
  free(order);
  return status;
}

/* ---- all ranges of a tensor ---- */

/* Ranges in order by state, and how far they have been looked at. */
typedef struct walk {
  const checking *at;
  const int64_t *order;
  int64_t next;
} walk;

/* The next range, if it is of this state of this parameter; of a residual, of this rank. */
static const zero1__saved_range *next_of(const walk *place, int64_t param, int32_t state,
                                         int32_t rank) {
  const zero1__index *const index = &place->at->manifest->index;
  if (place->next == index->range_count) return NULL;
  const zero1__saved_range *const range = &index->ranges[place->order[place->next]];
  if (range->param != param || range->state != state) return NULL;
  return rank < 0 || index->files[range->file].rank == rank ? range : NULL;
}

/* Goes over the ranges of one tensor, which must tile it. rank: of a residual; else -1. */
static zero1_status tile(walk *place, int64_t param, int32_t state, int32_t rank) {
  const zero1__registry *const params = &place->at->manifest->params;
  const zero1__saved_range *range;
  int64_t end = 0;
  char shown[ZERO1__SHOWN_BYTES], of_rank[32] = "";
  while ((range = next_of(place, param, state, rank)) && range->begin == end) {
    end = range->end;
    place->next += 1;
  }
  if (!range && end == params->numel[param]) return ZERO1_OK;
  if (rank >= 0) snprintf(of_rank, sizeof of_rank, " of rank %d", rank);
  zero1__show_text(params->names[param], shown);
  if (!range)
    return zero1__fail_at(place->at->error, ZERO1_ERR_CORRUPT, place->at->path,
                          "%s%s of parameter '%s' ends at element %lld of %lld",
                          zero1__state_name(state), of_rank, shown, (long long)end,
                          (long long)params->numel[param]);
  return zero1__fail_at(place->at->error, ZERO1_ERR_CORRUPT, place->at->path,
                        "%s%s of parameter '%s': a range ends at element %lld, and the next one "
                        "begins at %lld",
                        zero1__state_name(state), of_rank, shown, (long long)end,
                        (long long)range->begin);
}

/* All states of one parameter; *residuals counts those that have one. */
static zero1_status tile_param(walk *place, int64_t param, int64_t *residuals) {
  const zero1__manifest *const manifest = place->at->manifest;
  zero1_status status = ZERO1_OK;
  if (manifest->params.flags[param] & ZERO1_PARAM_FROZEN)
    return tile(place, param, ZERO1_STATE_PARAM, -1);
  for (int32_t state = ZERO1_STATE_MASTER_PARAM; state <= ZERO1_STATE_EXP_AVG_SQ && !status;
       ++state)
    status = tile(place, param, state, -1);
  if (status || !next_of(place, param, ZERO1_STATE_RESIDUAL, -1)) return status;
  *residuals += 1;
  for (int32_t rank = 0; rank < manifest->world_size && !status; ++rank)
    status = tile(place, param, ZERO1_STATE_RESIDUAL, rank);
  return status;
}

static zero1_status check_tiles(const checking *at) {
  const zero1__registry *const params = &at->manifest->params;
  int64_t residuals = 0, with_state = 0;
  zero1_status status = ZERO1_OK;
  int64_t *const order = zero1__index_by_state(&at->manifest->index, at->error);
  if (!order) return ZERO1_ERR_MEMORY;
  walk place = {at, order, 0};
  for (int64_t i = 0; i < params->count && !status; ++i) {
    status = tile_param(&place, i, &residuals);
    with_state += params->numel[i] > 0 && !(params->flags[i] & ZERO1_PARAM_FROZEN);
  }
  free(order);
  if (!status && residuals && residuals != with_state)
    status = zero1__fail_at(at->error, ZERO1_ERR_CORRUPT, at->path,
                            "%lld of %lld parameters have a residual", (long long)residuals,
                            (long long)with_state);
  return status;
}

zero1_status zero1__manifest_check(const char *path, const zero1__manifest *manifest,
                                   zero1__error *error) {
  const checking at = {path, manifest, error};
  zero1_status status = check_file_names(&at);
  if (!status) status = check_ranges(&at);
  if (!status) status = check_overlaps(&at);
  if (!status) status = check_tiles(&at);
  return status;
}
