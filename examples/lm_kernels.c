/* The host's table: row-wise arithmetic written so that compilers vectorise it, products by BLAS.
 */
#include "lm_kernels.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lm_device.h"

/* One build runs well on every x86-64: the loader picks a function's version for this processor.
 * (Sanitizers cannot yet run when the loader calls the pickers.) */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  #define LM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
  #define LM_CLONES
#endif

/* exp(x) within 2 units in the last place for x in [-87, 88], clamped outside: 2^n * e^r with n
 * the nearest integer to x / ln 2 and a polynomial for |r| <= ln(2) / 2. No branch and no table, so
 * that loops around it vectorise; expf does not. */
static inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifter = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
  const float shifted = x * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits; /* n stands in the lowest bits of shifted; move it to the exponent */
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
}

/* ---- memory ---- */

static void close_host(lm_device *device) {
  (void)device;
}

static void *alloc_host(lm_device *device, size_t bytes) {
  void *const memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) {
    snprintf(device->error, sizeof device->error, "no memory: %.1f MiB asked for",
             (double)bytes / (1 << 20));
  }
  return memory;
}

static void free_host(lm_device *device, void *memory) {
  (void)device;
  free(memory);
}

static void zero(lm_device *device, void *to, size_t bytes) {
  (void)device;
  memset(to, 0, bytes);
}

static void copy(lm_device *device, void *to, const void *from, size_t bytes) {
  (void)device;
  memcpy(to, from, bytes);
}

/* ---- products ---- */

static void product(lm_device *device, const lm_product *p) {
  (void)device;
  const lm_matrix *const a = &p->a, *const b = &p->b;
  for (int64_t i = 0; i < p->sequences; ++i) {
    for (int64_t j = 0; j < p->heads; ++j) {
      cblas_sgemm(CblasRowMajor, a->transposed ? CblasTrans : CblasNoTrans,
                  b->transposed ? CblasTrans : CblasNoTrans, (int)p->rows, (int)p->columns,
                  (int)p->inner, 1.0f, a->at + i * a->steps.sequence + j * a->steps.head,
                  (int)a->steps.row, b->at + i * b->steps.sequence + j * b->steps.head,
                  (int)b->steps.row, p->add ? 1.0f : 0.0f,
                  p->out + i * p->out_steps.sequence + j * p->out_steps.head,
                  (int)p->out_steps.row);
    }
  }
}

/* ---- rows ---- */

static void embed(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                  const float *table, float *out) {
  (void)device;
  for (int64_t r = 0; r < rows; ++r) {
    memcpy(out + r * dim, table + inputs[r] * dim, (size_t)dim * sizeof(float));
  }
}

LM_CLONES
static void embed_backward(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                           const float *dout, float *dtable) {
  (void)device;
  for (int64_t r = 0; r < rows; ++r) {
    float *restrict const to = dtable + inputs[r] * dim;
    const float *const from = dout + r * dim;
    for (int64_t j = 0; j < dim; ++j) to[j] += from[j];
  }
}

LM_CLONES
static void norm(lm_device *device, int64_t rows, int64_t dim, const float *x, const float *gain,
                 float *out, float *inverse) {
  (void)device;
  for (int64_t r = 0; r < rows; ++r) {
    const float *const xr = x + r * dim;
    float *restrict const out_r = out + r * dim;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < dim; ++j) squares += xr[j] * xr[j];
    const float scale = 1.0f / sqrtf(squares / (float)dim + 1e-5f);
    inverse[r] = scale;
    for (int64_t j = 0; j < dim; ++j) out_r[j] = xr[j] * scale * gain[j];
  }
}

LM_CLONES
static void norm_backward(lm_device *device, int64_t rows, int64_t dim,
                          const lm_norm_grads *grads) {
  (void)device;
  const float *const gain = grads->gain;
  float *restrict const dgain = grads->dgain;
  for (int64_t r = 0; r < rows; ++r) {
    const float *const x = grads->x + r * dim;
    const float *const dout = grads->dout + r * dim;
    float *restrict const dx = grads->dx + r * dim;
    const float scale = grads->inverse[r];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < dim; ++j) dot += dout[j] * gain[j] * x[j];
    const float back = dot * scale * scale * scale / (float)dim;
    for (int64_t j = 0; j < dim; ++j) {
      dgain[j] += dout[j] * x[j] * scale;
      dx[j] += dout[j] * gain[j] * scale - x[j] * back;
    }
  }
}

LM_CLONES
static void swiglu(lm_device *device, int64_t rows, int64_t hidden, const float *x, float *out) {
  (void)device;
  for (int64_t r = 0; r < rows; ++r) {
    const float *const gate = x + r * 2 * hidden;
    const float *const up = gate + hidden;
    float *restrict const out_r = out + r * hidden;
#pragma omp simd
    for (int64_t j = 0; j < hidden; ++j) {
      out_r[j] = gate[j] * up[j] / (1.0f + fast_exp(-gate[j]));
    }
  }
}

