/* Communicators as the caller sees them, and agreement over their lanes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm_ops.h"
#include "struct_size.h"

/* ---- options ---- */

static void default_options(zero1_comm_options *options) {
  memset(options, 0, sizeof *options);
  options->size = sizeof *options;
  options->timeout_seconds = 600;
}

zero1_status zero1_comm_options_init(zero1_comm_options *options, size_t options_bytes) {
  zero1_comm_options defaults;
  default_options(&defaults);
  return zero1__struct_put(options, options_bytes, &defaults, sizeof defaults);
}

zero1_status zero1__comm_options_take(const zero1_comm_options *options, zero1_comm_options *taken,
                                      zero1__error *error) {
  default_options(taken);
  zero1_status status = ZERO1_OK;
  if (options)
    status = zero1__struct_get(options, options->size, taken, sizeof *taken, "zero1_comm_options",
                               error);
  if (status) return status;
  if (taken->ranks_per_node < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.ranks_per_node is %d, less than 0",
                       taken->ranks_per_node);
  if (taken->workspace_bytes < 0)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.workspace_bytes is %lld, less than 0",
                       (long long)taken->workspace_bytes);
  if (!taken->workspace_bytes) taken->workspace_bytes = (int64_t)16 << 20;
  if (!(taken->timeout_seconds > 0) || !isfinite(taken->timeout_seconds))
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.timeout_seconds is %g, not above 0",
                       taken->timeout_seconds);
  if (taken->ordered < 0 || taken->ordered > 1)
    return zero1__fail(error, ZERO1_ERR_INVALID, "options.ordered is %d, neither 0 nor 1",
                       taken->ordered);
  return ZERO1_OK;
}

enum { ALIKE_COUNT = 3 };

zero1_status zero1__comm_options_alike(zero1__lane *lane, const zero1_comm_options *options,
                                       zero1__error *error) {
  static const char *const names[ALIKE_COUNT] = {"ranks_per_node", "workspace_bytes", "ordered"};
  const int64_t mine[ALIKE_COUNT] = {options->ranks_per_node, options->workspace_bytes,
                                     options->ordered};
  int64_t(*all)[ALIKE_COUNT] = (int64_t(*)[ALIKE_COUNT])lane->scratch; /* an error is longer */
  const zero1_status status = zero1__lane_gather(lane, mine, all, sizeof mine, error);
  if (status) return status;
  for (int32_t rank = 1; rank < lane->comm->world_size; ++rank)
    for (int i = 0; i < ALIKE_COUNT; ++i)
      if (all[rank][i] != all[0][i])
        return zero1__fail(error, ZERO1_ERR_MISMATCH,
                           "options.%s is %lld on rank 0 and %lld on rank %d", names[i],
                           (long long)all[0][i], (long long)all[rank][i], rank);
  return ZERO1_OK;
}

zero1_status zero1__create_done(const zero1_comm_options *options, zero1_status status,
                                const zero1__error *error) {
  if (options && options->size == sizeof *options && options->error_text && options->error_bytes)
    snprintf(options->error_text, options->error_bytes, "%s", status ? error->text : "");
  return status;
}

/* ---- queries ---- */

int32_t zero1_comm_rank(const zero1_comm *comm) {
  return comm ? comm->rank : -1;
}
int32_t zero1_comm_world_size(const zero1_comm *comm) {
  return comm ? comm->world_size : 0;
}
const char *zero1_comm_backend(const zero1_comm *comm) {
  return comm ? comm->ops->name : "";
}
int32_t zero1_comm_ranks_per_node(const zero1_comm *comm) {
  return comm ? comm->ranks_per_node : 0;
}
const char *zero1_comm_note(const zero1_comm *comm) {
  return comm ? comm->note : "";
}
const char *zero1_comm_last_error(const zero1_comm *comm) {
  return comm ? comm->error.text : "";
}

zero1_status zero1_comm_barrier(zero1_comm *comm) {
  if (!comm) return ZERO1_ERR_INVALID;
  zero1__error_clear(&comm->error);
  comm->lane->call = "zero1_comm_barrier";
  return zero1__lane_agree(comm->lane, ZERO1_OK, &comm->error);
}

void zero1_comm_destroy(zero1_comm **comm) {
  if (!comm || !*comm) return;
  (*comm)->ops->destroy(*comm);
  *comm = NULL;
}

/* ---- agreement ---- */

/* What a gather's message says before its payload, so that ranks that have made different calls
 * find out instead of reading one thing as another. */
typedef struct label {
  char call[24];
  uint64_t bytes;
} label;

enum { MESSAGE_BYTES = 1024, PAYLOAD_BYTES = MESSAGE_BYTES - sizeof(label) };

zero1_status zero1__lane_begin(zero1__lane *lane, zero1_comm *comm, double timeout_seconds,
                               zero1__error *error) {
  const size_t world = (size_t)comm->world_size;
  lane->comm = comm;
  lane->timeout_seconds = timeout_seconds;
  lane->call = "create";
  lane->scratch = calloc(world, sizeof *lane->scratch);
  lane->messages = calloc(world + 1, MESSAGE_BYTES);
  if (!lane->scratch || !lane->messages)
    return zero1__fail(error, ZERO1_ERR_MEMORY, "no memory to agree over %zu ranks", world);
  return ZERO1_OK;
}

