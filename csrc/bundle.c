#include "bundle.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "rules.h"

int zero1__bundle_reaches(const zero1__port *port, const zero1__device *device) {
  return device->is_host || port->wire->device_memory;
}

zero1_status zero1__bundle_open(zero1__bundle *bundle, const zero1__port *port,
                                const zero1__layout *layout, zero1__device *device,
                                int32_t capacity, size_t staging_bytes, zero1__error *error) {
  void *staging;
  bundle->port = port;
  bundle->layout = layout;
  bundle->device = device;
  bundle->requests = calloc((size_t)capacity + 1, sizeof *bundle->requests);
  bundle->landings = calloc((size_t)capacity + 1, sizeof *bundle->landings);
  bundle->capacity = capacity;
  bundle->staging_bytes = staging_bytes;
  if (!bundle->requests || !bundle->landings)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory for %d messages", capacity);
  const zero1_status status = device->ops->pinned_alloc(device, staging_bytes, &staging, error);
  bundle->staging = staging;
  return status;
}

void zero1__bundle_close(zero1__bundle *bundle) {
  free(bundle->requests);
  free(bundle->landings);
  if (bundle->staging)
    bundle->device->ops->pinned_free(bundle->device, bundle->staging, bundle->staging_bytes);
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

static size_t span_bytes(zero1__range blocks, size_t each) {
  return (size_t)(blocks.end - blocks.begin) * ZERO1__BLOCK * each;
}

/* A place in the staging until the bundle is empty. */
static char *stage(zero1__bundle *bundle, zero1__range blocks, size_t each) {
  char *const place = bundle->staging + bundle->staged_bytes;
  bundle->staged_bytes += span_bytes(blocks, each);
  assert(bundle->staged_bytes <= bundle->staging_bytes);
  return place;
}

/* bf16 of [numel] fp32 values; `to` may begin where `from` does, or before. */
static void narrow(char *to, const char *from, int64_t numel) {
  for (int64_t begin = 0; begin < numel; begin += ZERO1__BLOCK) {
    const int64_t count = numel - begin < ZERO1__BLOCK ? numel - begin : ZERO1__BLOCK;
    float fp32[ZERO1__BLOCK];
    uint16_t bf16[ZERO1__BLOCK];
    memcpy(fp32, from + (size_t)begin * sizeof *fp32, (size_t)count * sizeof *fp32);
    for (int64_t e = 0; e < count; ++e) bf16[e] = zero1__fp32_to_bf16(fp32[e]);
    memcpy(to + (size_t)begin * sizeof *bf16, bf16, (size_t)count * sizeof *bf16);
  }
}

/* The other way, from the last block to the first: `to` may begin where `from` does, or after. */
static void widen(char *to, const char *from, int64_t numel) {
  int64_t begin = (numel - 1) / ZERO1__BLOCK * ZERO1__BLOCK;
  for (int64_t end = numel; end > 0; end = begin, begin -= ZERO1__BLOCK) {
    float fp32[ZERO1__BLOCK];
    uint16_t bf16[ZERO1__BLOCK];
    memcpy(bf16, from + (size_t)begin * sizeof *bf16, (size_t)(end - begin) * sizeof *bf16);
    for (int64_t e = 0; e < end - begin; ++e) fp32[e] = zero1__bf16_to_fp32(bf16[e]);
    memcpy(to + (size_t)begin * sizeof *fp32, fp32, (size_t)(end - begin) * sizeof *fp32);
  }
}

size_t zero1__bundle_send_bytes(const zero1__device *device, zero1__dtype dtype) {
  return device->is_host ? zero1__dtype_wire_bytes(dtype) : zero1__dtype_bytes(dtype);
}

/* Of a segment: from its place to where it is packed. */
static char *pack_segment(char *next, const char *data, int64_t numel, zero1__dtype dtype) {
  const size_t bytes = (size_t)numel * zero1__dtype_wire_bytes(dtype);
  if (dtype == ZERO1__DTYPE_FP32_AS_BF16)
    narrow(next, data, numel);
  else
    memmove(next, data, bytes);
  return next + bytes;
}

zero1__parcel zero1__bundle_pack(zero1__bundle *bundle, zero1__range blocks, const void *data,
                                 zero1__dtype dtype) {
  zero1__device *device = bundle->device;
  const size_t each = zero1__dtype_bytes(dtype);
  int64_t numel;
  const int holes = has_holes(bundle->layout, blocks, &numel);
  const int changes = holes || dtype == ZERO1__DTYPE_FP32_AS_BF16;
  const size_t bytes = (size_t)numel * zero1__dtype_wire_bytes(dtype);
  if (!bytes || (!changes && zero1__bundle_reaches(bundle->port, device)))
    return (zero1__parcel){data, bytes};
  char *begin = stage(bundle, blocks, zero1__bundle_send_bytes(device, dtype)), *next = begin;
  if (!device->is_host) {
    const size_t whole = holes ? span_bytes(blocks, each) : (size_t)numel * each;
    device->ops->transfer(device, begin, data, whole);
    data = begin;
  }
  if (!changes) return (zero1__parcel){begin, bytes};
  zero1__walk walk = zero1__walk_begin(bundle->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);)
    next = pack_segment(
        next, (const char *)data + span_bytes((zero1__range){blocks.begin, segment.block}, each),
        segment.numel, dtype);
  return (zero1__parcel){begin, bytes};
}

