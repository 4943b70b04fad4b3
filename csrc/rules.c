#include "rules.h"

#include <math.h>

zero1__adam_scalars zero1__adam_scalars_make(const zero1_group *group, int64_t count) {
  const double bias1 = 1.0 - pow(group->beta1, (double)count);
  const double bias2 = 1.0 - pow(group->beta2, (double)count);
  const int decoupled = group->decoupled_weight_decay != 0;
  return (zero1__adam_scalars){
      .decay = decoupled ? (float)(1.0 - group->lr * group->weight_decay) : 1.0f,
      .l2 = decoupled ? 0.0f : (float)group->weight_decay,
      .one_minus_beta1 = (float)(1.0 - group->beta1),
      .beta2 = (float)group->beta2,
      .one_minus_beta2 = (float)(1.0 - group->beta2),
      .inverse_sqrt_bias2 = (float)(1.0 / sqrt(bias2)),
      .eps = (float)group->eps,
      .step_size = (float)(group->lr / bias1),
  };
}
