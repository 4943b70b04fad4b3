#include "rules.h"

zero1__bias zero1__bias_make(const zero1_group *group, int64_t count) {
  return (zero1__bias){.bias1 = 1.0 - pow(group->beta1, (double)count),
                       .bias2 = 1.0 - pow(group->beta2, (double)count)};
}

zero1__adam_scalars zero1__adam_scalars_make(const zero1_group *group, int64_t count) {
  return zero1__adam_scalars_of(group, zero1__bias_make(group, count));
}
