#include "lm_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lm_random.h"

int64_t lm_unit_begin(const lm_config *config, int64_t unit) {
  if (unit == 0) return 0;
  if (unit <= config->layers + 1) return 1 + (unit - 1) * LM_UNIT_PARAMS;
  return 3 + config->layers * LM_UNIT_PARAMS;
}

int64_t lm_param_count(const lm_config *config) {
  return lm_unit_begin(config, config->layers + 2);
}

static lm_param matrix(int64_t rows, int64_t columns, double init_std) {
  return (lm_param){.shape = {rows, columns}, .ndim = 2, .init_std = (float)init_std};
}

static lm_param gain(int64_t numel) {
  return (lm_param){.shape = {numel, 1}, .ndim = 1};
}

/* What writes to the residual stream starts smaller the more layers do so. */
static lm_param layer_param(const lm_config *config, int32_t slot) {
  const int64_t dim = config->dim;
  const double narrow = 1.0 / sqrt((double)dim);
  const double wide = 1.0 / sqrt((double)config->hidden);
  const double depth = 1.0 / sqrt(2.0 * (double)config->layers);
  switch (slot) {
    case LM_QKV:
      return matrix(3 * dim, dim, narrow);
    case LM_PROJECT:
      return matrix(dim, dim, narrow * depth);
    case LM_UP:
      return matrix(2 * config->hidden, dim, narrow);
    case LM_DOWN:
      return matrix(dim, config->hidden, wide * depth);
    default:
      return gain(dim);
  }
}

lm_param lm_param_at(const lm_config *config, int64_t index) {
  static const char *const names[] = {"norm1", "qkv", "project", "norm2", "up", "down"};
  int64_t unit = 0;
  while (lm_unit_begin(config, unit + 1) <= index) ++unit;
  const int32_t slot = (int32_t)(index - lm_unit_begin(config, unit));
  lm_param param;
  if (unit == 0) {
    param = matrix(LM_BYTES, config->dim, 1.0);
    snprintf(param.name, sizeof param.name, "embed");
  } else if (unit <= config->layers) {
    param = layer_param(config, slot);
    snprintf(param.name, sizeof param.name, "layer%d.%s", (int)(unit - 1), names[slot]);
  } else if (slot == LM_NORM_OUT) {
    param = gain(config->dim);
    snprintf(param.name, sizeof param.name, "norm");
  } else { /* starts at 0: the first guess is uniform, ln 256 = 5.545 nats per byte */
    param = matrix(LM_BYTES, config->dim, 0.0);
    snprintf(param.name, sizeof param.name, "output");
  }
  param.unit = (int32_t)unit;
  param.slot = slot;
  return param;
}

int64_t lm_param_numel(const lm_param *param) {
  return param->shape[0] * param->shape[1];
}

void lm_param_init(const lm_config *config, int64_t index, uint64_t seed, float *values) {
  const lm_param param = lm_param_at(config, index);
  const int64_t numel = lm_param_numel(&param);
  uint64_t state = lm_random_key(seed, (uint64_t)index, 0, 0);
  for (int64_t i = 0; i < numel; ++i) {
    values[i] = param.ndim == 1 ? 1.0f : param.init_std * (float)lm_random_normal(&state);
  }
}

/* ---- activations: counted first, then cut from one allocation ---- */

/* Cuts `numel` floats off *memory, on a cache line; with *memory NULL only *total grows. */
static float *cut(float *memory, int64_t *total, int64_t numel) {
  float *const piece = memory ? memory + *total : NULL;
  *total += (numel + 15) / 16 * 16;
  return piece;
}

static int64_t cut_layer(const lm_config *config, float *memory, int64_t total, lm_layer *layer) {
  const int64_t rows = config->batch * config->context, dim = config->dim;
  layer->in = cut(memory, &total, rows * dim);
  layer->normed1 = cut(memory, &total, rows * dim);
  layer->inverse1 = cut(memory, &total, rows);
  layer->qkv = cut(memory, &total, rows * 3 * dim);
  layer->attention = cut(memory, &total, rows * config->heads * config->context);
  layer->mixed = cut(memory, &total, rows * dim);
  layer->middle = cut(memory, &total, rows * dim);
  layer->normed2 = cut(memory, &total, rows * dim);
  layer->inverse2 = cut(memory, &total, rows);
  layer->up = cut(memory, &total, rows * 2 * config->hidden);
  layer->activated = cut(memory, &total, rows * config->hidden);
  return total;
}

