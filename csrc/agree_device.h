/* Agreement where the device decides by itself: records travel between the devices in stream order,
 * kernels decide (step_jobs.h), and the host is told. What the host has to give is uploaded when it
 * has changed, in stream order as well, and apart from the step, so that a captured step can be
 * replayed with other values.
 *
 * The count is known on the device alone, for a step may be skipped. So the host uploads the biases
 * of all counts that the next step can have: from the count of the last tell that it has seen on,
 * one more for every step enqueued since. */
#ifndef ZERO1__AGREE_DEVICE_H
#define ZERO1__AGREE_DEVICE_H

#include "comm_ops.h"
#include "config.h"
#include "outcome.h"
#include "readiness.h"

typedef struct zero1__schedule zero1__schedule;
typedef struct zero1__device_agreement zero1__device_agreement;

/** lane: of at least zero1__device_record_bytes; wider: over agree_comm, or NULL. Borrowed.
 *  ZERO1_ERR_MEMORY. NULL is fine for end. */
zero1_status zero1__device_agreement_begin(zero1__schedule *schedule, zero1__device_lane *lane,
                                           zero1__device_lane *wider,
                                           zero1__device_agreement **agreement,
                                           zero1__error *error);
void zero1__device_agreement_end(zero1__schedule *schedule);

/** Bytes allocated for it, lanes left out; 0 where the host decides. */
uint64_t zero1__device_agreement_bytes(const zero1__schedule *schedule);

/** Bytes that a rank sends in a device lane: its record, and a bit for every slot that is absent.
 */
size_t zero1__device_record_bytes(int64_t slot_count);

/** Enqueues what zero1__host_agree does on the host, in schedule->comm. */
void zero1__device_agree(zero1__schedule *schedule, int32_t came_to, int32_t one_pass);

/** Enqueues the tell that ends what was enqueued. */
void zero1__device_tell(zero1__schedule *schedule);

/** Updates so far, of a checkpoint; nothing is under way. */
void zero1__device_set_count(zero1__schedule *schedule, int64_t count);

/** Uploads what a captured step needs before it is replayed, and counts its tells. */
void zero1__device_replay(zero1__schedule *schedule, zero1__stream *stream);

/** A captured step ends: how many tells a replay of it makes; 0: none has been captured. */
void zero1__device_captured(zero1__schedule *schedule);
int64_t zero1__device_capture_tells(const zero1__schedule *schedule);

/** Waits until the host has been told of all that was enqueued; a failure of the device, or nothing
 *  within the timeout, fails the channel. */
void zero1__device_finish(zero1__schedule *schedule);

/** The caller knows already what is wrong with the step that was enqueued last. */
void zero1__device_known(zero1__schedule *schedule);

/** Takes over what the host has been told by now; does not wait. */
void zero1__device_look(zero1__schedule *schedule);

#endif
