/* The GPU's table: memory, a stream, and products by cuBLAS, in fp32 throughout. */
#include <cublas_v2.h>
#include <stdio.h>
#include <stdlib.h>

#include "lm_gpu.h"

namespace {

struct State {
  cublasHandle_t cublas;
  void *scratch;
  size_t scratch_bytes;
};

State *state_of(lm_device *device) {
  return (State *)device->state;
}

cudaStream_t stream_of(lm_device *device) {
  return (cudaStream_t)device->stream;
}

bool passed(lm_device *device, cublasStatus_t code, const char *what) {
  if (code == CUBLAS_STATUS_SUCCESS) return true;
  if (!device->error[0]) {
    snprintf(device->error, sizeof device->error, "cuBLAS: %s: %s", what,
             cublasGetStatusString(code));
  }
  return false;
}

/* ---- memory ---- */

void *gpu_alloc(lm_device *device, size_t bytes) {
  void *memory = NULL;
  const cudaError_t code = cudaMalloc(&memory, bytes);
  if (code == cudaSuccess) return memory;
  size_t free_bytes = 0, all_bytes = 0;
  cudaGetLastError(); /* no later call is to find this failure */
  cudaMemGetInfo(&free_bytes, &all_bytes);
  if (!device->error[0]) {
    snprintf(device->error, sizeof device->error,
             "CUDA: %s: %.1f MiB asked for, %.1f of the GPU's %.1f free", cudaGetErrorString(code),
             (double)bytes / (1 << 20), (double)free_bytes / (1 << 20),
             (double)all_bytes / (1 << 20));
  }
  return NULL;
}

void gpu_free(lm_device *device, void *memory) {
  lm_gpu_passed(device, cudaFree(memory), "free memory");
}

void gpu_zero(lm_device *device, void *to, size_t bytes) {
  lm_gpu_passed(device, cudaMemsetAsync(to, 0, bytes, stream_of(device)), "clear memory");
}

void gpu_copy(lm_device *device, void *to, const void *from, size_t bytes) {
  lm_gpu_passed(device,
                cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(device)),
                "copy");
}

/* Upload and download: whether CUDA itself waits for pageable memory depends on the machine. */
void copy_and_wait(lm_device *device, void *to, const void *from, size_t bytes,
                   cudaMemcpyKind kind) {
  lm_gpu_passed(device, cudaMemcpyAsync(to, from, bytes, kind, stream_of(device)), "copy");
  lm_gpu_passed(device, cudaStreamSynchronize(stream_of(device)), "wait");
}

void gpu_upload(lm_device *device, void *to, const void *from, size_t bytes) {
  copy_and_wait(device, to, from, bytes, cudaMemcpyHostToDevice);
}

void gpu_download(lm_device *device, void *to, const void *from, size_t bytes) {
  copy_and_wait(device, to, from, bytes, cudaMemcpyDeviceToHost);
}

/* ---- products ---- */

/* cuBLAS reads columns where we have rows: what it sees is out^T = b^T * a^T, so a and b change
 * places and everything else stays. */
void gpu_product(lm_device *device, const lm_product *p) {
  if (device->error[0]) return;
  const float one = 1.0f, beta = p->add ? 1.0f : 0.0f;
  const cublasHandle_t cublas = state_of(device)->cublas;
  const cublasOperation_t a_op = p->a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t b_op = p->b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int rows = (int)p->rows, columns = (int)p->columns, inner = (int)p->inner;
  const int a_row = (int)p->a.steps.row, b_row = (int)p->b.steps.row;
  const int out_row = (int)p->out_steps.row;
  const int64_t count = p->sequences * p->heads;
  if (count == 1) {
    passed(device,
           cublasSgemm(cublas, b_op, a_op, columns, rows, inner, &one, p->b.at, b_row, p->a.at,
                       a_row, &beta, p->out, out_row),
           "product");
    return;
  }
  float **const at = (float **)lm_gpu_scratch(device, (size_t)(3 * count) * sizeof(float *));
  if (!at) return;
  lm_gpu_spread(device, p, at);
  passed(device,
         cublasSgemmBatched(cublas, b_op, a_op, columns, rows, inner, &one, at + count, b_row, at,
                            a_row, &beta, at + 2 * count, out_row, (int)count),
         "products");
}