LM_CLONES
static void swiglu_backward(lm_device *device, int64_t rows, int64_t hidden, const float *x,
                            const float *dout, float *dx) {
  (void)device;
  for (int64_t r = 0; r < rows; ++r) {
    const float *const gate = x + r * 2 * hidden;
    const float *const up = gate + hidden;
    const float *const dout_r = dout + r * hidden;
    float *restrict const dgate = dx + r * 2 * hidden;
    float *restrict const dup = dgate + hidden;
#pragma omp simd
    for (int64_t j = 0; j < hidden; ++j) {
      const float sigmoid = 1.0f / (1.0f + fast_exp(-gate[j]));
      const float silu = gate[j] * sigmoid;
      dup[j] = dout_r[j] * silu;
      dgate[j] = dout_r[j] * up[j] * (sigmoid + silu * (1.0f - sigmoid));
    }
  }
}

LM_CLONES
static void rotate(lm_device *device, const lm_rotation *rotation, float *x) {
  (void)device;
  const int64_t half = rotation->half;
  const float sign = rotation->sign;
  for (int64_t r = 0; r < rotation->rows; ++r) {
    const float *const cosine = rotation->table + r % rotation->length * 2 * half;
    const float *const sine = cosine + half;
    for (int64_t head = 0; head < rotation->heads; ++head) {
      float *restrict const a = x + r * rotation->stride + head * 2 * half;
      float *restrict const b = a + half;
#pragma omp simd
      for (int64_t j = 0; j < half; ++j) {
        const float turned = a[j] * cosine[j] - b[j] * sine[j] * sign;
        b[j] = b[j] * cosine[j] + a[j] * sine[j] * sign;
        a[j] = turned;
      }
    }
  }
}

/* One row, of which `seen` columns take part. */
static inline void softmax_row(int64_t columns, int64_t seen, float scale, float *restrict row) {
  float top = row[0];
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < seen; ++j) top = row[j] > top ? row[j] : top;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < seen; ++j) {
    row[j] = fast_exp((row[j] - top) * scale);
    sum += row[j];
  }
  const float inverse = 1.0f / sum;
  for (int64_t j = 0; j < seen; ++j) row[j] *= inverse;
  for (int64_t j = seen; j < columns; ++j) row[j] = 0;
}

LM_CLONES
static void softmax(lm_device *device, const lm_scores *scores, float *x) {
  (void)device;
  for (int64_t i = 0; i < scores->count; ++i) {
    for (int64_t r = 0; r < scores->rows; ++r) {
      softmax_row(scores->columns, scores->first + r + 1, scores->scale,
                  x + i * scores->step + r * scores->stride);
    }
  }
}

static inline void softmax_backward_row(int64_t columns, float scale, const float *p,
                                        float *restrict dx) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t j = 0; j < columns; ++j) dot += p[j] * dx[j];
  for (int64_t j = 0; j < columns; ++j) dx[j] = p[j] * (dx[j] - dot) * scale;
}

LM_CLONES
static void softmax_backward(lm_device *device, const lm_scores *scores, const float *p,
                             float *dx) {
  (void)device;
  for (int64_t i = 0; i < scores->count; ++i) {
    for (int64_t r = 0; r < scores->rows; ++r) {
      const int64_t at = i * scores->step + r * scores->stride;
      softmax_backward_row(scores->columns, scores->scale, p + at, dx + at);
    }
  }
}

LM_CLONES
static void cross_entropy(lm_device *device, int64_t rows, int64_t classes, const uint8_t *targets,
                          float scale, float *logits, double *losses) {
  (void)device;
  for (int64_t r = 0; r < rows; ++r) {
    float *restrict const row = logits + r * classes;
    const float wanted = row[targets[r]];
    float top = row[0];
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < classes; ++j) top = row[j] > top ? row[j] : top;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < classes; ++j) {
      row[j] = fast_exp(row[j] - top);
      sum += row[j];
    }
    losses[r] = log((double)sum) + (double)top - (double)wanted;
    const float inverse = scale / sum;
    for (int64_t j = 0; j < classes; ++j) row[j] *= inverse;
    row[targets[r]] -= scale;
  }
}

static void add_up(lm_device *device, int64_t numel, const double *values, double *total) {
  (void)device;
  for (int64_t i = 0; i < numel; ++i) *total += values[i];
}

LM_CLONES
static void from_bf16(lm_device *device, int64_t numel, const uint16_t *from, float *to) {
  (void)device;
  for (int64_t i = 0; i < numel; ++i) {
    const uint32_t bits = (uint32_t)from[i] << 16;
    memcpy(to + i, &bits, sizeof bits);
  }
}

LM_CLONES
static void to_bf16(lm_device *device, int64_t numel, const float *from, uint16_t *to) {
  (void)device;
  for (int64_t i = 0; i < numel; ++i) {
    uint32_t bits;
    memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const int is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to[i] = (uint16_t)(is_nan ? (bits >> 16 | 0x40u) : rounded);
  }
}

static const lm_kernels host_kernels = {
    .batched = false,
    .close = close_host,
    .alloc = alloc_host,
    .free = free_host,
    .zero = zero,
    .copy = copy,
    .upload = copy,
    .download = copy,
    .product = product,
    .embed = embed,
    .embed_backward = embed_backward,
    .norm = norm,
    .norm_backward = norm_backward,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .rotate = rotate,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .cross_entropy = cross_entropy,
    .add_up = add_up,
    .from_bf16 = from_bf16,
    .to_bf16 = to_bf16,
};

void lm_host_open(lm_device *device) {
  device->kernels = &host_kernels;
}
