/* Ranks as threads of one process: the node's code over plain memory or, where the options ask for
 * several nodes, the code between nodes over a wire of memory. */
#include <stdlib.h>
#include <string.h>

#include "comm_node.h"
#include "wire_comm.h"
#include "wire_threads.h"

static zero1_status over_wires(int32_t world_size, const zero1_comm_options *options,
                               zero1_comm **comms, zero1__error *error) {
  const int32_t asked = options->ranks_per_node;
  const int32_t node_size = world_size % asked ? 1 : asked;
  zero1__hub *hub;
  zero1_status status = zero1__hub_create(world_size, &hub, error);
  if (status) return status;
  for (int32_t rank = 0; rank < world_size && !status; ++rank) {
    zero1__wire_comm_parts parts = {
        .shape = {.threads = 1, .rank_begin = rank / node_size * node_size, .size = node_size}};
    status = zero1__wire_threads_create(hub, rank, &parts.wire, error);
    if (!status) status = zero1__wire_comm_create(&parts, options, &comms[rank], error);
  }
  for (int32_t rank = 0; rank < world_size && status; ++rank) zero1_comm_destroy(&comms[rank]);
  zero1__hub_release(hub);
  return status;
}

zero1_status zero1_comm_create_threads(int32_t world_size, const zero1_comm_options *options,
                                       zero1_comm **comms) {
  zero1__error error;
  zero1_comm_options taken;
  if (!comms) return ZERO1_ERR_INVALID;
  zero1__error_clear(&error);
  for (int32_t i = 0; i < world_size; ++i) comms[i] = NULL;
  zero1_status status = zero1__comm_options_take(options, &taken, &error);
  if (!status && world_size < 1)
    status = zero1__fail(&error, ZERO1_ERR_INVALID, "world_size is %d, less than 1", world_size);
  if (!status) {
    const int one_node = !taken.ranks_per_node || taken.ranks_per_node >= world_size;
    status = one_node
                 ? zero1__comm_node_create_threads(world_size, taken.timeout_seconds, comms, &error)
                 : over_wires(world_size, &taken, comms, &error);
  }
  return zero1__create_done(options, status, &error);
}
