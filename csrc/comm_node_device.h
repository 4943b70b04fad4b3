/* The node comm in memory of a device: what comm_node.c's table has for devices other than the
 * host, with the vtable's own words. */
#ifndef ZERO1__COMM_NODE_DEVICE_H
#define ZERO1__COMM_NODE_DEVICE_H

#include "comm_node.h"

/** ZERO1_ERR_UNSUPPORTED, on all ranks: the device of some rank cannot reach another one's memory;
 *  the text names the two, and nothing is held. */
zero1_status zero1__node_device_channel_open(zero1_comm *comm, const zero1__channel_config *config,
                                             zero1__channel **channel, zero1__error *error);

/** As above. */
zero1_status zero1__node_device_lane_open(zero1_comm *comm, zero1__device *device,
                                          zero1__step *step, size_t bytes, double timeout_seconds,
                                          zero1__device_lane **lane, zero1__error *error);
void zero1__node_device_lane_close(zero1__device_lane *lane);
zero1_status zero1__node_device_lane_gather(zero1__device_lane *lane, zero1__stream *stream,
                                            zero1__error *error);

#endif
