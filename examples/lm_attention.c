/* Causal attention, one (sequence, head) after the other, by matrix products that step over the
 * interleaved queries, keys and values: row r of qkv is [queries of all heads | keys | values].
 *
 * Rows are taken in blocks of BLOCK, as no row sees a later one: the rows [64, 128) of a sequence
 * of 256 need the columns [0, 128) only, so that 10 of 16 blocks of scores are computed. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "lm_kernels.h"
#include "lm_model.h"

enum { BLOCK = 64 };

/* One head of one sequence. All are [length, head_dim] inside rows of `stride`, but `scores`. */
typedef struct head {
  int64_t length, dim, stride;
  float scale;
  const float *q, *k, *v;
  float *scores; /* [length, length] */
} head;

static head head_at(const lm_config *config, int64_t length, const lm_layer *layer, int64_t b,
                    int64_t h) {
  const int64_t dim = config->dim / config->heads;
  const int64_t stride = 3 * config->dim;
  const float *const q = layer->qkv + b * length * stride + h * dim;
  return (head){.length = length,
                .dim = dim,
                .stride = stride,
                .scale = 1.0f / sqrtf((float)dim),
                .q = q,
                .k = q + config->dim,
                .v = q + 2 * config->dim,
                .scores = layer->attention + (b * config->heads + h) * length * length};
}

/* out [rows, columns] = a * b, by leading dimensions; a or b transposed; beta 0 or 1. */
static void product(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t rows, int64_t columns,
                    int64_t inner, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *out, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, (int)rows, (int)columns, (int)inner, 1.0f, a, (int)lda, b,
              (int)ldb, beta, out, (int)ldc);
}

static void head_forward(const head *hd, float *mixed, int64_t mixed_stride) {
  for (int64_t first = 0; first < hd->length; first += BLOCK) {
    const int64_t rows = hd->length - first < BLOCK ? hd->length - first : BLOCK;
    const int64_t seen = first + rows;
    float *const scores = hd->scores + first * hd->length;
    product(CblasNoTrans, CblasTrans, rows, seen, hd->dim, hd->q + first * hd->stride, hd->stride,
            hd->k, hd->stride, 0.0f, scores, hd->length);
    lm_softmax(rows, seen, first, hd->scale, hd->length, scores);
    product(CblasNoTrans, CblasNoTrans, rows, hd->dim, seen, scores, hd->length, hd->v, hd->stride,
            0.0f, mixed + first * mixed_stride, mixed_stride);
  }
}

void lm_attention(const lm_config *config, int64_t batch, int64_t length, lm_layer *layer) {
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < config->heads; ++h) {
      const head hd = head_at(config, length, layer, b, h);
      head_forward(&hd, layer->mixed + b * length * config->dim + h * hd.dim, config->dim);
    }
  }
}

/* dq points at this head's gradient of q; those of k and v follow as k and v follow q. */
static void head_backward(const head *hd, const float *dmixed, int64_t mixed_stride, float *dq,
                          float *dscores) {
  float *const dk = dq + (hd->k - hd->q);
  float *const dv = dq + (hd->v - hd->q);
  /* Last block first: it writes dk and dv of every row, the others add. */
  for (int64_t first = (hd->length - 1) / BLOCK * BLOCK; first >= 0; first -= BLOCK) {
    const int64_t rows = hd->length - first < BLOCK ? hd->length - first : BLOCK;
    const int64_t seen = first + rows;
    const float beta = seen == hd->length ? 0.0f : 1.0f;
    const float *const scores = hd->scores + first * hd->length;
    const float *const dout = dmixed + first * mixed_stride;
    product(CblasTrans, CblasNoTrans, seen, hd->dim, rows, scores, hd->length, dout, mixed_stride,
            beta, dv, hd->stride);
    product(CblasNoTrans, CblasTrans, rows, seen, hd->dim, dout, mixed_stride, hd->v, hd->stride,
            0.0f, dscores, hd->length);
    lm_softmax_backward(rows, seen, hd->scale, hd->length, scores, dscores);
    product(CblasNoTrans, CblasNoTrans, rows, hd->dim, seen, dscores, hd->length, hd->k, hd->stride,
            0.0f, dq + first * hd->stride, hd->stride);
    product(CblasTrans, CblasNoTrans, seen, hd->dim, rows, dscores, hd->length,
            hd->q + first * hd->stride, hd->stride, beta, dk, hd->stride);
  }
}

void lm_attention_backward(const lm_config *config, int64_t batch, int64_t length,
                           const lm_layer *layer, const float *dmixed, float *dqkv,
                           float *dscores) {
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < config->heads; ++h) {
      const head hd = head_at(config, length, layer, b, h);
      head_backward(&hd, dmixed + b * length * config->dim + h * hd.dim, config->dim,
                    dqkv + b * length * hd.stride + h * hd.dim, dscores);
    }
  }
}
