// update: AdamW; csrc/kernels_host.c says how, bit for bit.
#include "kernels.cuh"
#include "sources.cuh"

namespace zero1 {
namespace {

struct update_arguments {
  zero1__cuda_layout layout;
  zero1__update_job job;
};

/** CTAs that a multiprocessor is to hold. */
constexpr int update_resident(int count) {
  return count == 8 ? 3 : count == 1 || count == 2 ? 5 : 4;
}

/** State of a lane's elements. */
struct adam_values {
  values master_param, exp_avg, exp_avg_sq;
};

__device__ __forceinline__ adam_values load_state(const zero1__update_job &job, int64_t at,
                                                  int numel, int lane) {
  return {load_block<ZERO1_DTYPE_FP32>(job.master_param, at, numel, lane),
          load_block<ZERO1_DTYPE_FP32>(job.exp_avg, at, numel, lane),
          load_block<ZERO1_DTYPE_FP32>(job.exp_avg_sq, at, numel, lane)};
}

__device__ __forceinline__ void adam(adam_values *state, const values &grad, float grad_factor,
                                     const zero1__adam_scalars &scalars) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const zero1__adam_element old = {state->master_param.of[i], state->exp_avg.of[i],
                                     state->exp_avg_sq.of[i]};
    const zero1__adam_element next = zero1__adam(old, grad.of[i] * grad_factor, scalars);
    state->master_param.of[i] = next.master_param;
    state->exp_avg.of[i] = next.exp_avg;
    state->exp_avg_sq.of[i] = next.exp_avg_sq;
  }
}

template <zero1__dtype param_dtype>
__device__ __forceinline__ void store_state(const zero1__update_job &job, int64_t at, int numel,
                                            int lane, const adam_values &state) {
  store_block(job.master_param, at, numel, lane, state.master_param);
  store_block(job.exp_avg, at, numel, lane, state.exp_avg);
  store_block(job.exp_avg_sq, at, numel, lane, state.exp_avg_sq);
  if constexpr (param_dtype == ZERO1_DTYPE_BF16)
    store_block(static_cast<uint16_t *>(job.param), at, numel, lane, state.master_param);
  else if constexpr (param_dtype == ZERO1__DTYPE_FP32_AS_BF16)
    store_block(static_cast<float *>(job.param), at, numel, lane, rounded(state.master_param));
}

template <zero1__dtype grad_dtype, zero1__dtype param_dtype, int kCount>
__global__ void __launch_bounds__(kThreads, update_resident(kCount))
    update(ZERO1__JOB(update_arguments) arguments) {
  const zero1__update_job &job = arguments.job;
  if (__ldg(&job.verdict->skip)) return;
  const float grad_factor = __ldg(&job.verdict->grad_factor);
  const int lane = int(threadIdx.x % kLanes);
  const source_table<grad_dtype, kCount> sources(job.sources);
  __shared__ warp_limbs limbs;
  const notes to = {job.stats, &limbs, job.sources.rank_begin, false};
  limbs.clear();
  __syncthreads();
  for_blocks(arguments.layout, job.blocks, [&](int64_t at, zero1__cuda_block entry) {
    adam_values state = load_state(job, at, entry.numel, lane);
    const values grad = sources.sum_block(at, entry.numel, lane);
    const zero1__slot *slot = &arguments.layout.slots[entry.slot];
    if (job.stats) note_block(sources, to, slot, at, grad, lane);
    if (job.absent && __ldg(&job.absent[entry.slot])) return;
    adam(&state, grad, grad_factor, job.groups[__ldg(&slot->group)]);
    store_state<param_dtype>(job, at, entry.numel, lane, state);
  });
  if (job.stats) limbs.add_to(&job.stats->squares);
}

using update_kernel = void (*)(const update_arguments);

template <zero1__dtype grad_dtype, zero1__dtype param_dtype>
update_kernel update_kernel_of(int which) {
  static constexpr update_kernel kernels[kCounts] = {
      update<grad_dtype, param_dtype, 0>, update<grad_dtype, param_dtype, 1>,
      update<grad_dtype, param_dtype, 2>, update<grad_dtype, param_dtype, 4>,
      update<grad_dtype, param_dtype, 8>};
  return kernels[which];
}

template <zero1__dtype grad_dtype>
update_kernel update_kernel_into(zero1__dtype param_dtype, int which) {
  if (param_dtype == ZERO1_DTYPE_FP32) return update_kernel_of<grad_dtype, ZERO1_DTYPE_FP32>(which);
  return param_dtype == ZERO1_DTYPE_BF16
             ? update_kernel_of<grad_dtype, ZERO1_DTYPE_BF16>(which)
             : update_kernel_of<grad_dtype, ZERO1__DTYPE_FP32_AS_BF16>(which);
}

update_kernel update_kernel_for(zero1__dtype grad_dtype, zero1__dtype param_dtype, int which) {
  if (grad_dtype == ZERO1_DTYPE_FP32)
    return update_kernel_into<ZERO1_DTYPE_FP32>(param_dtype, which);
  return grad_dtype == ZERO1_DTYPE_BF16
             ? update_kernel_into<ZERO1_DTYPE_BF16>(param_dtype, which)
             : update_kernel_into<ZERO1__DTYPE_FP32_AS_BF16>(param_dtype, which);
}

}  // namespace

int load_update() {
  int status = cudaSuccess;
  for (zero1__dtype grad_dtype : kDtypes)
    for (zero1__dtype param_dtype : kDtypes)
      for (int which = 0; which < kCounts; ++which)
        status = first_of(status, load(update_kernel_for(grad_dtype, param_dtype, which)));
  return status;
}

}  // namespace zero1

using namespace zero1;

extern "C" int zero1__cuda_update(const zero1__cuda_layout *layout, const zero1__update_job *job,
                                  zero1__cuda_stream stream) {
  const int which = count_case(job->sources.count);
  unsigned grid = 0;
  if (job->blocks.begin >= job->blocks.end) return cudaSuccess;
  const int status = grid_of_blocks(job->blocks, update_resident(kCountCases[which]), &grid);
  if (status != cudaSuccess) return status;
  const update_arguments arguments = {*layout, *job};
  return launch(update_kernel_for(job->sources.dtype, job->param_dtype, which), grid, kThreads,
                stream, arguments);
}
