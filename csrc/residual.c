#include "residual.h"

void zero1__residual_reshard(const float *const *residuals, int64_t numel,
                             zero1__residual_scale from, zero1__residual_scale to, float *out) {
  const float factor = (float)(from.grad_scale / (to.grad_scale * to.world_size));
  for (int64_t e = 0; e < numel; ++e) {
    float total = residuals[0][e];
    for (int32_t rank = 1; rank < from.world_size; ++rank) total += residuals[rank][e];
    out[e] = total * factor;
  }
}
