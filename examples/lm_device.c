#include "lm_device.h"

bool lm_device_open(lm_device *device, int32_t kind, int32_t index) {
  *device = (lm_device){.kind = kind};
  if (kind == LM_DEVICE_HOST) {
    lm_host_open(device);
    return true;
  }
  const int32_t count = lm_gpu_count(device->error);
  if (count == 0) return false;
  device->index = index % count;
  return lm_gpu_open(device, device->index);
}

void lm_device_close(lm_device *device) {
  if (device->kernels) device->kernels->close(device);
  *device = (lm_device){0};
}
