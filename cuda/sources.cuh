// Sums of contributions, and what is found out about them, block by block.
#ifndef ZERO1__CUDA_SOURCES_CUH
#define ZERO1__CUDA_SOURCES_CUH

#include "warp_block.cuh"

namespace zero1 {

__device__ __forceinline__ void add(values *sum, const values &other) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) sum->of[i] = sum->of[i] + other.of[i];
}

/** Adds contributions up as they come: inside groups, then across. kMayRound: false spares fp32,
 * which is never rounded, the registers. */
template <bool kMayRound>
struct ordered_sum {
  values sum, group;
  int32_t size, left;  // of a group; of this group
  bool round;          // a group's sum, where there are several
  bool grouped;        // `sum` holds the groups before

  __device__ __forceinline__ ordered_sum(int32_t group_size, bool round_groups)
      : size(group_size), left(0), round(round_groups), grouped(false) {}

  __device__ __forceinline__ void close_group() {
    if (kMayRound && round) group = rounded(group);
    if (grouped)
      add(&sum, group);
    else
      sum = group;
    grouped = true;
  }

  __device__ __forceinline__ void take(const values &contribution, bool first) {
    if (left == 0) {
      if (!first) close_group();
      group = contribution;
      left = size;
    } else {
      add(&group, contribution);
    }
    --left;
  }

  __device__ __forceinline__ values done() {
    if (!grouped) return group;
    close_group();
    return sum;
  }
};

/** The contributions of a job. kCount: how many, known to the compiler, so that all of a block's
 * loads are on their way before the first addition; 0: any number. */
template <zero1__dtype dtype, int kCount>
struct source_table {
  const void *const *table;
  int32_t count, group;
  bool round_groups;
  const void *pointer[kCount > 0 ? kCount : 1];

  __device__ __forceinline__ explicit source_table(const zero1__sources &sources)
      : table(sources.visible),
        count(sources.count),
        group(sources.group),
        round_groups(sources.round_groups != 0) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) pointer[k] = in_global(table[k]);
  }

  /** Loads of a whole block, for sum_loaded. */
  struct loaded {
    raw_block<dtype> raw[kCount > 0 ? kCount : 1];
  };

  __device__ __forceinline__ loaded load_whole(int64_t at, int lane) const {
    loaded block = {};
#pragma unroll
    for (int k = 0; k < kCount; ++k) block.raw[k] = load_raw<dtype>(pointer[k], at, lane);
    return block;
  }

  __device__ __forceinline__ values sum_loaded(const loaded &block, int64_t at, int lane) const {
    ordered_sum<dtype != ZERO1_DTYPE_FP32> sum(group, round_groups);
    if constexpr (kCount > 0) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum.take(unpack(block.raw[k]), k == 0);
    } else {
#pragma unroll 4
      for (int32_t k = 0; k < count; ++k)
        sum.take(unpack(load_raw<dtype>(in_global(table[k]), at, lane)), k == 0);
    }
    return arrange<dtype>(sum.done(), lane);
  }

  __device__ __forceinline__ values sum_short(int64_t at, int numel, int lane) const {
    ordered_sum<dtype != ZERO1_DTYPE_FP32> sum(group, round_groups);
#pragma unroll 1
    for (int32_t k = 0; k < count; ++k)
      sum.take(load_short<dtype>(in_global(table[k]), at, numel, lane), k == 0);
    return sum.done();
  }

  __device__ __forceinline__ values sum_block(int64_t at, int numel, int lane) const {
    return numel == ZERO1__BLOCK ? sum_loaded(load_whole(at, lane), at, lane)
                                 : sum_short(at, numel, lane);
  }

  /** Whether what is summed is `out` itself, element for element. */
  __device__ __forceinline__ bool is_only(const float *out) const {
    return kCount == 1 && dtype == ZERO1_DTYPE_FP32 && pointer[0] == out;
  }

  /** Key of the lowest rank that made element `at` of the sum not finite. */
  __device__ __forceinline__ uint64_t culprit_of(int64_t param, int64_t at,
                                                 int32_t rank_begin) const {
#pragma unroll 1
    for (int32_t k = 0; k < count; ++k) {
      if (zero1__is_finite(load_one<dtype>(table[k], at))) continue;
      if (rank_begin < 0) return ZERO1__CULPRIT_NONE;
      return zero1__culprit_key(param, uint32_t(rank_begin + k));
    }
    return zero1__culprit_key(param, ZERO1__CULPRIT_OVERFLOW);
  }
};

