#include "lm_model.h"

/* What a linear map takes back. */
typedef struct linear {
  int64_t from, to;
  const float *x;    /* [rows, from] */
  const float *w;    /* [to, from] */
  const float *dout; /* [rows, to] */
  float *dw;         /* [to, from] added to */
  float *dx;         /* [rows, from] overwritten */
} linear;

static void take_back(lm_device *device, int64_t rows, linear l) {
  const lm_steps x_steps = {.row = l.from}, out_steps = {.row = l.to};
  device->kernels->product(
      device, &(lm_product){.rows = l.to,
                            .columns = l.from,
                            .inner = rows,
                            .a = {.at = l.dout, .steps = out_steps, .transposed = true},
                            .b = {.at = l.x, .steps = x_steps},
                            .out = l.dw,
                            .out_steps = x_steps,
                            .add = true,
                            .sequences = 1,
                            .heads = 1});
  device->kernels->product(device, &(lm_product){.rows = rows,
                                                 .columns = l.from,
                                                 .inner = l.to,
                                                 .a = {.at = l.dout, .steps = out_steps},
                                                 .b = {.at = l.w, .steps = x_steps},
                                                 .out = l.dx,
                                                 .out_steps = x_steps,
                                                 .sequences = 1,
                                                 .heads = 1});
}

/* dstream is the gradient of the residual stream: of the layer's output when called, of its input
 * on return. */
static void backward_layer(const lm_model *model, const lm_layer *layer,
                           const float *const params[], float *const grads[],
                           const lm_batch *batch) {
  const lm_config *const config = &model->config;
  lm_device *const device = model->device;
  const lm_kernels *const k = device->kernels;
  const int64_t rows = batch->batch * batch->length, dim = config->dim, hidden = config->hidden;
  float *const dstream = model->dstream, *const dwide = model->dwide, *const dx = model->dnormed;

  take_back(device, rows,
            (linear){.from = hidden,
                     .to = dim,
                     .x = layer->activated,
                     .w = params[LM_DOWN],
                     .dout = dstream,
                     .dw = grads[LM_DOWN],
                     .dx = dx});
  k->swiglu_backward(device, rows, hidden, layer->up, dx, dwide);
  take_back(device, rows,
            (linear){.from = dim,
                     .to = 2 * hidden,
                     .x = layer->normed2,
                     .w = params[LM_UP],
                     .dout = dwide,
                     .dw = grads[LM_UP],
                     .dx = dx});
  k->norm_backward(device, rows, dim,
                   &(lm_norm_grads){.x = layer->middle,
                                    .gain = params[LM_NORM2],
                                    .inverse = layer->inverse2,
                                    .dout = dx,
                                    .dx = dstream,
                                    .dgain = grads[LM_NORM2]});

  take_back(device, rows,
            (linear){.from = dim,
                     .to = dim,
                     .x = layer->mixed,
                     .w = params[LM_PROJECT],
                     .dout = dstream,
                     .dw = grads[LM_PROJECT],
                     .dx = dx});
  lm_attention_backward(model, batch, layer, dx, dwide);
  const lm_rotation rotation = lm_model_rotation(model, batch, -1.0f);
  k->rotate(device, &rotation, dwide);
  take_back(device, rows,
            (linear){.from = dim,
                     .to = 3 * dim,
                     .x = layer->normed1,
                     .w = params[LM_QKV],
                     .dout = dwide,
                     .dw = grads[LM_QKV],
                     .dx = dx});
  k->norm_backward(device, rows, dim,
                   &(lm_norm_grads){.x = layer->in,
                                    .gain = params[LM_NORM1],
                                    .inverse = layer->inverse1,
                                    .dout = dx,
                                    .dx = dstream,
                                    .dgain = grads[LM_NORM1]});
}

static void backward_output(const lm_model *model, const float *const params[],
                            float *const grads[], int64_t rows) {
  const int64_t dim = model->config.dim;
  lm_device *const device = model->device;
  take_back(device, rows,
            (linear){.from = dim,
                     .to = LM_BYTES,
                     .x = model->normed,
                     .w = params[LM_OUTPUT],
                     .dout = model->logits,
                     .dw = grads[LM_OUTPUT],
                     .dx = model->dnormed});
  device->kernels->zero(device, model->dstream, (size_t)(rows * dim) * sizeof(float));
  device->kernels->norm_backward(device, rows, dim,
                                 &(lm_norm_grads){.x = model->out,
                                                  .gain = params[LM_NORM_OUT],
                                                  .inverse = model->inverse,
                                                  .dout = model->dnormed,
                                                  .dx = model->dstream,
                                                  .dgain = grads[LM_NORM_OUT]});
}

static void backward_unit(const lm_model *model, int64_t unit, const float *const params[],
                          float *const grads[], const lm_batch *batch) {
  const int64_t rows = batch->batch * batch->length;
  if (unit > model->config.layers) {
    backward_output(model, params, grads, rows);
  } else if (unit > 0) {
    backward_layer(model, &model->layers[unit - 1], params, grads, batch);
  } else {
    model->device->kernels->embed_backward(model->device, rows, model->config.dim, model->inputs,
                                           model->dstream, grads[LM_EMBED]);
  }
}

bool lm_backward(lm_model *model, const lm_tensors *tensors, const lm_batch *batch) {
  const float *params[LM_UNIT_PARAMS];
  float *grads[LM_UNIT_PARAMS];
  for (int64_t unit = model->config.layers + 1; unit >= 0; --unit) {
    if (!tensors->read_params(tensors->context, unit, params)) return false;
    if (!tensors->open_grads(tensors->context, unit, grads)) return false;
    backward_unit(model, unit, params, grads, batch);
    if (!tensors->done_grads(tensors->context, unit)) return false;
  }
  return !model->device->error[0];
}