/* ---- its life ---- */

void gpu_close(lm_device *device) {
  State *const state = state_of(device);
  if (!state) return;
  if (state->cublas) cublasDestroy(state->cublas);
  if (state->scratch) cudaFree(state->scratch);
  if (device->stream) cudaStreamDestroy(stream_of(device));
  free(state);
}

/* In the order of lm_kernels. */
const lm_kernels gpu_kernels = {true,
                                gpu_close,
                                gpu_alloc,
                                gpu_free,
                                gpu_zero,
                                gpu_copy,
                                gpu_upload,
                                gpu_download,
                                gpu_product,
                                lm_gpu_embed,
                                lm_gpu_embed_backward,
                                lm_gpu_norm,
                                lm_gpu_norm_backward,
                                lm_gpu_swiglu,
                                lm_gpu_swiglu_backward,
                                lm_gpu_rotate,
                                lm_gpu_softmax,
                                lm_gpu_softmax_backward,
                                lm_gpu_cross_entropy,
                                lm_gpu_add_up,
                                lm_gpu_from_bf16,
                                lm_gpu_to_bf16};

bool open_cublas(lm_device *device) {
  cublasHandle_t *const cublas = &state_of(device)->cublas;
  return passed(device, cublasCreate(cublas), "create") &&
         passed(device, cublasSetStream(*cublas, stream_of(device)), "stream") &&
         passed(device, cublasSetMathMode(*cublas, CUBLAS_PEDANTIC_MATH), "math mode");
}

}  // namespace

bool lm_gpu_passed(lm_device *device, cudaError_t code, const char *what) {
  if (code == cudaSuccess) return true;
  if (!device->error[0]) {
    snprintf(device->error, sizeof device->error, "CUDA: %s: %s", what, cudaGetErrorString(code));
  }
  return false;
}

void *lm_gpu_scratch(lm_device *device, size_t bytes) {
  State *const state = state_of(device);
  if (bytes <= state->scratch_bytes) return state->scratch;
  if (state->scratch) gpu_free(device, state->scratch); /* waits for what still uses it */
  state->scratch = gpu_alloc(device, bytes);
  state->scratch_bytes = state->scratch ? bytes : 0;
  return state->scratch;
}

const char *lm_gpu_missing(void) {
  return NULL;
}

int32_t lm_gpu_count(char *error) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  int driver = 0; /* stays 0 where there is none, which CUDA calls too old a version */
  cudaDriverGetVersion(&driver);
  snprintf(error, LM_DEVICE_TEXT_BYTES, "no GPU: %s%s",
           driver ? "" : "no NVIDIA driver is loaded: ",
           cudaGetErrorString(code == cudaSuccess ? cudaErrorNoDevice : code));
  return 0;
}

void lm_gpu_name(int32_t index, char *name) {
  cudaDeviceProp about;
  const cudaError_t code = cudaGetDeviceProperties(&about, index);
  snprintf(name, LM_DEVICE_TEXT_BYTES, "%s",
           code == cudaSuccess ? about.name : cudaGetErrorString(code));
}

bool lm_gpu_open(lm_device *device, int32_t index) {
  device->kernels = &gpu_kernels;
  device->state = calloc(1, sizeof(State));
  if (!device->state) {
    snprintf(device->error, sizeof device->error, "out of memory");
    return false;
  }
  lm_gpu_name(index, device->name);
  if (!lm_gpu_passed(device, cudaSetDevice(index), "choose the GPU")) return false;
  cudaStream_t stream;
  if (!lm_gpu_passed(device, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream")) {
    return false;
  }
  device->stream = stream;
  if (!open_cublas(device)) return false;
  lm_gpu_load_kernels(device);
  return !device->error[0];
}
