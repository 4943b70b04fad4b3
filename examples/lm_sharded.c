#include "lm_sharded.h"

#include <stdlib.h>

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
    sharded->device->kernels->from_bf16(sharded->device, lm_param_numel(&param), stored, scratch);
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
    sharded->device->kernels->zero(sharded->device, grads[i - begin],
                                   (size_t)lm_param_numel(&param) * sizeof(float));
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
      sharded->device->kernels->to_bf16(sharded->device, lm_param_numel(&param), grad, stored);
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

static bool allocate(lm_device *device, float **memory, int64_t numel) {
  *memory = device->kernels->alloc(device, (size_t)numel * sizeof(float));
  return *memory != NULL;
}

zero1_status lm_sharded_open(lm_sharded *sharded, zero1_comm *comm, const lm_model *model,
                             const zero1_config *config, int64_t accumulate) {
  *sharded = (lm_sharded){.device = model->device,
                          .config = model->config,
                          .param_dtype = config->param_dtype,
                          .grad_dtype = config->grad_dtype,
                          .keep_grads = accumulate > 1};
  const int64_t unit = largest_unit(&model->config);
  const int64_t all = scratch_numel(&model->config, 0, lm_param_count(&model->config));
  const zero1_status status = create_optimizer(sharded, comm, config);
  if (status) return status;
  if (config->param_dtype == ZERO1_DTYPE_BF16 &&
      !allocate(model->device, &sharded->param_scratch, unit)) {
    return ZERO1_ERR_MEMORY;
  }
  if (config->grad_dtype == ZERO1_DTYPE_BF16 &&
      !allocate(model->device, &sharded->grad_scratch, sharded->keep_grads ? all : unit)) {
    return ZERO1_ERR_MEMORY;
  }
  return ZERO1_OK;
}

void lm_sharded_close(lm_sharded *sharded) {
  zero1_optimizer_destroy(&sharded->optimizer);
  if (sharded->param_scratch)
    sharded->device->kernels->free(sharded->device, sharded->param_scratch);
  if (sharded->grad_scratch) sharded->device->kernels->free(sharded->device, sharded->grad_scratch);
  *sharded = (lm_sharded){0};
}

/* [in] values  the host's memory for them */
static zero1_status init_param(lm_sharded *sharded, int64_t index, uint64_t seed, float *values) {
  void *stored;
  const zero1_status status = zero1_optimizer_param(sharded->optimizer, index, &stored);
  if (status) return status;
  lm_device *const device = sharded->device;
  const lm_param param = lm_param_at(&sharded->config, index);
  const int64_t numel = lm_param_numel(&param);
  const bool narrow = sharded->param_dtype == ZERO1_DTYPE_BF16;
  lm_param_init(&sharded->config, index, seed, values);
  device->kernels->upload(device, narrow ? sharded->param_scratch : stored, values,
                          (size_t)numel * sizeof *values);
  if (narrow) device->kernels->to_bf16(device, numel, sharded->param_scratch, stored);
  return device->error[0] ? ZERO1_ERR_DEVICE : ZERO1_OK;
}

zero1_status lm_sharded_init_params(lm_sharded *sharded, int32_t rank, uint64_t seed) {
  float *const values = malloc((size_t)largest_unit(&sharded->config) * sizeof *values);
  zero1_status status = values ? ZERO1_OK : ZERO1_ERR_MEMORY;
  for (int64_t i = 0; rank == 0 && !status && i < lm_param_count(&sharded->config); ++i) {
    status = init_param(sharded, i, seed, values);
  }
  free(values);
  return status ? status : zero1_optimizer_sync_params(sharded->optimizer, 0);
}
