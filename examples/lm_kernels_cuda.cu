/* The GPU's arithmetic but for products. Sums have a fixed order and nothing is added atomically: a
 * run repeats bit for bit. Elementwise kernels have a thread per element, the others a thread block
 * per row. */
#include <math.h>

#include "lm_gpu.h"

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

/* ---- sums and maxima over a thread block ---- */

struct Plus {
  template <typename T>
  __device__ T operator()(T left, T right) const {
    return left + right;
  }
};

struct Larger {
  __device__ float operator()(float left, float right) const { return fmaxf(left, right); }
};

/* The same result in every thread. */
template <typename T, typename Op>
__device__ T over_block(T value, Op op) {
  __shared__ T of_warp[kWarps];
  for (int step = 16; step > 0; step /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  __syncthreads(); /* all have read what the call before left */
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warp[0];
  for (int w = 1; w < kWarps; ++w) value = op(value, of_warp[w]);
  return value;
}

__device__ int64_t my_element() {
  return (int64_t)blockIdx.x * kThreads + threadIdx.x;
}

/* ---- embedding ---- */

__global__ void embed(int64_t numel, int64_t dim, const uint8_t *inputs, const float *table,
                      float *out) {
  const int64_t i = my_element();
  if (i < numel) out[i] = table[inputs[i / dim] * dim + i % dim];
}

/* A thread block adds up the rows that hold one byte, kThreads columns of them. */
__global__ void embed_backward(int64_t rows, int64_t dim, const uint8_t *inputs, const float *dout,
                               float *dtable) {
  __shared__ int found[kThreads]; /* rows with that byte, in order, counted from `begin` */
  __shared__ int of_warp[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (int64_t)blockIdx.y * kThreads + threadIdx.x;
  float sum = 0;
  for (int64_t begin = 0; begin < rows; begin += kThreads) {
    const int64_t row = begin + threadIdx.x;
    const bool mine = row < rows && inputs[row] == blockIdx.x;
    const unsigned votes = __ballot_sync(0xffffffffu, mine);
    if (lane == 0) of_warp[warp] = __popc(votes);
    __syncthreads();
    int place = __popc(votes & ((1u << lane) - 1)), count = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) place += of_warp[w];
      count += of_warp[w];
    }
    if (mine) found[place] = (int)threadIdx.x;
    __syncthreads();
    if (column >= dim) continue;
#pragma unroll 8
    for (int i = 0; i < count; ++i) sum += dout[(begin + found[i]) * dim + column];
  }
  if (column < dim) dtable[blockIdx.x * dim + column] += sum;
}

/* ---- norm ---- */

__global__ void rms_norm(int64_t dim, const float *x, const float *gain, float *out,
                         float *inverse) {
  const float *const row = x + blockIdx.x * dim;
  float squares = 0;
  for (int64_t j = threadIdx.x; j < dim; j += kThreads) squares += row[j] * row[j];
  squares = over_block(squares, Plus());
  const float scale = 1.0f / sqrtf(squares / (float)dim + 1e-5f);
  if (threadIdx.x == 0) inverse[blockIdx.x] = scale;
  for (int64_t j = threadIdx.x; j < dim; j += kThreads) {
    out[blockIdx.x * dim + j] = row[j] * scale * gain[j];
  }
}

__global__ void rms_norm_backward(int64_t dim, lm_norm_grads grads) {
  const float *const x = grads.x + blockIdx.x * dim;
  const float *const dout = grads.dout + blockIdx.x * dim;
  float *const dx = grads.dx + blockIdx.x * dim;
  const float scale = grads.inverse[blockIdx.x];
  float dot = 0;
  for (int64_t j = threadIdx.x; j < dim; j += kThreads) dot += dout[j] * grads.gain[j] * x[j];
  dot = over_block(dot, Plus());
  const float back = dot * scale * scale * scale / (float)dim;
  for (int64_t j = threadIdx.x; j < dim; j += kThreads) {
    dx[j] += dout[j] * grads.gain[j] * scale - x[j] * back;
  }
}

