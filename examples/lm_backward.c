#include <cblas.h>
#include <string.h>

#include "lm_kernels.h"
#include "lm_model.h"

/* The gradients of lm_linear: dw [to, from] is added to, dx [rows, from] overwritten. */
static void linear_backward(int64_t rows, int64_t from, int64_t to, const float *x, const float *w,
                            const float *dout, float *dw, float *dx) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)to, (int)from, (int)rows, 1.0f, dout,
              (int)to, x, (int)from, 1.0f, dw, (int)from);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)from, (int)to, 1.0f, dout,
              (int)to, w, (int)from, 0.0f, dx, (int)from);
}

/* dstream is the gradient of the residual stream: of the layer's output when called, of its input
 * on return. */
static void backward_layer(lm_model *model, int64_t index, const float *const params[],
                           float *const grads[], const lm_batch *batch) {
  const lm_config *const config = &model->config;
  const lm_layer *const layer = &model->layers[index];
  const int64_t rows = batch->batch * batch->length, dim = config->dim, hidden = config->hidden;
  float *const dstream = model->dstream, *const dwide = model->dwide, *const dx = model->dnormed;

  linear_backward(rows, hidden, dim, layer->activated, params[LM_DOWN], dstream, grads[LM_DOWN],
                  dx);
  lm_swiglu_backward(rows, hidden, layer->up, dx, dwide);
  linear_backward(rows, dim, 2 * hidden, layer->normed2, params[LM_UP], dwide, grads[LM_UP], dx);
  lm_norm_backward(rows, dim,
                   &(lm_norm_grads){.x = layer->middle,
                                    .gain = params[LM_NORM2],
                                    .inverse = layer->inverse2,
                                    .dout = dx,
                                    .dx = dstream,
                                    .dgain = grads[LM_NORM2]});

  linear_backward(rows, dim, dim, layer->mixed, params[LM_PROJECT], dstream, grads[LM_PROJECT], dx);
  lm_attention_backward(config, batch->batch, batch->length, layer, dx, dwide, model->dattention);
  lm_rotate(rows, batch->length, 2 * config->heads, dim / config->heads / 2, model->rotary, -1.0f,
            3 * dim, dwide);
  linear_backward(rows, dim, 3 * dim, layer->normed1, params[LM_QKV], dwide, grads[LM_QKV], dx);
  lm_norm_backward(rows, dim,
                   &(lm_norm_grads){.x = layer->in,
                                    .gain = params[LM_NORM1],
                                    .inverse = layer->inverse1,
                                    .dout = dx,
                                    .dx = dstream,
                                    .dgain = grads[LM_NORM1]});
}

static void backward_output(lm_model *model, const float *const params[], float *const grads[],
                            int64_t rows) {
  const int64_t dim = model->config.dim;
  linear_backward(rows, dim, LM_BYTES, model->normed, params[LM_OUTPUT], model->logits,
                  grads[LM_OUTPUT], model->dnormed);
  memset(model->dstream, 0, (size_t)(rows * dim) * sizeof(float));
  lm_norm_backward(rows, dim,
                   &(lm_norm_grads){.x = model->out,
                                    .gain = params[LM_NORM_OUT],
                                    .inverse = model->inverse,
                                    .dout = model->dnormed,
                                    .dx = model->dstream,
                                    .dgain = grads[LM_NORM_OUT]});
}

static void backward_embed(const lm_model *model, float *const grads[], const lm_batch *batch) {
  const int64_t dim = model->config.dim;
  for (int64_t r = 0; r < batch->batch * batch->length; ++r) {
    float *const to = grads[LM_EMBED] + batch->inputs[r] * dim;
    const float *const from = model->dstream + r * dim;
    for (int64_t j = 0; j < dim; ++j) to[j] += from[j];
  }
}

bool lm_backward(lm_model *model, const lm_tensors *tensors, const lm_batch *batch) {
  const int64_t last = model->config.layers + 1;
  const float *params[LM_UNIT_PARAMS];
  float *grads[LM_UNIT_PARAMS];
  for (int64_t unit = last; unit >= 0; --unit) {
    if (!tensors->read_params(tensors->context, unit, params)) return false;
    if (!tensors->open_grads(tensors->context, unit, grads)) return false;
    if (unit == last) {
      backward_output(model, params, grads, batch->batch * batch->length);
    } else if (unit > 0) {
      backward_layer(model, unit - 1, params, grads, batch);
    } else {
      backward_embed(model, grads, batch);
    }
    if (!tensors->done_grads(tensors->context, unit)) return false;
  }
  return true;
}
