/* Messages of blocks that are under way together: true elements alone travel, packed, and land at
 * their places. */
#ifndef ZERO1__BUNDLE_H
#define ZERO1__BUNDLE_H

#include "layout.h"
#include "wire.h"

/** What a receive has to spread out once it has arrived. */
typedef struct zero1__landing {
  zero1__range blocks;
  char *data;
  size_t each;
} zero1__landing;

typedef struct zero1__bundle {
  const zero1__port *port;
  const zero1__layout *layout;
  zero1__request *requests; /* [capacity] */
  zero1__landing *landings; /* [capacity] of receives only */
  int32_t capacity, count, landing_count;
  char *staging; /* of what is sent packed */
  size_t staging_bytes, staged_bytes;
} zero1__bundle;

/** A message ready to be sent. */
typedef struct zero1__parcel {
  const void *data;
  size_t bytes;
} zero1__parcel;

/** Room for `capacity` messages and `staging_bytes` of packed ones. `bundle` is zeroed; port and
 *  layout are borrowed until it is closed. ZERO1_ERR_MEMORY; closed after a failure too. */
zero1_status zero1__bundle_open(zero1__bundle *bundle, const zero1__port *port,
                                const zero1__layout *layout, int32_t capacity, size_t staging_bytes,
                                zero1__error *error);
void zero1__bundle_close(zero1__bundle *bundle);

/** The true elements of `blocks`, `each` bytes apiece, whose first block is at `data`: in place
 *  where they have no holes, else packed into the staging, which must have room. */
zero1__parcel zero1__bundle_pack(zero1__bundle *bundle, zero1__range blocks, const void *data,
                                 size_t each);

/** Posts; parcels without bytes are not sent. */
zero1_status zero1__bundle_send(zero1__bundle *bundle, int32_t tag, zero1__parcel parcel,
                                int32_t peer, zero1__error *error);

/** Posts the receive of what the peer packed of the same blocks; `data` has room for them all. */
zero1_status zero1__bundle_recv(zero1__bundle *bundle, int32_t tag, zero1__range blocks, void *data,
                                size_t each, int32_t peer, zero1__error *error);

/** Waits for all, and spreads out what arrived. The bundle is empty after it. */
zero1_status zero1__bundle_wait(zero1__bundle *bundle, const char *what, zero1__error *error);

/** Gives up what is under way; 0: its memory must never be freed. */
int zero1__bundle_cancel(zero1__bundle *bundle);

#endif
