#include "bootstrap.h"

#include <string.h>

static zero1_status all_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                               zero1__error *error) {
  zero1__bootstrap *bootstrap = (zero1__bootstrap *)lane->comm;
  const int32_t result = bootstrap->allgather(bootstrap->context, in, out, bytes);
  if (result)
    return zero1__fail(error, ZERO1_ERR_COMM, "the caller's all-gather of %zu bytes returned %d",
                       bytes, result);
  /* Ranks that are not who they say, or a gather of nothing, would be hard to find later. */
  const int32_t rank = lane->comm->rank;
  const char *own = (const char *)out + (size_t)rank * bytes;
  if (rank >= 0 && rank < lane->comm->world_size && bytes && memcmp(own, in, bytes))
    return zero1__fail(error, ZERO1_ERR_COMM,
                       "the caller's all-gather did not put the bytes of rank %d at their place",
                       rank);
  return ZERO1_OK;
}

static const zero1__comm_ops bootstrap_ops = {.name = "bootstrap", .lane_all_gather = all_gather};

zero1_status zero1__bootstrap_begin(zero1__bootstrap *bootstrap, int32_t rank, int32_t world_size,
                                    zero1_allgather_fn allgather, void *context,
                                    zero1__error *error) {
  memset(bootstrap, 0, sizeof *bootstrap);
  if (world_size < 1)
    return zero1__fail(error, ZERO1_ERR_INVALID, "world_size is %d, less than 1", world_size);
  if (!allgather) return zero1__fail(error, ZERO1_ERR_INVALID, "allgather is NULL");
  bootstrap->comm.ops = &bootstrap_ops;
  bootstrap->comm.rank = rank;
  bootstrap->comm.world_size = world_size;
  bootstrap->allgather = allgather;
  bootstrap->context = context;
  if ((size_t)world_size > sizeof bootstrap->scratch / sizeof *bootstrap->scratch) {
    const zero1_status status = zero1__lane_begin(&bootstrap->lane, &bootstrap->comm, 0, error);
    if (status) return status;
  } else {
    bootstrap->lane.comm = &bootstrap->comm;
    bootstrap->lane.scratch = bootstrap->scratch;
  }
  bootstrap->takes_part = 1;
  if (rank < 0 || rank >= world_size)
    return zero1__fail(error, ZERO1_ERR_INVALID, "rank is %d, not in [0, %d)", rank, world_size);
  return ZERO1_OK;
}

void zero1__bootstrap_end(zero1__bootstrap *bootstrap) {
  if (bootstrap->lane.scratch != bootstrap->scratch) zero1__lane_end(&bootstrap->lane);
}
