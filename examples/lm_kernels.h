/* Elementwise and row-wise arithmetic of the language model, written so that compilers vectorise
 * it. Every tensor is row-major fp32. Functions named _backward add to what their comment says. */
#ifndef LM_KERNELS_H
#define LM_KERNELS_H

#include <stdint.h>

/** out[r, :] = x[r, :] * inverse[r] * gain, inverse[r] = 1 / sqrt(mean(x[r, :]^2) + 1e-5).
 *  [in] x [rows, dim]  gain [dim]   [out] out [rows, dim]  inverse [rows] */
void lm_norm(int64_t rows, int64_t dim, const float *x, const float *gain, float *out,
             float *inverse);

/** What lm_norm takes back. */
typedef struct lm_norm_grads {
  const float *x;       /* [rows, dim] as in forward */
  const float *gain;    /* [dim] */
  const float *inverse; /* [rows] from forward */
  const float *dout;    /* [rows, dim] */
  float *dx;            /* [rows, dim] added to */
  float *dgain;         /* [dim] added to */
} lm_norm_grads;

void lm_norm_backward(int64_t rows, int64_t dim, const lm_norm_grads *grads);

/** SwiGLU: out[r, j] = silu(gate) * up, where gate = x[r, j] and up = x[r, hidden + j].
 *  [in] x [rows, 2 * hidden]   [out] out [rows, hidden] */
void lm_swiglu(int64_t rows, int64_t hidden, const float *x, float *out);

/** [in] dout [rows, hidden]  x as in forward   [out] dx [rows, 2 * hidden] overwritten */
void lm_swiglu_backward(int64_t rows, int64_t hidden, const float *x, const float *dout, float *dx);

/** Turns pairs (x[j], x[j + half]) of every head by the angle of the row's position.
 *  [in,out] x      [rows, stride], of which the first heads * 2 * half columns are turned
 *  [in]     table  [length, 2 * half] cosines, then sines; row r has position r % length
 *  [in]     sign   1: forward; -1: back again, which is also the gradient */
void lm_rotate(int64_t rows, int64_t length, int64_t heads, int64_t half, const float *table,
               float sign, int64_t stride, float *x);

/** Causal softmax of scaled scores, in place: row i of the block sees columns [0, first + i].
 *  [in,out] x [rows, columns] with `stride`; columns that are not seen become 0 */
void lm_softmax(int64_t rows, int64_t columns, int64_t first, float scale, int64_t stride,
                float *x);

/** [in] p from lm_softmax   [in,out] dx: gradient of p, becomes that of the unscaled scores */
void lm_softmax_backward(int64_t rows, int64_t columns, float scale, int64_t stride, const float *p,
                         float *dx);

/** Cross entropy of each row against its target, in nats; returns the sum over rows.
 *  [in,out] logits [rows, classes]; become (softmax - one_hot) * scale */
double lm_cross_entropy(int64_t rows, int64_t classes, const uint8_t *targets, float scale,
                        float *logits);

/** bf16, rounded to nearest even; a NaN stays one. */
void lm_from_bf16(int64_t numel, const uint16_t *from, float *to);
void lm_to_bf16(int64_t numel, const float *from, uint16_t *to);

#endif
