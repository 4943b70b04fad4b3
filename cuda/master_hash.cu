// master and hash; csrc/kernels_host.c says how, bit for bit.
#include "kernels.cuh"
#include "warp_block.cuh"

namespace zero1 {
namespace {

constexpr int kResident = 8;

// ---- master ----

struct master_arguments {
  zero1__cuda_layout layout;
  zero1__master_job job;
};

template <zero1__dtype dtype>
__global__ void __launch_bounds__(kThreads, kResident)
    master(ZERO1__JOB(master_arguments) arguments) {
  const zero1__master_job &job = arguments.job;
  const int lane = int(threadIdx.x % kLanes);
  for_blocks(arguments.layout, job.blocks, [&](int64_t at, zero1__cuda_block entry) {
    values master_param = {};
    if (job.keep)
      master_param = load_block<ZERO1_DTYPE_FP32>(job.master_param, at, entry.numel, lane);
    const values param = load_block<dtype>(job.param, at, entry.numel, lane);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if constexpr (dtype == ZERO1_DTYPE_BF16) {
        const uint16_t bits = uint16_t(zero1__bits(param.of[i]) >> 16);
        master_param.of[i] = zero1__master_of_bf16(bits, master_param.of[i], job.keep);
      } else {
        master_param.of[i] = zero1__master_of_rounded(param.of[i], master_param.of[i], job.keep);
      }
    }
    store_block(job.master_param, at, entry.numel, lane, master_param);
  });
}

// ---- round ----

struct round_arguments {
  zero1__cuda_layout layout;
  zero1__round_job job;
};

__global__ void __launch_bounds__(kThreads, kResident)
    round_params(ZERO1__JOB(round_arguments) arguments) {
  const zero1__round_job &job = arguments.job;
  const int lane = int(threadIdx.x % kLanes);
  for_blocks(arguments.layout, job.blocks, [&](int64_t at, zero1__cuda_block entry) {
    const values param = load_block<ZERO1__DTYPE_FP32_AS_BF16>(job.param, at, entry.numel, lane);
    store_block(job.param, at, entry.numel, lane, param);
  });
}

// ---- hash ----

/** The hash of `numel` elements one after the other, which `words` hold. */
template <zero1__dtype dtype>
__device__ __forceinline__ uint64_t hash_words(uint4 words, uint64_t element) {
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
  uint64_t sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (dtype == ZERO1_DTYPE_FP32) {
      sum += zero1__mix(element + i, word[i]);
    } else {
      sum += zero1__mix(element + 2 * i, word[i] & 0xffff);
      sum += zero1__mix(element + 2 * i + 1, word[i] >> 16);
    }
  }
  return sum;
}

template <zero1__dtype dtype>
__device__ __forceinline__ uint64_t hash_one(const void *data, int64_t element) {
  if constexpr (dtype == ZERO1_DTYPE_FP32)
    return zero1__mix(uint64_t(element), static_cast<const uint32_t *>(data)[element]);
  else
    return zero1__mix(uint64_t(element), static_cast<const uint16_t *>(data)[element]);
}

/** Adds the sums of a warp's lanes to *hash. */
__device__ __forceinline__ void add_hash(uint64_t sum, uint64_t *hash) {
  for (int apart = kLanes / 2; apart; apart /= 2) sum += __shfl_xor_sync(kAllLanes, sum, apart);
  if (threadIdx.x % kLanes == 0) atomicAdd(reinterpret_cast<unsigned long long *>(hash), sum);
}

/** Elements that one access of 16 bytes brings. */
template <zero1__dtype dtype>
constexpr int64_t kPerAccess = dtype == ZERO1_DTYPE_FP32 ? 4 : 8;

/** Whole accesses lie in [begin, end); what is before and after is hashed one by one. */
template <zero1__dtype dtype>
__global__ void __launch_bounds__(kThreads, kResident) hash(ZERO1__JOB(zero1__hash_job) job) {
  constexpr int64_t per = kPerAccess<dtype>;
  const int64_t begin = (job.elements.begin + per - 1) / per, end = job.elements.end / per;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint64_t sum = 0;
#pragma unroll 4
  for (int64_t i = begin + thread; i < end; i += stride)
    sum += hash_words<dtype>(static_cast<const uint4 *>(job.data)[i], uint64_t(i * per));
  const int64_t head_end = begin * per < job.elements.end ? begin * per : job.elements.end;
  const int64_t tail_begin = end * per > head_end ? end * per : head_end;
  if (job.elements.begin + thread < head_end)
    sum += hash_one<dtype>(job.data, job.elements.begin + thread);
  if (tail_begin + thread < job.elements.end) sum += hash_one<dtype>(job.data, tail_begin + thread);
  add_hash(sum, job.hash);
}

}  // namespace

int load_master_hash() {
  return first_of(load(master<ZERO1_DTYPE_FP32>), load(master<ZERO1_DTYPE_BF16>),
                  load(round_params), load(hash<ZERO1_DTYPE_FP32>), load(hash<ZERO1_DTYPE_BF16>));
}

}  // namespace zero1

using namespace zero1;

extern "C" {

int zero1__cuda_master(const zero1__cuda_layout *layout, const zero1__master_job *job,
                       zero1__cuda_stream stream) {
  unsigned grid = 0;
  if (job->param_dtype == ZERO1_DTYPE_FP32) return cudaSuccess; /* it is its own master */
  if (job->blocks.begin >= job->blocks.end) return cudaSuccess;
  const int status = grid_of_blocks(job->blocks, kResident, &grid);
  if (status != cudaSuccess) return status;
  const master_arguments arguments = {*layout, *job};
  return launch(
      job->param_dtype == ZERO1_DTYPE_BF16 ? master<ZERO1_DTYPE_BF16> : master<ZERO1_DTYPE_FP32>,
      grid, kThreads, stream, arguments);
}

int zero1__cuda_round_params(const zero1__cuda_layout *layout, const zero1__round_job *job,
                             zero1__cuda_stream stream) {
  unsigned grid = 0;
  if (job->blocks.begin >= job->blocks.end) return cudaSuccess;
  const int status = grid_of_blocks(job->blocks, kResident, &grid);
  if (status != cudaSuccess) return status;
  const round_arguments arguments = {*layout, *job};
  return launch(round_params, grid, kThreads, stream, arguments);
}

int zero1__cuda_hash(const zero1__hash_job *job, zero1__cuda_stream stream) {
  const bool fp32 = job->dtype == ZERO1_DTYPE_FP32;
  const int64_t per_cta =
      kThreads * (fp32 ? kPerAccess<ZERO1_DTYPE_FP32> : kPerAccess<ZERO1_DTYPE_BF16>);
  const int64_t numel = job->elements.end - job->elements.begin;
  unsigned grid = 0;
  if (numel <= 0) return cudaSuccess;
  const int status = grid_of((numel + per_cta - 1) / per_cta, kResident, &grid);
  if (status != cudaSuccess) return status;
  return launch(fp32 ? hash<ZERO1_DTYPE_FP32> : hash<ZERO1_DTYPE_BF16>, grid, kThreads, stream,
                *job);
}

}  // extern "C"
