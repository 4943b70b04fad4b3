/* In place of lm_device_cuda.cu where CUDA or cuBLAS is not there: LM_GPU_MISSING says which. */
#include <stdio.h>

#include "lm_device.h"

const char *lm_gpu_missing(void) {
  return LM_GPU_MISSING;
}

int32_t lm_gpu_count(char *error) {
  snprintf(error, LM_DEVICE_TEXT_BYTES, "built without GPUs: %s", lm_gpu_missing());
  return 0;
}

void lm_gpu_name(int32_t index, char *name) {
  (void)index;
  *name = '\0';
}

bool lm_gpu_open(lm_device *device, int32_t index) {
  (void)index;
  lm_gpu_count(device->error);
  return false;
}
