#include "lm_sharded.h"

#include <stdlib.h>
#include <string.h>

#include "lm_kernels.h"

/* Scratch pieces start on a cache line. */
static int64_t rounded_numel(const lm_config *config, int64_t index) {
  const lm_param param = lm_param_at(config, index);
  return (lm_param_numel(&param) + 15) / 16 * 16;
}

static int64_t scratch_numel(const lm_config *config, int64_t param_begin, int64_t param_end) {
  int64_t numel = 0;
  for (int64_t i = param_begin; i < param_end; ++i) numel += rounded_numel(config, i);
  return numel;
}

static int64_t largest_unit(const lm_config *config) {
  int64_t largest = 0;
  for (int64_t unit = 0; unit <= config->layers + 1; ++unit) {
    const int64_t numel =
        scratch_numel(config, lm_unit_begin(config, unit), lm_unit_begin(config, unit + 1));
    if (numel > largest) largest = numel;
  }
  return largest;
}

int64_t lm_total_numel(const lm_config *config) {
  int64_t numel = 0;
  for (int64_t i = 0; i < lm_param_count(config); ++i) {
    const lm_param param = lm_param_at(config, i);
    numel += lm_param_numel(&param);
  }
  return numel;
}

static bool passed(lm_sharded *sharded, zero1_status status) {
  if (status && !sharded->status) sharded->status = status;
  return !status;
}

static bool read_params(void *context, int64_t unit, const float *values[LM_UNIT_PARAMS]) {
  lm_sharded *const sharded = context;
  const int64_t begin = lm_unit_begin(&sharded->config, unit);
  const int64_t end = lm_unit_begin(&sharded->config, unit + 1);
  float *scratch = sharded->param_scratch;
  for (int64_t i = begin; i < end; ++i) {
    void *stored;
    if (!passed(sharded, zero1_optimizer_wait_param(sharded->optimizer, i, ZERO1_STREAM_DEFAULT)) ||
        !passed(sharded, zero1_optimizer_param(sharded->optimizer, i, &stored))) {
      return false;
    }
    if (sharded->param_dtype == ZERO1_DTYPE_FP32) {
      values[i - begin] = stored;
      continue;
    }
    const lm_param param = lm_param_at(&sharded->config, i);
    lm_from_bf16(lm_param_numel(&param), stored, scratch);
    values[i - begin] = scratch;
    scratch += rounded_numel(&sharded->config, i);
  }
  return true;
}

/* Where gradient `index` is added up: its buffer, or its place in the scratch memory. */
static bool find_grad(lm_sharded *sharded, int64_t unit, int64_t index, float **grad) {
  if (sharded->grad_dtype == ZERO1_DTYPE_FP32) {
    void *stored;
    const bool ok = passed(sharded, zero1_optimizer_grad(sharded->optimizer, index, &stored));
    *grad = stored;
    return ok;
  }
  const int64_t begin = sharded->keep_grads ? 0 : lm_unit_begin(&sharded->config, unit);
  *grad = sharded->grad_scratch + scratch_numel(&sharded->config, begin, index);
  return true;
}

static bool open_grads(void *context, int64_t unit, float *grads[LM_UNIT_PARAMS]) {
  lm_sharded *const sharded = context;
  const int64_t begin = lm_unit_begin(&sharded->config, unit);
  const int64_t end = lm_unit_begin(&sharded->config, unit + 1);
  for (int64_t i = begin; i < end; ++i) {
    if (!find_grad(sharded, unit, i, &grads[i - begin])) return false;
    if (!sharded->first) continue;
    if (!passed(sharded, zero1_optimizer_wait_grad(sharded->optimizer, i, ZERO1_STREAM_DEFAULT))) {
      return false;
    }
    const lm_param param = lm_param_at(&sharded->config, i);
    memset(grads[i - begin], 0, (size_t)lm_param_numel(&param) * sizeof(float));
  }
  return true;
}