/* The gain's gradient is a sum over all rows: every thread block takes kGainRows of them first. */
constexpr int kGainRows = 64;

__global__ void gain_backward(int64_t rows, int64_t dim, lm_norm_grads grads, float *parts) {
  const int64_t column = (int64_t)blockIdx.y * kThreads + threadIdx.x;
  if (column >= dim) return;
  const int64_t begin = (int64_t)blockIdx.x * kGainRows;
  const int64_t end = begin + kGainRows < rows ? begin + kGainRows : rows;
  float sum = 0;
#pragma unroll 8
  for (int64_t r = begin; r < end; ++r) {
    sum += grads.dout[r * dim + column] * grads.x[r * dim + column] * grads.inverse[r];
  }
  parts[blockIdx.x * dim + column] = sum;
}

__global__ void add_gain_parts(int64_t count, int64_t dim, const float *parts, float *dgain) {
  const int64_t column = my_element();
  if (column >= dim) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t i = 0; i < count; ++i) sum += parts[i * dim + column];
  dgain[column] += sum;
}

/* ---- SwiGLU ---- */

__global__ void swiglu(int64_t numel, int64_t hidden, const float *x, float *out) {
  const int64_t i = my_element();
  if (i >= numel) return;
  const float *const at = x + i / hidden * 2 * hidden + i % hidden;
  const float gate = at[0], up = at[hidden];
  out[i] = gate * up / (1.0f + expf(-gate));
}

__global__ void swiglu_backward(int64_t numel, int64_t hidden, const float *x, const float *dout,
                                float *dx) {
  const int64_t i = my_element();
  if (i >= numel) return;
  const int64_t at = i / hidden * 2 * hidden + i % hidden;
  const float gate = x[at], up = x[at + hidden];
  const float sigmoid = 1.0f / (1.0f + expf(-gate));
  const float silu = gate * sigmoid;
  dx[at + hidden] = dout[i] * silu;
  dx[at] = dout[i] * up * (sigmoid + silu * (1.0f - sigmoid));
}

/* ---- attention ---- */

__global__ void rotate(lm_rotation rotation, float *x) {
  const int64_t i = my_element(), half = rotation.half, pairs = rotation.heads * half;
  if (i >= rotation.rows * pairs) return;
  const int64_t row = i / pairs, head = i % pairs / half, j = i % half;
  const float *const turn = rotation.table + row % rotation.length * 2 * half + j;
  const float cosine = turn[0], sine = turn[half] * rotation.sign;
  float *const at = x + row * rotation.stride + head * 2 * half + j;
  const float a = at[0], b = at[half];
  at[0] = a * cosine - b * sine;
  at[half] = b * cosine + a * sine;
}

/* Where this thread block's row begins: blocks count the rows of all score blocks. */
__device__ int64_t my_scores(const lm_scores &scores) {
  return blockIdx.x / scores.rows * scores.step + blockIdx.x % scores.rows * scores.stride;
}

__global__ void softmax(lm_scores scores, float *x) {
  float *const row = x + my_scores(scores);
  const int64_t seen = scores.first + blockIdx.x % scores.rows + 1;
  float top = row[0];
  for (int64_t j = threadIdx.x; j < seen; j += kThreads) top = fmaxf(top, row[j]);
  top = over_block(top, Larger());
  float sum = 0;
  for (int64_t j = threadIdx.x; j < seen; j += kThreads) {
    row[j] = expf((row[j] - top) * scores.scale);
    sum += row[j];
  }
  const float inverse = 1.0f / over_block(sum, Plus());
  for (int64_t j = threadIdx.x; j < scores.columns; j += kThreads) {
    row[j] = j < seen ? row[j] * inverse : 0.0f;
  }
}

