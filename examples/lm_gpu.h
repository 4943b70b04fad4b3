/* What lm_device_cuda.cu (memory, streams, products) and lm_kernels_cuda.cu (all other arithmetic)
 * have in common. C++. */
#ifndef LM_GPU_H
#define LM_GPU_H

#include <cuda_runtime_api.h>

#include "lm_device.h"

/* Keeps the first failure in device->error; false where `code` is one. */
bool lm_gpu_passed(lm_device *device, cudaError_t code, const char *what);

/* Memory for what lies between two kernels of one operation: the next operation may overwrite it.
 * NULL with device->error where there is no more. */
void *lm_gpu_scratch(lm_device *device, size_t bytes);

/* Loads every kernel: loading may wait for all that runs, so it must not happen later, while
 * kernels of the optimizer wait for peers. */
void lm_gpu_load_kernels(lm_device *device);

/* Where each matrix of a product begins: pointers [3, sequences * heads], those of a, b and out. */
void lm_gpu_spread(lm_device *device, const lm_product *product, float **pointers);

/* Entries of the table. */
void lm_gpu_embed(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                  const float *table, float *out);
void lm_gpu_embed_backward(lm_device *device, int64_t rows, int64_t dim, const uint8_t *inputs,
                           const float *dout, float *dtable);
void lm_gpu_norm(lm_device *device, int64_t rows, int64_t dim, const float *x, const float *gain,
                 float *out, float *inverse);
void lm_gpu_norm_backward(lm_device *device, int64_t rows, int64_t dim, const lm_norm_grads *grads);
void lm_gpu_swiglu(lm_device *device, int64_t rows, int64_t hidden, const float *x, float *out);
void lm_gpu_swiglu_backward(lm_device *device, int64_t rows, int64_t hidden, const float *x,
                            const float *dout, float *dx);
void lm_gpu_rotate(lm_device *device, const lm_rotation *rotation, float *x);
void lm_gpu_softmax(lm_device *device, const lm_scores *scores, float *x);
void lm_gpu_softmax_backward(lm_device *device, const lm_scores *scores, const float *p, float *dx);
void lm_gpu_cross_entropy(lm_device *device, int64_t rows, int64_t classes, const uint8_t *targets,
                          float scale, float *logits, double *losses);
void lm_gpu_add_up(lm_device *device, int64_t numel, const double *values, double *total);
void lm_gpu_from_bf16(lm_device *device, int64_t numel, const uint16_t *from, float *to);
void lm_gpu_to_bf16(lm_device *device, int64_t numel, const float *from, uint16_t *to);

#endif
