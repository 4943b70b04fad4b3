/* Where the language model computes: the host's processor or a GPU. */
#ifndef LM_DEVICE_H
#define LM_DEVICE_H

#include "lm_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Kinds of devices, numbered as those of zero1. */
enum { LM_DEVICE_HOST, LM_DEVICE_CUDA };

enum { LM_DEVICE_TEXT_BYTES = 256 };

/** A device as one rank uses it. One thread at a time. */
struct lm_device {
  const lm_kernels *kernels;
  void *stream; /* the CUDA stream of all calls; NULL on the host */
  void *state;  /* the table's own */
  int32_t kind; /* LM_DEVICE_ */
  int32_t index;
  char name[LM_DEVICE_TEXT_BYTES];
  char error[LM_DEVICE_TEXT_BYTES]; /* of the first call that failed, or empty */
};

/** Opens the host, or GPU `index` modulo their number. False: device->error tells why. */
bool lm_device_open(lm_device *device, int32_t kind, int32_t index);
/** Frees what open took; a zeroed device is fine. */
void lm_device_close(lm_device *device);

/** NULL, or what this build lacks for GPUs. */
const char *lm_gpu_missing(void);
/** Number of GPUs; 0 with a text of why there is none.
 *  [out] error  [LM_DEVICE_TEXT_BYTES] */
int32_t lm_gpu_count(char *error);
/** [out] name  [LM_DEVICE_TEXT_BYTES] of GPU `index`, which is below lm_gpu_count */
void lm_gpu_name(int32_t index, char *name);

/* ---- the tables, as lm_device_open sets them ---- */

void lm_host_open(lm_device *device);
/** `index` is below lm_gpu_count. False: device->error tells why. */
bool lm_gpu_open(lm_device *device, int32_t index);

#ifdef __cplusplus
}
#endif

#endif
