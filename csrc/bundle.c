#include "bundle.h"

#include <stdlib.h>
#include <string.h>

zero1_status zero1__bundle_open(zero1__bundle *bundle, const zero1__port *port,
                                const zero1__layout *layout, int32_t capacity, size_t staging_bytes,
                                zero1__error *error) {
  bundle->port = port;
  bundle->layout = layout;
  bundle->requests = calloc((size_t)capacity + 1, sizeof *bundle->requests);
  bundle->landings = calloc((size_t)capacity + 1, sizeof *bundle->landings);
  bundle->staging = malloc(staging_bytes + 1);
  bundle->capacity = capacity;
  bundle->staging_bytes = staging_bytes;
  if (!bundle->requests || !bundle->landings || !bundle->staging)
    return zero1__fail(error, ZERO1_ERR_MEMORY,
                       "no memory for %d messages and %zu bytes of staging", capacity,
                       staging_bytes);
  return ZERO1_OK;
}

void zero1__bundle_close(zero1__bundle *bundle) {
  free(bundle->requests);
  free(bundle->landings);
  free(bundle->staging);
  memset(bundle, 0, sizeof *bundle);
}

/* Blocks 0..2 of a parameter with 600 elements, then block 3 of one with 256: a hole of 168
 * elements lies before the second segment, so the two are not one run. */
static int has_holes(const zero1__layout *layout, zero1__range blocks, int64_t *numel) {
  int holes = 0;
  *numel = 0;
  zero1__walk walk = zero1__walk_begin(layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    if ((segment.block - blocks.begin) * ZERO1__BLOCK != *numel) holes = 1;
    *numel += segment.numel;
  }
  return holes;
}

zero1__parcel zero1__bundle_pack(zero1__bundle *bundle, zero1__range blocks, const void *data,
                                 size_t each) {
  int64_t numel;
  if (!has_holes(bundle->layout, blocks, &numel))
    return (zero1__parcel){data, (size_t)numel * each};
  char *begin = bundle->staging + bundle->staged_bytes, *next = begin;
  zero1__walk walk = zero1__walk_begin(bundle->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    const size_t offset = (size_t)(segment.block - blocks.begin) * ZERO1__BLOCK * each;
    memcpy(next, (const char *)data + offset, (size_t)segment.numel * each);
    next += (size_t)segment.numel * each;
  }
  bundle->staged_bytes += (size_t)(next - begin);
  return (zero1__parcel){begin, (size_t)(next - begin)};
}

zero1_status zero1__bundle_send(zero1__bundle *bundle, int32_t tag, zero1__parcel parcel,
                                int32_t peer, zero1__error *error) {
  if (!parcel.bytes) return ZERO1_OK;
  return zero1__port_send(bundle->port, parcel.data, parcel.bytes, peer, tag,
                          &bundle->requests[bundle->count++], error);
}

zero1_status zero1__bundle_recv(zero1__bundle *bundle, int32_t tag, zero1__range blocks, void *data,
                                size_t each, int32_t peer, zero1__error *error) {
  int64_t numel;
  const int holes = has_holes(bundle->layout, blocks, &numel);
  if (!numel) return ZERO1_OK;
  if (holes) bundle->landings[bundle->landing_count++] = (zero1__landing){blocks, data, each};
  return zero1__port_recv(bundle->port, data, (size_t)numel * each, peer, tag,
                          &bundle->requests[bundle->count++], error);
}

/* From the last segment to the first: places only lie further right than what is packed. */
static void spread(const zero1__layout *layout, const zero1__landing *landing) {
  const zero1__range blocks = landing->blocks;
  const int64_t first = zero1__layout_slot_at(layout, blocks.begin);
  int64_t packed = zero1__layout_numel(layout, blocks);
  int64_t slot = zero1__layout_slot_at(layout, blocks.end - 1);
  if (slot == layout->slot_count) --slot; /* the range ends in padding */
  for (; slot >= first; --slot) {
    const zero1__slot *at = &layout->slots[slot];
    const int64_t begin = at->block_begin > blocks.begin ? at->block_begin : blocks.begin;
    const int64_t end = at[1].block_begin < blocks.end ? at[1].block_begin : blocks.end;
    int64_t numel = at->numel - (begin - at->block_begin) * ZERO1__BLOCK;
    if (numel > (end - begin) * ZERO1__BLOCK) numel = (end - begin) * ZERO1__BLOCK;
    packed -= numel;
    memmove(landing->data + (size_t)(begin - blocks.begin) * ZERO1__BLOCK * landing->each,
            landing->data + (size_t)packed * landing->each, (size_t)numel * landing->each);
  }
}

zero1_status zero1__bundle_wait(zero1__bundle *bundle, const char *what, zero1__error *error) {
  const zero1_status status =
      zero1__port_wait(bundle->port, bundle->requests, bundle->count, what, error);
  if (status) return status;
  for (int32_t i = 0; i < bundle->landing_count; ++i) spread(bundle->layout, &bundle->landings[i]);
  bundle->count = bundle->landing_count = 0;
  bundle->staged_bytes = 0;
  return ZERO1_OK;
}

int zero1__bundle_cancel(zero1__bundle *bundle) {
  return !bundle->count || zero1__port_cancel(bundle->port, bundle->requests, bundle->count);
}
