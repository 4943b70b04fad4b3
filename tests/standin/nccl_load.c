/* In place of csrc/nccl_load.c: the small NCCL is linked, not looked for. */
#include "nccl_load.h"

#define TAKE(name) .name = name,

zero1__nccl_functions zero1__nccl = {ZERO1__NCCL_FUNCTIONS(TAKE) ZERO1__NCCL_OPTIONAL(TAKE)};

zero1_status zero1__nccl_load(zero1__error *error) {
  (void)error;
  return ZERO1_OK;
}
