/* What the language model computes with: memory and arithmetic of a device, as one table of
 * functions. lm_kernels.c has that of the host's processor, lm_device_cuda.cu that of a GPU;
 * forward and backward know neither.
 *
 * Tensors are row-major fp32 in the device's memory. Calls take effect in the order in which they
 * are made; but for upload and download they may return before they are done. A failure is kept in
 * device->error, and ends the pass. Safe for C++. */
#ifndef LM_KERNELS_H
#define LM_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lm_device lm_device;

/** From one row, sequence or head of a tensor to the next. */
typedef struct lm_steps {
  int64_t row, sequence, head;
} lm_steps;

/** A matrix that a product takes, or one for each sequence and head. */
typedef struct lm_matrix {
  const float *at;
  lm_steps steps;
  bool transposed; /* its rows lie in memory as columns */
} lm_matrix;

/** out [rows, columns] = a [rows, inner] * b [inner, columns], for each sequence and head. */
typedef struct lm_product {
  int64_t rows, columns, inner;
  lm_matrix a, b;
  float *out;
  lm_steps out_steps;
  bool add;                 /* to what is in out */
  int64_t sequences, heads; /* their numbers: 1 and 1 for a single product */
} lm_product;

/** What norm_backward takes. */
typedef struct lm_norm_grads {
  const float *x;       /* [rows, dim] as in forward */
  const float *gain;    /* [dim] */
  const float *inverse; /* [rows] from forward */
  const float *dout;    /* [rows, dim] */
  float *dx;            /* [rows, dim] added to */
  float *dgain;         /* [dim] added to */
} lm_norm_grads;

/** Pairs (x[j], x[j + half]) of every head are turned by the angle of the row's position. */
typedef struct lm_rotation {
  int64_t rows, length; /* row r has position r % length */
  int64_t heads, half,
      stride;         /* the first heads * 2 * half of a row's `stride` columns are turned */
  const float *table; /* [length, 2 * half] cosines, then sines */
  float sign;         /* 1: forward; -1: back again, which is also the gradient */
} lm_rotation;

/** `count` blocks of attention scores, `step` apart: [rows, columns] in rows of `stride`. Row i of
 *  a block sees its columns [0, first + i]. */
typedef struct lm_scores {
  int64_t count, step;
  int64_t rows, columns, first, stride;
  float scale;
} lm_scores;

/** The table. */
typedef struct lm_kernels {
  /** Many small products at once are faster than one after the other. */
  bool batched;

  void (*close)(lm_device *device);

  /** 64 bytes aligned; NULL where there is no more, with device->error. */
  void *(*alloc)(lm_device *device, size_t bytes);
  void (*free)(lm_device *device, void *memory);
  void (*zero)(lm_device *device, void *to, size_t bytes);
  void (*copy)(lm_device *device, void *to, const void *from, size_t bytes);
  /** From the host's memory; waits. */
  void (*upload)(lm_device *device, void *to, const void *from, size_t bytes);
  /** To the host's memory; waits for it and all that was asked for before. */
  void (*download)(lm_device *device, void *to, const void *from, size_t bytes);

  void (*product)(lm_device *device, const lm_product *product);

  /** out[r, :] = table[inputs[r], :]. [in] table [256, dim]   [out] out [rows, dim] */
  void (*embed)(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                const float *table, float *out);
  /** dtable[inputs[r], :] += dout[r, :] */
  void (*embed_backward)(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                         const float *dout, float *dtable);

  /** out[r, :] = x[r, :] * inverse[r] * gain, inverse[r] = 1 / sqrt(mean(x[r, :]^2) + 1e-5).
   *  [in] x [rows, dim]  gain [dim]   [out] out [rows, dim]  inverse [rows] */
  void (*norm)(lm_device *device, int64_t rows, int64_t dim, const float *x, const float *gain,
               float *out, float *inverse);
  void (*norm_backward)(lm_device *device, int64_t rows, int64_t dim, const lm_norm_grads *grads);

  /** SwiGLU: out[r, j] = silu(gate) * up, where gate = x[r, j] and up = x[r, hidden + j].
   *  [in] x [rows, 2 * hidden]   [out] out [rows, hidden] */
  void (*swiglu)(lm_device *device, int64_t rows, int64_t hidden, const float *x, float *out);
  /** [in] dout [rows, hidden]  x as in forward   [out] dx [rows, 2 * hidden] overwritten */
  void (*swiglu_backward)(lm_device *device, int64_t rows, int64_t hidden, const float *x,
                          const float *dout, float *dx);

  /** In place. */
  void (*rotate)(lm_device *device, const lm_rotation *rotation, float *x);

  /** Softmax of scaled scores, in place; columns that are not seen become 0. */
  void (*softmax)(lm_device *device, const lm_scores *scores, float *x);
  /** [in] p from softmax   [in,out] dx: gradient of p, becomes that of the unscaled scores */
  void (*softmax_backward)(lm_device *device, const lm_scores *scores, const float *p, float *dx);

  /** Cross entropy of each row against its target, in nats.
   *  [in,out] logits [rows, classes]; become (softmax - one_hot) * scale   [out] losses [rows] */
  void (*cross_entropy)(lm_device *device, int64_t rows, int64_t classes, const uint8_t *targets,
                        float scale, float *logits, double *losses);
  /** *total += the sum of `values`, in a fixed order. */
  void (*add_up)(lm_device *device, int64_t numel, const double *values, double *total);

  /** bf16, rounded to nearest even; a NaN stays one. */
  void (*from_bf16)(lm_device *device, int64_t numel, const uint16_t *from, float *to);
  void (*to_bf16)(lm_device *device, int64_t numel, const float *from, uint16_t *to);
} lm_kernels;

#ifdef __cplusplus
}
#endif

#endif