void zero1__bundle_round(zero1__bundle *bundle, zero1__range blocks, const void *data, void *to) {
  zero1__device *device = bundle->device;
  const size_t staged_bytes = bundle->staged_bytes;
  char *place = to;
  if (!device->is_host) {
    place = stage(bundle, blocks, sizeof(float));
    device->ops->transfer(device, place, data, span_bytes(blocks, sizeof(float)));
    data = place;
  }
  zero1__walk walk = zero1__walk_begin(bundle->layout, blocks);
  for (zero1__segment segment; zero1__walk_next(&walk, &segment);) {
    const zero1__range before = {blocks.begin, segment.block};
    narrow(place + span_bytes(before, sizeof(uint16_t)),
           (const char *)data + span_bytes(before, sizeof(float)), segment.numel);
  }
  if (!device->is_host)
    device->ops->transfer(device, to, place, span_bytes(blocks, sizeof(uint16_t)));
  bundle->staged_bytes = staged_bytes;
}

zero1_status zero1__bundle_send(zero1__bundle *bundle, int32_t tag, zero1__parcel parcel,
                                int32_t peer, zero1__error *error) {
  if (!parcel.bytes) return ZERO1_OK;
  /* Of a device that has failed the copy may be half made. */
  const zero1_status usable = bundle->device->ops->check(bundle->device, error);
  if (usable) return usable;
  if (bundle->sent_bytes) *bundle->sent_bytes += (int64_t)parcel.bytes;
  return zero1__port_send(bundle->port, parcel.data, parcel.bytes, peer, tag,
                          &bundle->requests[bundle->count++], error);
}

zero1_status zero1__bundle_recv(zero1__bundle *bundle, int32_t tag, zero1__range blocks,
                                zero1__target target, int32_t peer, zero1__error *error) {
  const zero1__device *device = bundle->device;
  int64_t numel;
  const int holes = has_holes(bundle->layout, blocks, &numel);
  const int changes = holes || target.dtype == ZERO1__DTYPE_FP32_AS_BF16;
  zero1__landing landing = {
      .blocks = blocks, .data = target.data, .dtype = target.dtype, .holes = holes};
  if (!numel) return ZERO1_OK;
  if (target.on_device && !device->is_host &&
      (changes || !zero1__bundle_reaches(bundle->port, device))) {
    landing.data = stage(bundle, blocks, zero1__dtype_bytes(target.dtype));
    landing.target = target.data;
  }
  bundle->writes_device |= target.on_device && !device->is_host && !landing.target;
  if (changes || landing.target) bundle->landings[bundle->landing_count++] = landing;
  return zero1__port_recv(bundle->port, landing.data,
                          (size_t)numel * zero1__dtype_wire_bytes(target.dtype), peer, tag,
                          &bundle->requests[bundle->count++], error);
}

/* Padding is at the end of the last bucket. */
zero1__parcel zero1__bundle_whole(const zero1__bundle *bundle, zero1__range blocks,
                                  const void *data, size_t block_bytes) {
  const int64_t used = bundle->layout->used_blocks;
  const int64_t end = blocks.end < used ? blocks.end : used;
  return (zero1__parcel){data, blocks.begin < end ? (size_t)(end - blocks.begin) * block_bytes : 0};
}

zero1_status zero1__bundle_recv_whole(zero1__bundle *bundle, int32_t tag, zero1__range blocks,
                                      zero1__whole target, int32_t peer, zero1__error *error) {
  const size_t bytes = zero1__bundle_whole(bundle, blocks, target.data, target.block_bytes).bytes;
  if (!bytes) return ZERO1_OK;
  return zero1__port_recv(bundle->port, target.data, bytes, peer, tag,
                          &bundle->requests[bundle->count++], error);
}

/* Of a segment: from where it is packed to its place. */
static void spread_segment(char *place, const char *packed, int64_t numel, zero1__dtype dtype) {
  if (dtype == ZERO1__DTYPE_FP32_AS_BF16)
    widen(place, packed, numel);
  else
    memmove(place, packed, (size_t)numel * zero1__dtype_bytes(dtype));
}

/* From the last segment to the first: places only lie further right than what is packed. */
static void spread(const zero1__layout *layout, const zero1__landing *landing) {
  const zero1__range blocks = landing->blocks;
  const size_t wire_each = zero1__dtype_wire_bytes(landing->dtype);
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
    spread_segment(landing->data + span_bytes((zero1__range){blocks.begin, begin},
                                              zero1__dtype_bytes(landing->dtype)),
                   landing->data + (size_t)packed * wire_each, numel, landing->dtype);
  }
}

static void land(zero1__bundle *bundle, const zero1__landing *landing) {
  zero1__device *device = bundle->device;
  if (landing->holes || landing->dtype == ZERO1__DTYPE_FP32_AS_BF16)
    spread(bundle->layout, landing);
  if (landing->target)
    device->ops->transfer(device, landing->target, landing->data,
                          span_bytes(landing->blocks, zero1__dtype_bytes(landing->dtype)));
}

zero1_status zero1__bundle_wait(zero1__bundle *bundle, const char *what, zero1__error *error) {
  const zero1_status status =
      zero1__port_wait(bundle->port, bundle->requests, bundle->count, what, error);
  if (status) return status;
  for (int32_t i = 0; i < bundle->landing_count; ++i) land(bundle, &bundle->landings[i]);
  if (bundle->writes_device) bundle->device->ops->flush_writes(bundle->device);
  bundle->count = bundle->landing_count = bundle->writes_device = 0;
  bundle->staged_bytes = 0;
  return ZERO1_OK;
}

int zero1__bundle_cancel(zero1__bundle *bundle) {
  return !bundle->count || zero1__port_cancel(bundle->port, bundle->requests, bundle->count);
}
