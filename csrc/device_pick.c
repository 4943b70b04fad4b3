/* Which device a configuration asks for. */
#include "device_ops.h"

zero1_status zero1__device_create(const zero1__device_config *config, zero1__device **device,
                                  zero1__error *error) {
  if (config->kind == ZERO1_DEVICE_CUDA) return zero1__device_cuda_create(config, device, error);
  return zero1__device_host_create(config->threads, device, error);
}
