/* In place of device_cuda.c where the library is built without CUDA. */
#include "device_ops.h"

zero1_status zero1__device_cuda_create(const zero1__device_config *config, zero1__device **device,
                                       zero1__error *error) {
  (void)config;
  *device = NULL;
  return zero1__fail(error, ZERO1_ERR_UNSUPPORTED,
                     "config.device is CUDA, and this library was built without CUDA");
}
