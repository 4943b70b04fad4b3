/* Residuals of gradients that travel in 8 bits, when the number of ranks changes: what each rank
 * had left becomes what each new rank has, so that the sum over ranks, times grad_scale, is the
 * same correction of the parameters as before. */
#ifndef ZERO1__RESIDUAL_H
#define ZERO1__RESIDUAL_H

#include <stdint.h>

/** Ranks, and what the sum of their gradients is multiplied by: config.grad_scale, by default
 *  1 / world_size. */
typedef struct zero1__residual_scale {
  int32_t world_size;
  double grad_scale;
} zero1__residual_scale;

/** The residual of every new rank, the same on each: fp32 sums in rank order, times
 *  from.grad_scale / (to.grad_scale * to.world_size), which is made in double and rounded once.
 *  With default scales that is the mean of the old ones.
 *  [in]  residuals  [from.world_size] of [numel] fp32 each, in rank order
 *  [out] out        [numel]; none of residuals */
void zero1__residual_reshard(const float *const *residuals, int64_t numel,
                             zero1__residual_scale from, zero1__residual_scale to, float *out);

#endif
