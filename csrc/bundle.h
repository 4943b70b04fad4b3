/* Messages of blocks that are under way together: true elements alone travel, packed, and land at
 * their places.
 *
 * Gradients and parameters lie in memory of the device. Where the carrier reaches that (on the host
 * it does), what has no holes is sent from there and received there. All else is staged, in memory
 * that carrier and device both reach:
 *
 *   a send      copied from the device as it lies, then packed in place
 *   a receive   spread in place, then copied to the device as it lies
 *
 * What is fp32 in memory and bf16 on the wire (ZERO1__DTYPE_FP32_AS_BF16) is rounded as it is
 * packed and widened as it is spread. */
#ifndef ZERO1__BUNDLE_H
#define ZERO1__BUNDLE_H

#include "device_ops.h"
#include "dtype.h"
#include "layout.h"
#include "wire.h"

/** What is left to do for a receive once it has arrived. */
typedef struct zero1__landing {
  zero1__range blocks;
  char *data;   /* where it arrives */
  void *target; /* memory of the device that is to have it; NULL: it stays */
  zero1__dtype dtype;
  int32_t holes; /* 1: to be spread out */
} zero1__landing;

/** Where blocks are to be. */
typedef struct zero1__target {
  void *data;
  zero1__dtype dtype;
  int32_t on_device; /* 0: memory that the carrier reaches in any case */
} zero1__target;

typedef struct zero1__bundle {
  const zero1__port *port;
  const zero1__layout *layout;
  zero1__device *device;
  zero1__request *requests; /* [capacity] */
  zero1__landing *landings; /* [capacity] of receives only */
  int32_t capacity, count, landing_count;
  int32_t writes_device; /* 1: the carrier writes memory of the device itself */
  char *staging;         /* pinned */
  size_t staging_bytes, staged_bytes;
  int64_t *sent_bytes; /* grows by what is sent; or NULL */
} zero1__bundle;

/** A message ready to be sent. */
typedef struct zero1__parcel {
  const void *data;
  size_t bytes;
} zero1__parcel;

/** Whether the carrier reads and writes memory of the device itself. */
int zero1__bundle_reaches(const zero1__port *port, const zero1__device *device);

/** Room for `capacity` messages and `staging_bytes` of staged ones, which count with their holes.
 *  `bundle` is zeroed; port, layout and device are borrowed until it is closed. ZERO1_ERR_MEMORY,
 *  ZERO1_ERR_DEVICE; closed after a failure too. */
zero1_status zero1__bundle_open(zero1__bundle *bundle, const zero1__port *port,
                                const zero1__layout *layout, zero1__device *device,
                                int32_t capacity, size_t staging_bytes, zero1__error *error);
void zero1__bundle_close(zero1__bundle *bundle);

/** Bytes of staging that an element takes which is sent. */
size_t zero1__bundle_send_bytes(const zero1__device *device, zero1__dtype dtype);

/** The true elements of `blocks`, whose first block is at `data`, memory of the device that nothing
 * writes: in place, or packed into the staging, which must have room. */
zero1__parcel zero1__bundle_pack(zero1__bundle *bundle, zero1__range blocks, const void *data,
                                 zero1__dtype dtype);

/** Rounds fp32 `blocks` to bf16 as a peer gets them, each at its place in `to`, a receive buffer.
 * On a device the staging has room for them for the time of the call. */
void zero1__bundle_round(zero1__bundle *bundle, zero1__range blocks, const void *data, void *to);

/** Posts; parcels without bytes are not sent. */
zero1_status zero1__bundle_send(zero1__bundle *bundle, int32_t tag, zero1__parcel parcel,
                                int32_t peer, zero1__error *error);

/** Posts the receive of what the peer packed of the same blocks; the target has room for them all,
 *  and so has the staging where it is on the device. */
zero1_status zero1__bundle_recv(zero1__bundle *bundle, int32_t tag, zero1__range blocks,
                                zero1__target target, int32_t peer, zero1__error *error);

/** Blocks of another form, `block_bytes` each: they travel whole, but those of padding alone. In
 *  memory of the host. */
typedef struct zero1__whole {
  void *data;
  size_t block_bytes;
} zero1__whole;

zero1__parcel zero1__bundle_whole(const zero1__bundle *bundle, zero1__range blocks,
                                  const void *data, size_t block_bytes);
zero1_status zero1__bundle_recv_whole(zero1__bundle *bundle, int32_t tag, zero1__range blocks,
                                      zero1__whole target, int32_t peer, zero1__error *error);

/** Waits for all, and brings what arrived to its places, where kernels see it. The bundle is empty
 *  after it. */
zero1_status zero1__bundle_wait(zero1__bundle *bundle, const char *what, zero1__error *error);

/** Gives up what is under way; 0: its memory must never be freed. */
int zero1__bundle_cancel(zero1__bundle *bundle);

#endif
