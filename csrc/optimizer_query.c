/* What an optimizer has: tensors, hyper-parameters, what this rank owns, memory. */
#include <string.h>

#include "optimizer.h"
#include "struct_size.h"

/* ---- tensors ---- */

int64_t zero1_optimizer_param_count(const zero1_optimizer *optimizer) {
  return optimizer ? optimizer->registry.count : 0;
}

zero1_status zero1_optimizer_find(zero1_optimizer *optimizer, const char *name, int64_t *index) {
  const zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  if (index) *index = -1;
  if (!name || !index)
    return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "%s is NULL", name ? "index" : "name");
  *index = zero1__registry_find(&optimizer->registry, name);
  if (*index >= 0) return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "there is no parameter '%.100s'", name);
}

/* Checks what the two calls below share, and gives the parameter's first block. */
static zero1_status locate(zero1_optimizer *optimizer, int64_t index, void **tensor,
                           int64_t *block) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  if (!tensor)
    return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "the pointer to fill is NULL");
  *tensor = NULL;
  status = zero1__optimizer_index(optimizer, index);
  if (!status) *block = optimizer->layout.place_begin[index];
  return status;
}

zero1_status zero1_optimizer_param(zero1_optimizer *optimizer, int64_t index, void **param) {
  int64_t block = 0;
  const zero1_status status = locate(optimizer, index, param, &block);
  if (!status) *param = zero1__buffers_param(&optimizer->buffers, block);
  return status;
}

zero1_status zero1_optimizer_grad(zero1_optimizer *optimizer, int64_t index, void **grad) {
  int64_t block = 0;
  const zero1_status status = locate(optimizer, index, grad, &block);
  if (!status && !(optimizer->registry.flags[index] & ZERO1_PARAM_FROZEN))
    *grad = zero1__buffers_grad(&optimizer->buffers, block);
  return status;
}

zero1_status zero1_optimizer_residual(zero1_optimizer *optimizer, int64_t index, float **residual) {
  int64_t block = 0;
  void *found = NULL;
  if (residual) *residual = NULL;
  zero1_status status = locate(optimizer, index, residual ? &found : NULL, &block);
  if (status) return status;
  const zero1__buffers *buffers = &optimizer->buffers;
  if (!buffers->residual || (optimizer->registry.flags[index] & ZERO1_PARAM_FROZEN))
    return ZERO1_OK;
  zero1__schedule_finish(&optimizer->schedule);
  status = zero1__optimizer_outcome(optimizer);
  if (!status) *residual = buffers->residual + block * ZERO1__BLOCK;
  return status;
}

/* ---- hyper-parameters ---- */

static zero1_status check_group_index(zero1_optimizer *optimizer, int64_t group) {
  const int64_t count = optimizer->settings.config.group_count;
  if (group >= 0 && group < count) return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "there is no group %lld of %lld",
                     (long long)group, (long long)count);
}

static zero1_status replace_group(zero1_optimizer *optimizer, int64_t group,
                                  const zero1_group *values) {
  const zero1_status status = zero1__group_check(values, group, &optimizer->error);
  if (!status) optimizer->settings.groups[group] = *values;
  return status;
}

zero1_status zero1_optimizer_set_lr(zero1_optimizer *optimizer, int64_t group, double lr) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = check_group_index(optimizer, group);
  if (status) return status;
  zero1_group values = optimizer->settings.groups[group];
  values.lr = lr;
  return replace_group(optimizer, group, &values);
}

zero1_status zero1_optimizer_set_group(zero1_optimizer *optimizer, int64_t group,
                                       const zero1_group *values, size_t group_bytes) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = check_group_index(optimizer, group);
  if (status) return status;
  if (!values) return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "values is NULL");
  zero1_group taken = optimizer->settings.groups[group];
  status = zero1__struct_get(values, group_bytes, &taken, sizeof taken, "zero1_group",
                             &optimizer->error);
  return status ? status : replace_group(optimizer, group, &taken);
}

zero1_status zero1_optimizer_get_group(zero1_optimizer *optimizer, int64_t group,
                                       zero1_group *values, size_t group_bytes) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = check_group_index(optimizer, group);
  if (status) return status;
  status =
      zero1__struct_put(values, group_bytes, &optimizer->settings.groups[group], sizeof *values);
  if (!status) return ZERO1_OK;
  return zero1__fail(&optimizer->error, status, "values is %s, group_bytes %zu of %zu",
                     values ? "given" : "NULL", group_bytes, sizeof *values);
}

static zero1_status set_number(zero1_optimizer *optimizer, const char *name, double value,
                               double *number) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__at_least_zero(name, value, &optimizer->error);
  if (!status) *number = value;
  return status;
}

zero1_status zero1_optimizer_set_grad_scale(zero1_optimizer *optimizer, double grad_scale) {
  if (optimizer && grad_scale == 0) {
    zero1__error_clear(&optimizer->error);
    return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "grad_scale is 0");
  }
  return set_number(optimizer, "grad_scale", grad_scale,
                    optimizer ? &optimizer->settings.config.grad_scale : NULL);
}

zero1_status zero1_optimizer_set_max_grad_norm(zero1_optimizer *optimizer, double max_grad_norm) {
  return set_number(optimizer, "max_grad_norm", max_grad_norm,
                    optimizer ? &optimizer->settings.config.max_grad_norm : NULL);
}

zero1_status zero1_optimizer_set_skip_grad_norm(zero1_optimizer *optimizer, double skip_grad_norm) {
  return set_number(optimizer, "skip_grad_norm", skip_grad_norm,
                    optimizer ? &optimizer->settings.config.skip_grad_norm : NULL);
}

