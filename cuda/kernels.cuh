// What zero1__cuda_load asks of each file.
#ifndef ZERO1__CUDA_KERNELS_CUH
#define ZERO1__CUDA_KERNELS_CUH

namespace zero1 {

int load_reduce();
int load_update();
int load_master_hash();

}  // namespace zero1

#endif
