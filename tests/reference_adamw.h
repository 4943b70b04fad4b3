/* AdamW in double, straight from its formula, and how far an fp32 computation of the same may be.
 *
 * The distance is a running error analysis: beside each number stands a bound on the distance of
 * its fp32 counterpart. With u = 2^-24, half a unit in the last place of 1:
 *   - rounding a result r to fp32 adds u * |r|, and so does rounding a constant (lr, beta, ...);
 *   - a sum's bound is the sum of its terms' bounds, each times its factor;
 *   - |sqrt(a) - sqrt(b)| <= |a - b| / sqrt(a);
 *   - results below the normal range round by 2^-150 at most, whatever they are.
 * Products of two bounds are left out, and 1 % of what a step adds stands for them. */
#ifndef ZERO1_TESTS_REFERENCE_ADAMW_H
#define ZERO1_TESTS_REFERENCE_ADAMW_H

#include <math.h>

#include "zero1/zero1.h"

typedef struct reference_adamw {
  double param, exp_avg, exp_avg_sq;
  double param_bound, exp_avg_bound, exp_avg_sq_bound; /* 0 at the start: the values are fp32 */
} reference_adamw;

/* Step number `count`, the first is 1, with a gradient whose fp32 counterpart is within
 * grad_bound. */
static inline void reference_adamw_step(const zero1_group *group, int64_t count, double grad,
                                        double grad_bound, reference_adamw *x) {
  const double u = 0x1p-24, subnormal = 0x1p-150, more = 1.01;
  const double old = x->param;
  double g = grad, g_bound = grad_bound, decay = 1.0;
  if (group->decoupled_weight_decay) {
    decay = 1.0 - group->lr * group->weight_decay;
  } else if (group->weight_decay != 0.0) {
    const double l2 = group->weight_decay * old;
    g += l2;
    g_bound += group->weight_decay * x->param_bound + 2 * u * fabs(l2) + u * fabs(g);
  }

  /* exp_avg + (g - exp_avg) * (1 - beta1) */
  const double change = (g - x->exp_avg) * (1.0 - group->beta1);
  const double m = x->exp_avg + change;
  const double m_bound =
      group->beta1 * x->exp_avg_bound +
      more * ((1.0 - group->beta1) * g_bound + 3 * u * fabs(change) + u * fabs(m) + subnormal);

  /* beta2 * exp_avg_sq + (1 - beta2) * g * g */
  const double kept = group->beta2 * x->exp_avg_sq, fresh = (1.0 - group->beta2) * g * g;
  const double v = kept + fresh;
  const double v_bound = group->beta2 * x->exp_avg_sq_bound +
                         more * (2 * u * kept + (1.0 - group->beta2) * 2 * fabs(g) * g_bound +
                                 3 * u * fresh + u * v + 3 * subnormal);

  /* sqrt(exp_avg_sq) / sqrt(1 - beta2^t) + eps */
  const double correction = 1.0 / sqrt(1.0 - pow(group->beta2, (double)count));
  const double root = sqrt(v) * correction;
  const double root_bound = (v > 0 ? v_bound / sqrt(v) : 0) * correction + 3 * u * root;
  const double denominator = root + group->eps;
  const double denominator_bound = root_bound + u * group->eps + u * denominator;

  /* param * decay - lr / (1 - beta1^t) * exp_avg / denominator */
  const double step_size = group->lr / (1.0 - pow(group->beta1, (double)count));
  const double move = step_size * m / denominator;
  const double move_bound = step_size * m_bound / denominator +
                            fabs(move) * denominator_bound / denominator + 3 * u * fabs(move);
  x->param = old * decay - move;
  x->param_bound =
      decay * x->param_bound + more * (2 * u * fabs(old * decay) + move_bound + u * fabs(x->param));
  x->exp_avg = m;
  x->exp_avg_bound = m_bound;
  x->exp_avg_sq = v;
  x->exp_avg_sq_bound = v_bound;
}

#endif