__global__ void softmax_backward(lm_scores scores, const float *p, float *dx) {
  const int64_t at = my_scores(scores);
  float dot = 0;
  for (int64_t j = threadIdx.x; j < scores.columns; j += kThreads) dot += p[at + j] * dx[at + j];
  dot = over_block(dot, Plus());
  for (int64_t j = threadIdx.x; j < scores.columns; j += kThreads) {
    dx[at + j] = p[at + j] * (dx[at + j] - dot) * scores.scale;
  }
}

__global__ void spread(lm_product product, float **pointers) {
  const int64_t i = my_element(), count = product.sequences * product.heads;
  if (i >= count) return;
  const int64_t sequence = i / product.heads, head = i % product.heads;
  const lm_steps a = product.a.steps, b = product.b.steps, out = product.out_steps;
  pointers[i] = const_cast<float *>(product.a.at) + sequence * a.sequence + head * a.head;
  pointers[count + i] = const_cast<float *>(product.b.at) + sequence * b.sequence + head * b.head;
  pointers[2 * count + i] = product.out + sequence * out.sequence + head * out.head;
}

/* ---- loss ---- */

__global__ void cross_entropy(int64_t classes, const uint8_t *targets, float scale, float *logits,
                              double *losses) {
  float *const row = logits + blockIdx.x * classes;
  const int target = targets[blockIdx.x];
  const float wanted = row[target];
  float top = row[0];
  for (int64_t j = threadIdx.x; j < classes; j += kThreads) top = fmaxf(top, row[j]);
  top = over_block(top, Larger()); /* after it no thread reads another's element */
  float sum = 0;
  for (int64_t j = threadIdx.x; j < classes; j += kThreads) {
    row[j] = expf(row[j] - top);
    sum += row[j];
  }
  sum = over_block(sum, Plus());
  if (threadIdx.x == 0) losses[blockIdx.x] = log((double)sum) + (double)top - (double)wanted;
  const float inverse = scale / sum;
  for (int64_t j = threadIdx.x; j < classes; j += kThreads) {
    row[j] = row[j] * inverse - (j == target ? scale : 0.0f);
  }
}

__global__ void add_up(int64_t numel, const double *values, double *total) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < numel; i += kThreads) sum += values[i];
  sum = over_block(sum, Plus());
  if (threadIdx.x == 0) *total += sum;
}

/* ---- bf16 ---- */

__global__ void from_bf16(int64_t numel, const uint16_t *from, float *to) {
  const int64_t i = my_element();
  if (i < numel) to[i] = __uint_as_float((uint32_t)from[i] << 16);
}

__global__ void to_bf16(int64_t numel, const float *from, uint16_t *to) {
  const int64_t i = my_element();
  if (i >= numel) return;
  const uint32_t bits = __float_as_uint(from[i]);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to[i] = (uint16_t)(is_nan ? (bits >> 16 | 0x40u) : rounded);
}

/* ---- launches ---- */

int64_t pieces(int64_t numel, int64_t piece) {
  return (numel + piece - 1) / piece;
}

/* columns and rows of thread blocks; none of either: nothing to do */
template <typename... Parameters, typename... Arguments>
void launch(lm_device *device, void (*kernel)(Parameters...), int64_t across, int64_t down,
            Arguments... arguments) {
  if (across == 0 || down == 0 || device->error[0]) return;
  const dim3 grid((unsigned)across, (unsigned)down);
  kernel<<<grid, kThreads, 0, (cudaStream_t)device->stream>>>(arguments...);
  lm_gpu_passed(device, cudaGetLastError(), "a kernel");
}

}  // namespace

