#include "read_plan.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint_folder.h"

/* ---- where a wanted range lies ---- */

/* Negative: the saved range `index` begins before what is wanted, in the reader's order; 0: there;
 * positive: behind. */
static int compare_begin(const zero1__reader *reader, int64_t index, const zero1__wanted *wanted) {
  const zero1__index *const saved = &reader->manifest.index;
  const zero1__saved_range *const range = &saved->ranges[index];
  if (range->param != wanted->param) return range->param < wanted->param ? -1 : 1;
  if (range->state != wanted->state) return range->state < wanted->state ? -1 : 1;
  if (range->state == ZERO1_STATE_RESIDUAL) {
    const int32_t rank = saved->files[range->file].rank;
    if (rank != wanted->rank) return rank < wanted->rank ? -1 : 1;
  }
  return range->begin < wanted->begin ? -1 : range->begin > wanted->begin;
}

/* The place, in the reader's order, of the last saved range that begins where `wanted` does, or
 * before; -1: there is none. */
static int64_t find(const zero1__reader *reader, const zero1__wanted *wanted) {
  int64_t low = 0, high = reader->manifest.index.range_count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (compare_begin(reader, reader->order[middle], wanted) <= 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low - 1;
}

/* The saved range at a place of the order, if it holds element `next` of what is wanted. */
static const zero1__saved_range *range_with(const zero1__reader *reader, int64_t place,
                                            const zero1__wanted *wanted, int64_t next) {
  const zero1__index *const saved = &reader->manifest.index;
  if (place < 0 || place >= saved->range_count) return NULL;
  const zero1__saved_range *const range = &saved->ranges[reader->order[place]];
  if (range->param != wanted->param || range->state != wanted->state) return NULL;
  if (range->state == ZERO1_STATE_RESIDUAL && saved->files[range->file].rank != wanted->rank)
    return NULL;
  return range->begin <= next && next < range->end ? range : NULL;
}

static zero1_status check_wanted(const zero1__reader *reader, const zero1__wanted *wanted,
                                 zero1__error *error) {
  const zero1__registry *const params = &reader->manifest.params;
  if (wanted->param < 0 || wanted->param >= params->count)
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path,
                          "there is no parameter %lld: it has %lld", (long long)wanted->param,
                          (long long)params->count);
  if (wanted->begin < 0 || wanted->begin > wanted->end ||
      wanted->end > params->numel[wanted->param])
    return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path,
                          "elements [%lld, %lld) of parameter '%.100s', which has %lld",
                          (long long)wanted->begin, (long long)wanted->end,
                          params->names[wanted->param], (long long)params->numel[wanted->param]);
  return ZERO1_OK;
}

/* Cuts wanted range `index` into pieces, which are put into `pieces` unless that is NULL. Adds their
 * number to *count. */
static zero1_status cut(const zero1__reader *reader, const zero1__wanted *wanted, int64_t index,
                        zero1__piece *pieces, int64_t *count, zero1__error *error) {
  const int32_t each =
      (int32_t)zero1__saved_element_bytes(wanted->state, reader->manifest.param_dtype);
  int64_t next = wanted->begin;
  if (next == wanted->end) return ZERO1_OK;
  for (int64_t place = find(reader, wanted); next < wanted->end; ++place) {
    const zero1__saved_range *const range = range_with(reader, place, wanted, next);
    if (!range)
      return zero1__fail_at(error, ZERO1_ERR_INVALID, reader->path,
                            "state %d of parameter '%.100s' is not saved", wanted->state,
                            reader->manifest.params.names[wanted->param]);
    const int64_t end = range->end < wanted->end ? range->end : wanted->end;
    if (pieces)
      pieces[*count] = (zero1__piece){.wanted = index,
                                      .begin = next,
                                      .end = end,
                                      .offset = range->offset + (next - range->begin) * each,
                                      .file = range->file,
                                      .element_bytes = each};
    *count += 1;
    next = end;
  }
  return ZERO1_OK;
}

/* ---- the plan ---- */

static int by_place(const void *left, const void *right) {
  const zero1__piece *const a = left, *const b = right;
  if (a->file != b->file) return a->file < b->file ? -1 : 1;
  if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
  return a->wanted < b->wanted ? -1 : a->wanted > b->wanted;
}

static void sort(zero1__read_plan *plan) {
  int in_order = 1; /* as it is for who wants what one rank saved */
  for (int64_t i = 1; i < plan->count && in_order; ++i)
    in_order = by_place(&plan->pieces[i - 1], &plan->pieces[i]) < 0;
  if (!in_order) qsort(plan->pieces, (size_t)plan->count, sizeof *plan->pieces, by_place);
}

zero1_status zero1__read_plan_begin(zero1__read_plan *plan, const zero1__reader *reader,
                                    const zero1__wanted *wanted, int64_t wanted_count,
                                    zero1__error *error) {
  zero1_status status = ZERO1_OK;
  int64_t count = 0;
  memset(plan, 0, sizeof *plan);
  for (int64_t i = 0; i < wanted_count && !status; ++i) {
    status = check_wanted(reader, &wanted[i], error);
    if (!status) status = cut(reader, &wanted[i], i, NULL, &count, error);
  }
  if (status || count == 0) return status;
  if (count < INT64_MAX / 64) plan->pieces = malloc((size_t)count * sizeof *plan->pieces);
  if (!plan->pieces)
    return zero1__fail_at(error, ZERO1_ERR_MEMORY, reader->path,
                          "no memory for a plan of %lld ranges", (long long)count);
  for (int64_t i = 0; i < wanted_count && !status; ++i)
    status = cut(reader, &wanted[i], i, plan->pieces, &plan->count, error);
  sort(plan);
  return status;
}

void zero1__read_plan_end(zero1__read_plan *plan) {
  free(plan->pieces);
  memset(plan, 0, sizeof *plan);
}

int64_t zero1__piece_until(const zero1__piece *piece, int64_t end) {
  const int64_t count = end > piece->offset ? (end - piece->offset) / piece->element_bytes : 0;
  const int64_t all = piece->end - piece->begin;
  return count < all ? count : all;
}

/* ---- chunks ---- */

zero1__chunk_walk zero1__chunk_walk_begin(const zero1__read_plan *plan) {
  return (zero1__chunk_walk){.plan = plan, .file = -1};
}

int zero1__chunk_walk_next(zero1__chunk_walk *walk) {
  const zero1__piece *const pieces = walk->plan->pieces;
  const int64_t count = walk->plan->count;
  if (walk->file >= 0 && walk->reach > (walk->chunk + 1) * ZERO1__CHUNK_BYTES) {
    walk->chunk += 1;
  } else if (walk->next < count) {
    walk->file = pieces[walk->next].file;
    walk->chunk = pieces[walk->next].offset / ZERO1__CHUNK_BYTES;
    walk->reach = 0;
  } else {
    return 0;
  }
  const int64_t end = (walk->chunk + 1) * ZERO1__CHUNK_BYTES;
  for (; walk->next < count; ++walk->next) {
    const zero1__piece *const piece = &pieces[walk->next];
    if (piece->file != walk->file || piece->offset >= end) break;
    if (zero1__piece_end(piece) > walk->reach) walk->reach = zero1__piece_end(piece);
  }
  return 1;
}