static int64_t cut_all(lm_model *model, float *memory) {
  const lm_config *const config = &model->config;
  const int64_t rows = config->batch * config->context, dim = config->dim;
  const int64_t wide = 2 * config->hidden > 3 * dim ? 2 * config->hidden : 3 * dim;
  const int64_t heads = model->device->kernels->batched ? config->batch * config->heads : 1;
  int64_t total = 0;
  for (int64_t i = 0; i < config->layers; ++i) {
    lm_layer unused;
    total = cut_layer(config, memory, total, memory ? &model->layers[i] : &unused);
  }
  model->rotary = cut(memory, &total, config->context * (dim / config->heads));
  model->out = cut(memory, &total, rows * dim);
  model->normed = cut(memory, &total, rows * dim);
  model->inverse = cut(memory, &total, rows);
  model->logits = cut(memory, &total, rows * LM_BYTES);
  model->dstream = cut(memory, &total, rows * dim);
  model->dwide = cut(memory, &total, rows * wide);
  model->dattention = cut(memory, &total, heads * config->context * config->context);
  model->dnormed = cut(memory, &total, rows * (config->hidden > dim ? config->hidden : dim));
  model->losses = (double *)cut(memory, &total, 2 * rows);
  model->loss = (double *)cut(memory, &total, 2);
  model->inputs = (uint8_t *)cut(memory, &total, (rows + 3) / 4);
  model->targets = (uint8_t *)cut(memory, &total, (rows + 3) / 4);
  return total;
}

uint64_t lm_model_bytes(const lm_config *config, lm_device *device) {
  lm_model model = {.config = *config, .device = device};
  return (uint64_t)cut_all(&model, NULL) * sizeof(float);
}

static bool fill_rotary(lm_model *model) {
  const lm_config *const config = &model->config;
  const int64_t half = config->dim / config->heads / 2;
  const size_t bytes = (size_t)(config->context * 2 * half) * sizeof(float);
  float *const table = malloc(bytes);
  if (!table) return false;
  for (int64_t position = 0; position < config->context; ++position) {
    float *const row = table + position * 2 * half;
    for (int64_t j = 0; j < half; ++j) {
      const double angle = (double)position * pow(10000.0, -(double)j / (double)half);
      row[j] = (float)cos(angle);
      row[half + j] = (float)sin(angle);
    }
  }
  model->device->kernels->upload(model->device, model->rotary, table, bytes);
  free(table);
  return true;
}

bool lm_model_init(lm_model *model, const lm_config *config, lm_device *device) {
  *model = (lm_model){.config = *config, .device = device};
  model->layers = calloc((size_t)config->layers, sizeof *model->layers);
  model->memory = device->kernels->alloc(device, lm_model_bytes(config, device));
  if (!model->layers || !model->memory) return false;
  cut_all(model, model->memory);
  device->kernels->zero(device, model->loss, sizeof *model->loss);
  return fill_rotary(model) && !device->error[0];
}

void lm_model_free(lm_model *model) {
  if (model->memory) model->device->kernels->free(model->device, model->memory);
  free(model->layers);
  *model = (lm_model){0};
}

bool lm_take_loss(lm_model *model, double *loss) {
  lm_device *const device = model->device;
  device->kernels->download(device, loss, model->loss, sizeof *loss);
  device->kernels->zero(device, model->loss, sizeof *loss);
  return !device->error[0];
}

bool lm_read_logits(lm_model *model, int64_t row, float *logits) {
  lm_device *const device = model->device;
  device->kernels->download(device, logits, model->logits + row * LM_BYTES,
                            LM_BYTES * sizeof *logits);
  return !device->error[0];
}

lm_rotation lm_model_rotation(const lm_model *model, const lm_batch *batch, float sign) {
  const lm_config *const config = &model->config;
  return (lm_rotation){.rows = batch->batch * batch->length,
                       .length = batch->length,
                       .heads = 2 * config->heads,
                       .half = config->dim / config->heads / 2,
                       .stride = 3 * config->dim,
                       .table = model->rotary,
                       .sign = sign};
}