void lm_gpu_load_kernels(lm_device *device) {
  const void *const kernels[] = {(const void *)embed,
                                 (const void *)embed_backward,
                                 (const void *)rms_norm,
                                 (const void *)rms_norm_backward,
                                 (const void *)gain_backward,
                                 (const void *)add_gain_parts,
                                 (const void *)swiglu,
                                 (const void *)swiglu_backward,
                                 (const void *)rotate,
                                 (const void *)softmax,
                                 (const void *)softmax_backward,
                                 (const void *)spread,
                                 (const void *)cross_entropy,
                                 (const void *)add_up,
                                 (const void *)from_bf16,
                                 (const void *)to_bf16};
  for (const void *kernel : kernels) {
    cudaFuncAttributes attributes;
    if (!lm_gpu_passed(device, cudaFuncGetAttributes(&attributes, kernel), "load a kernel")) return;
  }
}

void lm_gpu_spread(lm_device *device, const lm_product *product, float **pointers) {
  launch(device, spread, pieces(product->sequences * product->heads, kThreads), 1, *product,
         pointers);
}

void lm_gpu_embed(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                  const float *table, float *out) {
  launch(device, embed, pieces(rows * dim, kThreads), 1, rows * dim, dim, inputs, table, out);
}

void lm_gpu_embed_backward(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                           const float *dout, float *dtable) {
  launch(device, embed_backward, 256, pieces(dim, kThreads), rows, dim, inputs, dout, dtable);
}

void lm_gpu_norm(lm_device *device, int64_t rows, int64_t dim, const float *x, const float *gain,
                 float *out, float *inverse) {
  launch(device, rms_norm, rows, 1, dim, x, gain, out, inverse);
}

void lm_gpu_norm_backward(lm_device *device, int64_t rows, int64_t dim,
                          const lm_norm_grads *grads) {
  const int64_t parts = pieces(rows, kGainRows);
  float *const sums = (float *)lm_gpu_scratch(device, (size_t)(parts * dim) * sizeof(float));
  if (!sums) return;
  launch(device, gain_backward, parts, pieces(dim, kThreads), rows, dim, *grads, sums);
  launch(device, add_gain_parts, pieces(dim, kThreads), 1, parts, dim, sums, grads->dgain);
  launch(device, rms_norm_backward, rows, 1, dim, *grads);
}

void lm_gpu_swiglu(lm_device *device, int64_t rows, int64_t hidden, const float *x, float *out) {
  launch(device, swiglu, pieces(rows * hidden, kThreads), 1, rows * hidden, hidden, x, out);
}

void lm_gpu_swiglu_backward(lm_device *device, int64_t rows, int64_t hidden, const float *x,
                            const float *dout, float *dx) {
  launch(device, swiglu_backward, pieces(rows * hidden, kThreads), 1, rows * hidden, hidden, x,
         dout, dx);
}

void lm_gpu_rotate(lm_device *device, const lm_rotation *rotation, float *x) {
  const int64_t pairs = rotation->rows * rotation->heads * rotation->half;
  launch(device, rotate, pieces(pairs, kThreads), 1, *rotation, x);
}

void lm_gpu_softmax(lm_device *device, const lm_scores *scores, float *x) {
  launch(device, softmax, scores->count * scores->rows, 1, *scores, x);
}

void lm_gpu_softmax_backward(lm_device *device, const lm_scores *scores, const float *p,
                             float *dx) {
  launch(device, softmax_backward, scores->count * scores->rows, 1, *scores, p, dx);
}

void lm_gpu_cross_entropy(lm_device *device, int64_t rows, int64_t classes, const uint8_t *targets,
                          float scale, float *logits, double *losses) {
  launch(device, cross_entropy, rows, 1, classes, targets, scale, logits, losses);
}

void lm_gpu_add_up(lm_device *device, int64_t numel, const double *values, double *total) {
  launch(device, add_up, 1, 1, numel, values, total);
}

void lm_gpu_from_bf16(lm_device *device, int64_t numel, const uint16_t *from, float *to) {
  launch(device, from_bf16, pieces(numel, kThreads), 1, numel, from, to);
}

void lm_gpu_to_bf16(lm_device *device, int64_t numel, const float *from, uint16_t *to) {
  launch(device, to_bf16, pieces(numel, kThreads), 1, numel, from, to);
}