// ---- stats ----

/** Sums of squares of the blocks that the warps of a CTA have seen: limbs, not carried. */
struct warp_limbs {
  unsigned long long limb[kWarps][ZERO1__EXACT_LIMBS];

  /** All threads of the CTA; __syncthreads is to follow. */
  __device__ __forceinline__ void clear() {
    if (threadIdx.x < kWarps * ZERO1__EXACT_LIMBS) (&limb[0][0])[threadIdx.x] = 0;
  }

  /** All lanes of a warp, with the same number: a lane for each part. */
  __device__ __forceinline__ void add(double squares, int lane) {
    const zero1__exact_parts parts = zero1__exact_split(squares);
    unsigned long long *to = &limb[threadIdx.x / kLanes][parts.first];
    const int64_t part = lane == 0 ? parts.part[0] : lane == 1 ? parts.part[1] : parts.part[2];
    if (lane < 3) to[lane] += uint64_t(part);
    __syncwarp();
  }

  /** All threads of the CTA. */
  __device__ __forceinline__ void add_to(zero1__exact_sum *squares) {
    __syncthreads();
    if (threadIdx.x >= ZERO1__EXACT_LIMBS) return;
    unsigned long long sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += limb[warp][threadIdx.x];
    unsigned long long *to = reinterpret_cast<unsigned long long *>(&squares->limb[threadIdx.x]);
    if (sum) atomicAdd(to, sum);
  }
};

static_assert(kWarps * ZERO1__EXACT_LIMBS <= kThreads, "a thread for each limb clears it");

/** Where a job notes what it finds out. */
struct notes {
  zero1__stats *stats;
  warp_limbs *limbs;
  int32_t rank_begin;
  bool partial;  // only culprits
};

/** The rare path: some element of the sum is not finite. */
template <typename Sources>
__device__ __forceinline__ void note_nonfinite(const Sources &sources, const notes &to,
                                               int64_t param, int64_t at, const values &sum,
                                               int lane) {
  unsigned mask = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) mask |= unsigned(!zero1__is_finite(sum.of[i])) << i;
  const unsigned found = __reduce_add_sync(kAllLanes, unsigned(__popc(mask)));
  if (lane == 0 && !to.partial)
    atomicAdd(reinterpret_cast<unsigned long long *>(&to.stats->nonfinite_numel), found);
  unsigned long long *lowest = reinterpret_cast<unsigned long long *>(&to.stats->culprit);
#pragma unroll 1
  for (; mask; mask &= mask - 1) {
    const int e = element_of(lane, __ffs(int(mask)) - 1);
    const unsigned long long culprit = sources.culprit_of(param, at + e, to.rank_begin);
    if (culprit < *const_cast<volatile unsigned long long *>(lowest)) atomicMin(lowest, culprit);
  }
}

/** Returns whether all of the block is finite: then, and only then, its squares' sum is. */
template <typename Sources>
__device__ __forceinline__ bool note_block(const Sources &sources, const notes &to,
                                           const zero1__slot *slot, int64_t at, const values &sum,
                                           int lane) {
  const double squares = squares_of(sum, lane);
  if (squares - squares == 0.0) {
    if (!to.partial && !(__ldg(&slot->flags) & ZERO1_PARAM_NOT_IN_NORM))
      to.limbs->add(squares, lane);
    return true;
  }
  note_nonfinite(sources, to, __ldg(&slot->param), at, sum, lane);
  return false;
}

// ---- kernels that are one for each data type and some counts ----

/** What sources and parameters may be. */
constexpr zero1__dtype kDtypes[] = {ZERO1_DTYPE_FP32, ZERO1_DTYPE_BF16, ZERO1__DTYPE_FP32_AS_BF16};

/** Counts of sources that have kernels of their own; 0: any other. */
constexpr int kCountCases[] = {0, 1, 2, 4, 8};
constexpr int kCounts = int(sizeof kCountCases / sizeof kCountCases[0]);

inline int count_case(int32_t count) {
  for (int i = 1; i < kCounts; ++i)
    if (kCountCases[i] == count) return i;
  return 0;
}

}  // namespace zero1

#endif