static bool done_grads(void *context, int64_t unit) {
  lm_sharded *const sharded = context;
  if (!sharded->last) return true;
  const int64_t begin = lm_unit_begin(&sharded->config, unit);
  for (int64_t i = lm_unit_begin(&sharded->config, unit + 1) - 1; i >= begin; --i) {
    if (sharded->grad_dtype == ZERO1_DTYPE_BF16) {
      float *grad;
      void *stored;
      if (!find_grad(sharded, unit, i, &grad) ||
          !passed(sharded, zero1_optimizer_grad(sharded->optimizer, i, &stored))) {
        return false;
      }
      const lm_param param = lm_param_at(&sharded->config, i);
      lm_to_bf16(lm_param_numel(&param), grad, stored);
    }
    if (!passed(sharded, zero1_optimizer_grad_ready(sharded->optimizer, i, ZERO1_STREAM_DEFAULT))) {
      return false;
    }
  }
  return true;
}

lm_tensors lm_sharded_tensors(lm_sharded *sharded) {
  return (lm_tensors){sharded, read_params, open_grads, done_grads};
}

static zero1_status create_optimizer(lm_sharded *sharded, zero1_comm *comm,
                                     const zero1_config *config) {
  const int64_t count = lm_param_count(&sharded->config);
  lm_param *const params = calloc((size_t)count, sizeof *params);
  zero1_param_spec *const specs = calloc((size_t)count, sizeof *specs);
  zero1_status status = ZERO1_ERR_MEMORY;
  if (params && specs) {
    for (int64_t i = 0; i < count; ++i) {
      params[i] = lm_param_at(&sharded->config, i);
      specs[i] = (zero1_param_spec){.name = params[i].name,
                                    .shape = params[i].shape,
                                    .ndim = params[i].ndim,
                                    .group = params[i].ndim == 1 ? LM_GROUP_GAIN : LM_GROUP_MATRIX};
    }
    status = zero1_optimizer_create(comm, config, specs, sizeof *specs, count, &sharded->optimizer);
  }
  free(specs);
  free(params);
  return status;
}

static bool allocate(float **memory, int64_t numel) {
  *memory = aligned_alloc(64, (size_t)numel * sizeof(float));
  return *memory != NULL;
}

zero1_status lm_sharded_open(lm_sharded *sharded, zero1_comm *comm, const lm_config *model,
                             const zero1_config *config, int64_t accumulate) {
  *sharded = (lm_sharded){.config = *model,
                          .param_dtype = config->param_dtype,
                          .grad_dtype = config->grad_dtype,
                          .keep_grads = accumulate > 1};
  const int64_t unit = largest_unit(model);
  const int64_t all = scratch_numel(model, 0, lm_param_count(model));
  const zero1_status status = create_optimizer(sharded, comm, config);
  if (status) return status;
  if (config->param_dtype == ZERO1_DTYPE_BF16 && !allocate(&sharded->param_scratch, unit)) {
    return ZERO1_ERR_MEMORY;
  }
  if (config->grad_dtype == ZERO1_DTYPE_BF16 &&
      !allocate(&sharded->grad_scratch, sharded->keep_grads ? all : unit)) {
    return ZERO1_ERR_MEMORY;
  }
  return ZERO1_OK;
}

void lm_sharded_close(lm_sharded *sharded) {
  zero1_optimizer_destroy(&sharded->optimizer);
  free(sharded->param_scratch);
  free(sharded->grad_scratch);
  *sharded = (lm_sharded){0};
}

static zero1_status init_param(lm_sharded *sharded, int64_t index, uint64_t seed) {
  void *stored;
  const zero1_status status = zero1_optimizer_param(sharded->optimizer, index, &stored);
  if (status) return status;
  if (sharded->param_dtype == ZERO1_DTYPE_FP32) {
    lm_param_init(&sharded->config, index, seed, stored);
    return ZERO1_OK;
  }
  const lm_param param = lm_param_at(&sharded->config, index);
  lm_param_init(&sharded->config, index, seed, sharded->param_scratch);
  lm_to_bf16(lm_param_numel(&param), sharded->param_scratch, stored);
  return ZERO1_OK;
}

zero1_status lm_sharded_init_params(lm_sharded *sharded, int32_t rank, uint64_t seed) {
  for (int64_t i = 0; rank == 0 && i < lm_param_count(&sharded->config); ++i) {
    const zero1_status status = init_param(sharded, i, seed);
    if (status) return status;
  }
  return zero1_optimizer_sync_params(sharded->optimizer, 0);
}
