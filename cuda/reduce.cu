// reduce: sums contributions; csrc/kernels_host.c says how, bit for bit.
#include "kernels.cuh"
#include "sources.cuh"

namespace zero1 {
namespace {

struct reduce_arguments {
  zero1__cuda_layout layout;
  zero1__reduce_job job;
};

/** CTAs that a multiprocessor is to hold. */
constexpr int reduce_resident(int count) {
  return count == 8 ? 3 : 5;
}

/** Blocks that a warp loads at once: 2 KiB, so that enough is on its way to keep the memory busy.
 */
template <zero1__dtype dtype, int kCount>
constexpr int kAheadOf = [] {
  const int bytes = kCount * ZERO1__BLOCK * (dtype == ZERO1_DTYPE_BF16 ? 2 : 4);
  return bytes == 0 || bytes >= 2048 ? 1 : 2048 / bytes;
}();

template <typename Sources>
__device__ __forceinline__ void reduce_block(const reduce_arguments &arguments,
                                             const Sources &sources, const notes &to, int64_t at,
                                             zero1__cuda_block entry, values sum, int lane) {
  const zero1__reduce_job &job = arguments.job;
  bool finite = false;
  if (job.stats)
    finite = note_block(sources, to, &arguments.layout.slots[entry.slot], at, sum, lane);
  if (!job.out || (finite && sources.is_only(job.out))) return;
#pragma unroll
  for (int i = 0; i < kEach; ++i) sum.of[i] = zero1__one_nan(sum.of[i]);
  store_block(job.out, at, entry.numel, lane, sum);
}

template <zero1__dtype dtype, int kCount>
__global__ void __launch_bounds__(kThreads, reduce_resident(kCount))
    reduce(ZERO1__JOB(reduce_arguments) arguments) {
  constexpr int kAhead = kAheadOf<dtype, kCount>;
  using source = source_table<dtype, kCount>;
  __shared__ warp_limbs limbs;
  const zero1__reduce_job &job = arguments.job;
  limbs.clear();
  const bool lost = job.lost && *const_cast<const volatile int32_t *>(job.lost) != 0;
  if (__syncthreads_or(lost)) return;
  const int lane = int(threadIdx.x % kLanes);
  const source sources(job.sources);
  const notes to = {job.stats, &limbs, job.sources.rank_begin, job.partial != 0};
  block_walk<kAhead> walk(arguments.layout, job.blocks);
  const int64_t apart = walk.stride * ZERO1__BLOCK;
  zero1__cuda_block entry[kAhead];
  for (int64_t at; walk.take(entry, &at);) {
    typename source::loaded block[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (entry[j].numel == ZERO1__BLOCK) block[j] = sources.load_whole(at + j * apart, lane);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t here = at + j * apart;
      if (entry[j].numel == 0) continue;
      const values sum = entry[j].numel == ZERO1__BLOCK
                             ? sources.sum_loaded(block[j], here, lane)
                             : sources.sum_short(here, entry[j].numel, lane);
      reduce_block(arguments, sources, to, here, entry[j], sum, lane);
    }
  }
  if (job.stats && !job.partial) limbs.add_to(&job.stats->squares);
}

using reduce_kernel = void (*)(const reduce_arguments);

template <zero1__dtype dtype>
reduce_kernel reduce_kernel_of(int which) {
  static constexpr reduce_kernel kernels[kCounts] = {
      reduce<dtype, 0>, reduce<dtype, 1>, reduce<dtype, 2>, reduce<dtype, 4>, reduce<dtype, 8>};
  return kernels[which];
}

reduce_kernel reduce_kernel_for(zero1__dtype dtype, int which) {
  if (dtype == ZERO1_DTYPE_FP32) return reduce_kernel_of<ZERO1_DTYPE_FP32>(which);
  return dtype == ZERO1_DTYPE_BF16 ? reduce_kernel_of<ZERO1_DTYPE_BF16>(which)
                                   : reduce_kernel_of<ZERO1__DTYPE_FP32_AS_BF16>(which);
}

}  // namespace

int load_reduce() {
  int status = cudaSuccess;
  for (zero1__dtype dtype : kDtypes)
    for (int which = 0; which < kCounts; ++which)
      status = first_of(status, load(reduce_kernel_for(dtype, which)));
  return status;
}

}  // namespace zero1

using namespace zero1;

extern "C" int zero1__cuda_reduce(const zero1__cuda_layout *layout, const zero1__reduce_job *job,
                                  zero1__cuda_stream stream) {
  const int which = count_case(job->sources.count);
  unsigned grid = 0;
  if (job->blocks.begin >= job->blocks.end) return cudaSuccess;
  const int status = grid_of_blocks(job->blocks, reduce_resident(kCountCases[which]), &grid);
  if (status != cudaSuccess) return status;
  const reduce_arguments arguments = {*layout, *job};
  return launch(reduce_kernel_for(job->sources.dtype, which), grid, kThreads, stream, arguments);
}
