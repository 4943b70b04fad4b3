/* Causal attention by matrix products that step over the interleaved queries, keys and values: row
 * r of qkv is [queries of all heads | keys | values]. One (sequence, head) after the other where
 * that keeps scores in a cache, all of them in one call where the device likes that better.
 *
 * Rows are taken in blocks of BLOCK, as no row sees a later one: the rows [64, 128) of a sequence
 * of 256 need the columns [0, 128) only, so that 10 of 16 blocks of scores are computed. */
#include <math.h>

#include "lm_device.h"
#include "lm_model.h"

enum { BLOCK = 64 };

/* Heads that are taken at once, the first of them at the pointers. All tensors are [length, dim]
 * per head, but `scores`. */
typedef struct heads {
  lm_device *device;
  int64_t sequences, heads; /* their numbers */
  int64_t length, dim;
  float scale;
  const float *q, *k, *v;
  float *scores;        /* [length, length] per head */
  lm_steps qkv_steps;   /* of q, k, v and their gradients */
  lm_steps mixed_steps; /* of what attention gives, and its gradient */
  lm_steps score_steps; /* of scores and their gradient */
} heads;

/* How many of `all` are taken at once. */
static int64_t together(const lm_model *model, int64_t all) {
  return model->device->kernels->batched ? all : 1;
}

static heads heads_at(const lm_model *model, const lm_batch *batch, const lm_layer *layer,
                      int64_t b, int64_t h) {
  const lm_config *const config = &model->config;
  const int64_t dim = config->dim / config->heads;
  const int64_t length = batch->length;
  const int64_t stride = 3 * config->dim;
  const float *const q = layer->qkv + b * length * stride + h * dim;
  return (heads){.device = model->device,
                 .sequences = together(model, batch->batch),
                 .heads = together(model, config->heads),
                 .length = length,
                 .dim = dim,
                 .scale = 1.0f / sqrtf((float)dim),
                 .q = q,
                 .k = q + config->dim,
                 .v = q + 2 * config->dim,
                 .scores = layer->attention + (b * config->heads + h) * length * length,
                 .qkv_steps = {stride, length * stride, dim},
                 .mixed_steps = {config->dim, length * config->dim, dim},
                 .score_steps = {length, config->heads * length * length, length * length}};
}

/* The block of rows from `first` on. */
static lm_scores scores_of(const heads *hd, int64_t first) {
  const int64_t rows = hd->length - first < BLOCK ? hd->length - first : BLOCK;
  return (lm_scores){.count = hd->sequences * hd->heads,
                     .step = hd->length * hd->length,
                     .rows = rows,
                     .columns = first + rows,
                     .first = first,
                     .stride = hd->length,
                     .scale = hd->scale};
}

/* One product for each head. */
static void multiply(const heads *hd, lm_product product) {
  product.sequences = hd->sequences;
  product.heads = hd->heads;
  hd->device->kernels->product(hd->device, &product);
}

static lm_matrix as_is(const float *at, lm_steps steps) {
  return (lm_matrix){.at = at, .steps = steps};
}

static lm_matrix transposed(const float *at, lm_steps steps) {
  return (lm_matrix){.at = at, .steps = steps, .transposed = true};
}

static void heads_forward(const heads *hd, float *mixed) {
  const lm_steps in = hd->qkv_steps, out = hd->mixed_steps, score = hd->score_steps;
  for (int64_t first = 0; first < hd->length; first += BLOCK) {
    const lm_scores block = scores_of(hd, first);
    const int64_t rows = block.rows, seen = block.columns;
    float *const scores = hd->scores + first * hd->length;
    multiply(hd, (lm_product){.rows = rows,
                              .columns = seen,
                              .inner = hd->dim,
                              .a = as_is(hd->q + first * in.row, in),
                              .b = transposed(hd->k, in),
                              .out = scores,
                              .out_steps = score});
    hd->device->kernels->softmax(hd->device, &block, scores);
    multiply(hd, (lm_product){.rows = rows,
                              .columns = hd->dim,
                              .inner = seen,
                              .a = as_is(scores, score),
                              .b = as_is(hd->v, in),
                              .out = mixed + first * out.row,
                              .out_steps = out});
  }
}

void lm_attention(const lm_model *model, const lm_batch *batch, const lm_layer *layer) {
  const lm_config *const config = &model->config;
  for (int64_t b = 0; b < batch->batch; b += together(model, batch->batch)) {
    for (int64_t h = 0; h < config->heads; h += together(model, config->heads)) {
      const heads hd = heads_at(model, batch, layer, b, h);
      heads_forward(&hd, layer->mixed + b * hd.mixed_steps.sequence + h * hd.dim);
    }
  }
}

/* dq points at these heads' gradient of q; those of k and v follow as k and v follow q. */
static void heads_backward(const heads *hd, const float *dmixed, float *dq, float *dscores) {
  const lm_steps in = hd->qkv_steps, out = hd->mixed_steps, score = hd->score_steps;
  float *const dk = dq + (hd->k - hd->q);
  float *const dv = dq + (hd->v - hd->q);
  /* Last block first: it writes dk and dv of every row, the others add. */
  for (int64_t first = (hd->length - 1) / BLOCK * BLOCK; first >= 0; first -= BLOCK) {
    const lm_scores block = scores_of(hd, first);
    const int64_t rows = block.rows, seen = block.columns;
    const bool add = seen < hd->length;
    const float *const scores = hd->scores + first * hd->length;
    const float *const dout = dmixed + first * out.row;
    multiply(hd, (lm_product){.rows = seen,
                              .columns = hd->dim,
                              .inner = rows,
                              .a = transposed(scores, score),
                              .b = as_is(dout, out),
                              .out = dv,
                              .out_steps = in,
                              .add = add});
    multiply(hd, (lm_product){.rows = rows,
                              .columns = seen,
                              .inner = hd->dim,
                              .a = as_is(dout, out),
                              .b = transposed(hd->v, in),
                              .out = dscores,
                              .out_steps = score});
    hd->device->kernels->softmax_backward(hd->device, &block, scores, dscores);
    multiply(hd, (lm_product){.rows = rows,
                              .columns = hd->dim,
                              .inner = seen,
                              .a = as_is(dscores, score),
                              .b = as_is(hd->k, in),
                              .out = dq + first * in.row,
                              .out_steps = in});
    multiply(hd, (lm_product){.rows = seen,
                              .columns = hd->dim,
                              .inner = rows,
                              .a = transposed(dscores, score),
                              .b = as_is(hd->q + first * in.row, in),
                              .out = dk,
                              .out_steps = in,
                              .add = add});
  }
}

void lm_attention_backward(const lm_model *model, const lm_batch *batch, const lm_layer *layer,
                           const float *dmixed, float *dqkv) {
  const lm_config *const config = &model->config;
  for (int64_t b = 0; b < batch->batch; b += together(model, batch->batch)) {
    for (int64_t h = 0; h < config->heads; h += together(model, config->heads)) {
      const heads hd = heads_at(model, batch, layer, b, h);
      heads_backward(&hd, dmixed + b * hd.mixed_steps.sequence + h * hd.dim,
                     dqkv + b * hd.qkv_steps.sequence + h * hd.dim, model->dattention);
    }
  }
}
