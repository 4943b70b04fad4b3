#include "lm_model.h"

/* out [rows, to] = x [rows, from] * w [to, from]^T, added to out where `add`. */
typedef struct linear {
  int64_t from, to;
  const float *x, *w;
  float *out;
  bool add;
} linear;

static void apply(lm_device *device, int64_t rows, linear l) {
  device->kernels->product(device,
                           &(lm_product){.rows = rows,
                                         .columns = l.to,
                                         .inner = l.from,
                                         .a = {.at = l.x, .steps.row = l.from},
                                         .b = {.at = l.w, .steps.row = l.from, .transposed = true},
                                         .out = l.out,
                                         .out_steps.row = l.to,
                                         .add = l.add,
                                         .sequences = 1,
                                         .heads = 1});
}

static void forward_layer(const lm_model *model, const lm_layer *layer, const float *const params[],
                          const lm_batch *batch, float *out) {
  const lm_config *const config = &model->config;
  lm_device *const device = model->device;
  const lm_kernels *const k = device->kernels;
  const int64_t rows = batch->batch * batch->length, dim = config->dim, hidden = config->hidden;
  const size_t stream_bytes = (size_t)(rows * dim) * sizeof(float);

  k->norm(device, rows, dim, layer->in, params[LM_NORM1], layer->normed1, layer->inverse1);
  apply(device, rows, (linear){dim, 3 * dim, layer->normed1, params[LM_QKV], layer->qkv, false});
  const lm_rotation rotation = lm_model_rotation(model, batch, 1.0f);
  k->rotate(device, &rotation, layer->qkv);
  lm_attention(model, batch, layer);
  k->copy(device, layer->middle, layer->in, stream_bytes);
  apply(device, rows, (linear){dim, dim, layer->mixed, params[LM_PROJECT], layer->middle, true});

  k->norm(device, rows, dim, layer->middle, params[LM_NORM2], layer->normed2, layer->inverse2);
  apply(device, rows, (linear){dim, 2 * hidden, layer->normed2, params[LM_UP], layer->up, false});
  k->swiglu(device, rows, hidden, layer->up, layer->activated);
  k->copy(device, out, layer->middle, stream_bytes);
  apply(device, rows, (linear){hidden, dim, layer->activated, params[LM_DOWN], out, true});
}

/* From the residual stream to logits and, with targets, to their gradient. */
static void forward_output(const lm_model *model, const float *const params[],
                           const lm_batch *batch) {
  lm_device *const device = model->device;
  const lm_kernels *const k = device->kernels;
  const int64_t rows = batch->batch * batch->length, dim = model->config.dim;
  k->norm(device, rows, dim, model->out, params[LM_NORM_OUT], model->normed, model->inverse);
  apply(device, rows,
        (linear){dim, LM_BYTES, model->normed, params[LM_OUTPUT], model->logits, false});
  if (!batch->targets) return;
  k->cross_entropy(device, rows, LM_BYTES, model->targets, batch->loss_scale / (float)rows,
                   model->logits, model->losses);
  k->add_up(device, rows, model->losses, model->loss);
}

/* Waits for what was asked for before, so it comes before waiting for parameters. */
static void upload(const lm_model *model, const lm_batch *batch) {
  const size_t bytes = (size_t)(batch->batch * batch->length);
  const lm_kernels *const k = model->device->kernels;
  k->upload(model->device, model->inputs, batch->inputs, bytes);
  if (batch->targets) k->upload(model->device, model->targets, batch->targets, bytes);
}

bool lm_forward(lm_model *model, const lm_tensors *tensors, const lm_batch *batch) {
  const lm_config *const config = &model->config;
  lm_device *const device = model->device;
  const int64_t rows = batch->batch * batch->length;
  const float *params[LM_UNIT_PARAMS];

  upload(model, batch);
  if (!tensors->read_params(tensors->context, 0, params)) return false;
  device->kernels->embed(device, rows, config->dim, model->inputs, params[LM_EMBED],
                         model->layers[0].in);
  for (int64_t i = 0; i < config->layers; ++i) {
    if (!tensors->read_params(tensors->context, i + 1, params)) return false;
    float *const out = i + 1 < config->layers ? model->layers[i + 1].in : model->out;
    forward_layer(model, &model->layers[i], params, batch, out);
  }
  if (!tensors->read_params(tensors->context, config->layers + 1, params)) return false;
  forward_output(model, params, batch);
  return !device->error[0];
}
