#include <stdlib.h>
#include <string.h>

#include "manifest.h"

/* Files grow to the next power of 2 whenever their number is one. */
static zero1_status grow_files(zero1__index *index, zero1__error *error) {
  const int64_t count = index->file_count;
  if (count & (count - 1)) return ZERO1_OK;
  const size_t room = count ? 2 * (size_t)count : 1;
  zero1__saved_file *const files = realloc(index->files, room * sizeof *files);
  if (!files)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the names of %zu files", room);
  index->files = files;
  return ZERO1_OK;
}

zero1_status zero1__index_add_file(zero1__index *index, const char *name, int32_t rank,
                                   int64_t bytes, zero1__error *error) {
  const zero1_status status = grow_files(index, error);
  if (status) return status;
  zero1__saved_file file = {.rank = rank, .bytes = bytes};
  file.name = malloc(strlen(name) + 1);
  file.xxh3 = calloc((size_t)zero1__chunk_count(bytes) + 1, sizeof *file.xxh3);
  if (!file.name || !file.xxh3) {
    free(file.name);
    free(file.xxh3);
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for the checksums of %lld bytes",
                       (long long)bytes);
  }
  strcpy(file.name, name);
  index->files[index->file_count] = file;
  index->file_count += 1;
  return ZERO1_OK;
}

zero1_status zero1__index_add_range(zero1__index *index, const zero1__saved_range *range,
                                    zero1__error *error) {
  if (index->range_count == index->range_room) {
    const int64_t room = index->range_room ? 2 * index->range_room : 16;
    zero1__saved_range *const ranges = realloc(index->ranges, (size_t)room * sizeof *ranges);
    if (!ranges)
      return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for an index of %lld ranges",
                         (long long)room);
    index->ranges = ranges;
    index->range_room = room;
  }
  index->ranges[index->range_count] = *range;
  index->range_count += 1;
  return ZERO1_OK;
}

void zero1__index_end(zero1__index *index) {
  for (int64_t i = 0; i < index->file_count; ++i) {
    free(index->files[i].name);
    free(index->files[i].xxh3);
  }
  free(index->files);
  free(index->ranges);
  memset(index, 0, sizeof *index);
}

static int by_state(const void *left, const void *right, void *context) {
  const zero1__index *const index = context;
  const int64_t i = *(const int64_t *)left, j = *(const int64_t *)right;
  const zero1__saved_range *const a = &index->ranges[i], *const b = &index->ranges[j];
  if (a->param != b->param) return a->param < b->param ? -1 : 1;
  if (a->state != b->state) return a->state < b->state ? -1 : 1;
  if (a->state == ZERO1_STATE_RESIDUAL) {
    const int32_t m = index->files[a->file].rank, n = index->files[b->file].rank;
    if (m != n) return m < n ? -1 : 1;
  }
  if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
  return i < j ? -1 : i > j;
}

static int by_place(const void *left, const void *right, void *context) {
  const zero1__index *const index = context;
  const int64_t i = *(const int64_t *)left, j = *(const int64_t *)right;
  const zero1__saved_range *const a = &index->ranges[i], *const b = &index->ranges[j];
  if (a->file != b->file) return a->file < b->file ? -1 : 1;
  if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
  return i < j ? -1 : i > j;
}

static int64_t *sorted(const zero1__index *index,
                       int (*compare)(const void *, const void *, void *), zero1__error *error) {
  const size_t count = (size_t)index->range_count;
  int64_t *const order = malloc((count + 1) * sizeof *order);
  int in_order = 1; /* as they often are */
  if (!order) {
    zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to sort %zu ranges", count);
    return NULL;
  }
  for (size_t i = 0; i < count; ++i) {
    order[i] = (int64_t)i;
    if (i > 0 && in_order) in_order = compare(&order[i - 1], &order[i], (void *)index) < 0;
  }
  if (!in_order) qsort_r(order, count, sizeof *order, compare, (void *)index);
  return order;
}

int64_t *zero1__index_by_state(const zero1__index *index, zero1__error *error) {
  return sorted(index, by_state, error);
}

int64_t *zero1__index_by_place(const zero1__index *index, zero1__error *error) {
  return sorted(index, by_place, error);
}

int64_t zero1__index_file_begin(const zero1__index *index, int64_t file) {
  int64_t low = 0, high = index->range_count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (index->ranges[middle].file < file)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}
