#include <cblas.h>
#include <string.h>

#include "lm_kernels.h"
#include "lm_model.h"

void lm_linear(int64_t rows, int64_t from, int64_t to, const float *x, const float *w, bool add,
               float *out) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)to, (int)from, 1.0f, x,
              (int)from, w, (int)from, add ? 1.0f : 0.0f, out, (int)to);
}

static void forward_layer(lm_model *model, int64_t index, const float *const params[],
                          const lm_batch *batch, float *out) {
  const lm_config *const config = &model->config;
  lm_layer *const layer = &model->layers[index];
  const int64_t rows = batch->batch * batch->length, dim = config->dim;
  const int64_t half = dim / config->heads / 2;
  const size_t stream_bytes = (size_t)(rows * dim) * sizeof(float);

  lm_norm(rows, dim, layer->in, params[LM_NORM1], layer->normed1, layer->inverse1);
  lm_linear(rows, dim, 3 * dim, layer->normed1, params[LM_QKV], false, layer->qkv);
  /* Queries and keys are neighbours: turned as one run of twice the heads. */
  lm_rotate(rows, batch->length, 2 * config->heads, half, model->rotary, 1.0f, 3 * dim, layer->qkv);
  lm_attention(config, batch->batch, batch->length, layer);
  memcpy(layer->middle, layer->in, stream_bytes);
  lm_linear(rows, dim, dim, layer->mixed, params[LM_PROJECT], true, layer->middle);

  lm_norm(rows, dim, layer->middle, params[LM_NORM2], layer->normed2, layer->inverse2);
  lm_linear(rows, dim, 2 * config->hidden, layer->normed2, params[LM_UP], false, layer->up);
  lm_swiglu(rows, config->hidden, layer->up, layer->activated);
  memcpy(out, layer->middle, stream_bytes);
  lm_linear(rows, config->hidden, dim, layer->activated, params[LM_DOWN], true, out);
}

bool lm_forward(lm_model *model, const lm_tensors *tensors, const lm_batch *batch, double *loss) {
  const lm_config *const config = &model->config;
  const int64_t rows = batch->batch * batch->length, dim = config->dim;
  const float *params[LM_UNIT_PARAMS];

  if (!tensors->read_params(tensors->context, 0, params)) return false;
  for (int64_t r = 0; r < rows; ++r) {
    memcpy(model->layers[0].in + r * dim, params[LM_EMBED] + batch->inputs[r] * dim,
           (size_t)dim * sizeof(float));
  }
  for (int64_t i = 0; i < config->layers; ++i) {
    if (!tensors->read_params(tensors->context, i + 1, params)) return false;
    float *const out = i + 1 < config->layers ? model->layers[i + 1].in : model->out;
    forward_layer(model, i, params, batch, out);
  }
  if (!tensors->read_params(tensors->context, config->layers + 1, params)) return false;
  lm_norm(rows, dim, model->out, params[LM_NORM_OUT], model->normed, model->inverse);
  lm_linear(rows, dim, LM_BYTES, model->normed, params[LM_OUTPUT], false, model->logits);
  if (batch->targets) {
    const double sum = lm_cross_entropy(rows, LM_BYTES, batch->targets,
                                        batch->loss_scale / (float)rows, model->logits);
    *loss = sum / (double)rows;
  }
  return true;
}