/* ---- what this rank owns ---- */

/* Calls back for each owned range; stops where `visit` returns 0. Returns how many it visited. */
static int64_t visit_owned(zero1_optimizer *optimizer,
                           int (*visit)(zero1_optimizer *, int64_t, int64_t, const zero1__segment *,
                                        void *),
                           void *context) {
  const zero1__layout *layout = &optimizer->layout;
  int64_t count = 0;
  for (int64_t bucket = 0; bucket < layout->bucket_count; ++bucket) {
    zero1__walk walk =
        zero1__walk_begin(layout, zero1__layout_shard(layout, bucket, optimizer->comm->rank));
    for (zero1__segment segment; zero1__walk_next(&walk, &segment); ++count)
      if (visit && !visit(optimizer, count, bucket, &segment, context)) return count;
  }
  return count;
}

typedef struct owned_out {
  int64_t first, count;
  char *out;
  size_t bytes;
} owned_out;

static int put_owned(zero1_optimizer *optimizer, int64_t index, int64_t bucket,
                     const zero1__segment *segment, void *context) {
  const owned_out *wanted = context;
  const zero1__layout *layout = &optimizer->layout;
  const zero1__buffers *buffers = &optimizer->buffers;
  if (index < wanted->first) return 1;
  if (index >= wanted->first + wanted->count) return 0;
  const int64_t shard = zero1__layout_shard(layout, bucket, optimizer->comm->rank).begin;
  const int64_t offset = (segment->block - shard) * ZERO1__BLOCK;
  const zero1_owned owned = {
      .param = layout->slots[segment->slot].param,
      .begin = segment->param_begin,
      .end = segment->param_begin + segment->numel,
      .master_param = zero1__buffers_master(buffers, bucket) + offset,
      .exp_avg = zero1__buffers_state(buffers, &buffers->exp_avg, bucket) + offset,
      .exp_avg_sq = zero1__buffers_state(buffers, &buffers->exp_avg_sq, bucket) + offset,
      .on_host = optimizer->device->is_host || bucket < buffers->offloaded,
  };
  zero1__struct_put(wanted->out + (size_t)(index - wanted->first) * wanted->bytes, wanted->bytes,
                    &owned, sizeof owned);
  return 1;
}

zero1_status zero1_optimizer_owned_count(zero1_optimizer *optimizer, int64_t *count) {
  const zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  if (!count) return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "count is NULL");
  *count = visit_owned(optimizer, NULL, NULL);
  return ZERO1_OK;
}

zero1_status zero1_optimizer_owned(zero1_optimizer *optimizer, int64_t first, int64_t count,
                                   zero1_owned *owned, size_t owned_bytes) {
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (!status) status = zero1__optimizer_may_wait(optimizer, "owned");
  if (status) return status;
  const int64_t all = visit_owned(optimizer, NULL, NULL);
  if (first < 0 || count < 0 || first > all || count > all - first || (count && !owned))
    return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID,
                       "ranges [%lld, %lld + %lld) of %lld, into %s", (long long)first,
                       (long long)first, (long long)count, (long long)all,
                       owned ? "a buffer" : "NULL");
  if (owned_bytes < sizeof(size_t) || owned_bytes > sizeof *owned)
    return zero1__fail(&optimizer->error, ZERO1_ERR_VERSION,
                       "owned_bytes is %zu; this library knows %zu", owned_bytes, sizeof *owned);
  zero1__schedule_finish(&optimizer->schedule);
  owned_out wanted = {first, count, (char *)owned, owned_bytes};
  visit_owned(optimizer, put_owned, &wanted);
  return zero1__optimizer_outcome(optimizer);
}

/* ---- memory ---- */

/* What kernels go by, on a device other than the host. */
static uint64_t of_device(const zero1_optimizer *optimizer) {
  const zero1__layout *layout = &optimizer->layout;
  const zero1__device_lane *lanes[] = {optimizer->device_lane, optimizer->device_wider};
  if (optimizer->device->is_host) return 0;
  uint64_t bytes = (uint64_t)layout->trainable_blocks * 2 * sizeof(int32_t) +
                   (uint64_t)layout->slot_count * sizeof(zero1__slot) + sizeof(zero1__step);
  for (int i = 0; i < 2; ++i)
    if (lanes[i]) bytes += zero1__device_lane_bytes(lanes[i]);
  return bytes;
}

zero1_status zero1_optimizer_memory(zero1_optimizer *optimizer, zero1_memory *memory,
                                    size_t memory_bytes) {
  zero1_memory known;
  zero1_status status = zero1__optimizer_enter(optimizer);
  if (status) return status;
  zero1__buffers_memory(&optimizer->buffers, &known);
  const zero1__layout *layout = &optimizer->layout;
  const uint64_t tables = (uint64_t)layout->param_count * 3 * sizeof(int64_t) +
                          (uint64_t)layout->slot_count * (sizeof(zero1__slot) + 1) +
                          (uint64_t)layout->bucket_count * 2 * sizeof(int32_t);
  const uint64_t extra =
      tables + of_device(optimizer) + zero1__offload_bytes(optimizer->schedule.offload) +
      zero1__device_agreement_bytes(&optimizer->schedule) + optimizer->saver_bytes;
  known.workspace_bytes += extra;
  known.total_bytes += extra;
  status = zero1__struct_put(memory, memory_bytes, &known, sizeof known);
  if (!status) return ZERO1_OK;
  return zero1__fail(&optimizer->error, ZERO1_ERR_INVALID, "memory is %s, memory_bytes %zu of %zu",
                     memory ? "given" : "NULL", memory_bytes, sizeof known);
}