void zero1__lane_end(zero1__lane *lane) {
  free(lane->scratch);
  free(lane->messages);
}

static size_t all_bytes(const zero1__device_lane *lane) {
  return lane->bytes * (size_t)lane->comm->world_size;
}

zero1_status zero1__device_lane_begin(zero1__device_lane *lane, zero1__error *error) {
  zero1__device *device = lane->device;
  const zero1_status status = device->ops->memory_alloc(device, lane->bytes, &lane->mine, error);
  if (status) return status;
  lane->all = lane->mine;
  return lane->comm->world_size == 1
             ? ZERO1_OK
             : device->ops->memory_alloc(device, all_bytes(lane), &lane->all, error);
}

void zero1__device_lane_end(zero1__device_lane *lane) {
  zero1__device *device = lane->device;
  if (lane->all != lane->mine) device->ops->memory_free(device, lane->all, all_bytes(lane));
  device->ops->memory_free(device, lane->mine, lane->bytes);
}

uint64_t zero1__device_lane_bytes(const zero1__device_lane *lane) {
  return lane->bytes + (lane->all == lane->mine ? 0 : all_bytes(lane)) + lane->other_bytes;
}

/* Whether every rank has gathered for the same call, and as many bytes. */
static zero1_status check_labels(const zero1__lane *lane, const char *all, zero1__error *error) {
  label first, other;
  memcpy(&first, all, sizeof first);
  for (int32_t rank = 1; rank < lane->comm->world_size; ++rank) {
    memcpy(&other, all + (size_t)rank * MESSAGE_BYTES, sizeof other);
    if (strncmp(first.call, other.call, sizeof first.call) || first.bytes != other.bytes)
      return zero1__fail(error, ZERO1_ERR_MISMATCH,
                         "rank 0 is in %.23s (%llu bytes) and rank %d in %.23s (%llu bytes)",
                         first.call, (unsigned long long)first.bytes, rank, other.call,
                         (unsigned long long)other.bytes);
  }
  return ZERO1_OK;
}

/* Every message has the same length, whatever its payload: what differs must arrive to be told. */
static zero1_status gather_labelled(zero1__lane *lane, const char *in, char *out, size_t bytes,
                                    zero1__error *error) {
  char *mine = lane->messages, *all = lane->messages + MESSAGE_BYTES;
  label own = {.bytes = bytes};
  snprintf(own.call, sizeof own.call, "%s", lane->call);
  for (size_t begin = 0; begin < bytes; begin += PAYLOAD_BYTES) {
    const size_t piece = bytes - begin < PAYLOAD_BYTES ? bytes - begin : PAYLOAD_BYTES;
    memcpy(mine, &own, sizeof own);
    memcpy(mine + sizeof own, in + begin, piece);
    zero1_status status = lane->comm->ops->lane_all_gather(lane, mine, all, MESSAGE_BYTES, error);
    if (!status) status = check_labels(lane, all, error);
    if (status) return status;
    for (int32_t rank = 0; rank < lane->comm->world_size; ++rank)
      memcpy(out + (size_t)rank * bytes + begin, all + (size_t)rank * MESSAGE_BYTES + sizeof own,
             piece);
  }
  return ZERO1_OK;
}

zero1_status zero1__lane_gather(zero1__lane *lane, const void *in, void *out, size_t bytes,
                                zero1__error *error) {
  zero1_status status = lane->failure.status;
  if (!status)
    status = lane->messages
                 ? gather_labelled(lane, in, out, bytes, &lane->failure)
                 : lane->comm->ops->lane_all_gather(lane, in, out, bytes, &lane->failure);
  if (!status) return ZERO1_OK;
  zero1__lane_fail(lane, &lane->failure);
  return zero1__fail(error, lane->failure.status, "%s", lane->failure.text);
}

void zero1__lane_fail(zero1__lane *lane, const zero1__error *why) {
  if (!lane->failure.status) lane->failure = *why;
  if (lane->comm->ops->lane_abort) lane->comm->ops->lane_abort(lane, why);
}

zero1_status zero1__lane_agree(zero1__lane *lane, zero1_status status, zero1__error *error) {
  const zero1_comm *comm = lane->comm;
  zero1__error mine;
  memset(&mine, 0, sizeof mine);
  if (status) {
    mine.status = status;
    snprintf(mine.text, sizeof mine.text, "%s", error->text);
  }
  /* Statuses first: the texts travel only where one of them is a failure. */
  int32_t *statuses = (int32_t *)lane->scratch;
  zero1_status result = zero1__lane_gather(lane, &mine.status, statuses, sizeof mine.status, error);
  if (result) return result;
  int32_t first = 0;
  while (first < comm->world_size && !statuses[first]) ++first;
  if (first == comm->world_size) return ZERO1_OK;
  result = statuses[first];
  zero1__error *texts = lane->scratch;
  const zero1_status told = zero1__lane_gather(lane, &mine, texts, sizeof mine, error);
  if (first == comm->rank) return result;
  zero1__error_clear(error); /* a failure of a later rank gives way: all ranks report the same */
  return zero1__fail(error, result, "rank %d: %.*s", first, ZERO1__ERROR_TEXT - 40,
                     told ? zero1_status_string(result) : texts[first].text);
}
