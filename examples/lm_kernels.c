#include "lm_kernels.h"

#include <math.h>
#include <string.h>

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

LM_CLONES
void lm_norm(int64_t rows, int64_t dim, const float *x, const float *gain, float *out,
             float *inverse) {
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
void lm_norm_backward(int64_t rows, int64_t dim, const lm_norm_grads *grads) {
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
void lm_swiglu(int64_t rows, int64_t hidden, const float *x, float *out) {
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
void lm_swiglu_backward(int64_t rows, int64_t hidden, const float *x, const float *dout,
                        float *dx) {
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
void lm_rotate(int64_t rows, int64_t length, int64_t heads, int64_t half, const float *table,
               float sign, int64_t stride, float *x) {
  for (int64_t r = 0; r < rows; ++r) {
    const float *const cosine = table + r % length * 2 * half;
    const float *const sine = cosine + half;
    for (int64_t head = 0; head < heads; ++head) {
      float *restrict const a = x + r * stride + head * 2 * half;
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

LM_CLONES
void lm_softmax(int64_t rows, int64_t columns, int64_t first, float scale, int64_t stride,
                float *x) {
  for (int64_t r = 0; r < rows; ++r) {
    float *restrict const row = x + r * stride;
    const int64_t seen = first + r + 1;
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
}

LM_CLONES
void lm_softmax_backward(int64_t rows, int64_t columns, float scale, int64_t stride, const float *p,
                         float *dx) {
  for (int64_t r = 0; r < rows; ++r) {
    const float *const p_r = p + r * stride;
    float *restrict const dx_r = dx + r * stride;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < columns; ++j) dot += p_r[j] * dx_r[j];
    for (int64_t j = 0; j < columns; ++j) dx_r[j] = p_r[j] * (dx_r[j] - dot) * scale;
  }
}

LM_CLONES
double lm_cross_entropy(int64_t rows, int64_t classes, const uint8_t *targets, float scale,
                        float *logits) {
  double loss = 0;
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
    loss += log((double)sum) + (double)top - (double)wanted;
    const float inverse = scale / sum;
    for (int64_t j = 0; j < classes; ++j) row[j] *= inverse;
    row[targets[r]] -= scale;
  }
  return loss;
}

LM_CLONES
void lm_from_bf16(int64_t numel, const uint16_t *from, float *to) {
  for (int64_t i = 0; i < numel; ++i) {
    const uint32_t bits = (uint32_t)from[i] << 16;
    memcpy(to + i, &bits, sizeof bits);
  }
}

LM_CLONES
void lm_to_bf16(int64_t numel, const float *from, uint16_t *to) {
  for (int64_t i = 0; i < numel; ++i) {
    uint32_t bits;
    memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const int is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to[i] = (uint16_t)(is_nan ? (bits >> 16 | 0x40u) : rounded);
  }
}
