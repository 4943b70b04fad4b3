// A block of 256 elements in the registers of a warp.
//
// Lane t holds elements 4t to 4t+3 and 128+4t to 128+4t+3: an fp32 array is read and written 16
// bytes per lane, the warp's 512 without a gap. 16 bytes of bf16 are 8 elements, 8t to 8t+7; so
// these pass between lanes on their way:
//
//   lane          0          1          2         ...  16           17
//   bf16 words    0..7       8..15      16..23         128..135     136..143
//   values        0..3       4..7       8..11          64..67       68..71
//                 128..131   132..135   136..139       192..195     196..199
#ifndef ZERO1__CUDA_WARP_BLOCK_CUH
#define ZERO1__CUDA_WARP_BLOCK_CUH

#include "common.cuh"

namespace zero1 {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kEach = ZERO1__BLOCK / kLanes;  // elements of a lane

/** A lane's elements of a block. */
struct values {
  float of[kEach];
};

/** Which element of the block a lane's i-th is. */
__device__ __forceinline__ int element_of(int lane, int i) {
  return 4 * lane + (i & 3) + (i & 4) * (ZERO1__BLOCK / 8);
}

__device__ __forceinline__ values rounded(values v) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) v.of[i] = zero1__round_to_bf16(v.of[i]);
  return v;
}

// ---- whole blocks: 16 bytes at a time ----

/** A block as it is in memory. */
template <zero1__dtype dtype>
struct raw_block;

template <>
struct raw_block<ZERO1_DTYPE_FP32> {
  float4 low, high;
};

template <>
struct raw_block<ZERO1__DTYPE_FP32_AS_BF16> : raw_block<ZERO1_DTYPE_FP32> {};

template <>
struct raw_block<ZERO1_DTYPE_BF16> {
  uint4 words;
};

// __ldca is what a load does anyway, but stays one access: the compiler took some apart.
template <zero1__dtype dtype>
__device__ __forceinline__ raw_block<dtype> load_raw(const void *array, int64_t at, int lane) {
  if constexpr (dtype != ZERO1_DTYPE_BF16) {
    const float4 *from = reinterpret_cast<const float4 *>(static_cast<const float *>(array) + at);
    raw_block<dtype> raw;
    raw.low = __ldca(from + lane);
    raw.high = __ldca(from + lane + kLanes);
    return raw;
  } else {
    return {
        __ldca(reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(array) + at) + lane)};
  }
}

/** fp32 values, in the order in which the lanes read them. */
__device__ __forceinline__ values unpack(const raw_block<ZERO1_DTYPE_FP32> &raw) {
  return {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
          raw.high.x, raw.high.y, raw.high.z, raw.high.w};
}

__device__ __forceinline__ values unpack(const raw_block<ZERO1__DTYPE_FP32_AS_BF16> &raw) {
  return rounded(unpack(static_cast<const raw_block<ZERO1_DTYPE_FP32> &>(raw)));
}

__device__ __forceinline__ float low_half(uint32_t word) {
  return zero1__bf16_to_fp32(uint16_t(word));
}

__device__ __forceinline__ float high_half(uint32_t word) {
  return zero1__bf16_to_fp32(uint16_t(word >> 16));
}

__device__ __forceinline__ values unpack(const raw_block<ZERO1_DTYPE_BF16> &raw) {
  const uint4 w = raw.words;
  return {low_half(w.x), high_half(w.x), low_half(w.y), high_half(w.y),
          low_half(w.z), high_half(w.z), low_half(w.w), high_half(w.w)};
}

/** From the order of unpack to that of `values`. Lanes below 16 have what all lanes want first, an
 *  even lane their lower half, an odd one their upper half; the others have what is wanted second.
 * Each round is one permutation of the lanes: lower halves of the ones with upper halves of the
 * others. */
template <zero1__dtype dtype>
__device__ __forceinline__ values arrange(const values &read, int lane) {
  if constexpr (dtype != ZERO1_DTYPE_BF16) {
    return read;
  } else {
    const bool upper = lane & 16, odd = lane & 1;
    const int first = lane >> 1, second = first + 16;
    values v;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float low = read.of[i], high = read.of[i + 4];
      const float a = __shfl_sync(kAllLanes, upper ? high : low, odd ? second : first);
      const float b = __shfl_sync(kAllLanes, upper ? low : high, odd ? first : second);
      v.of[i] = odd ? b : a;
      v.of[i + 4] = odd ? a : b;
    }
    return v;
  }
}

template <zero1__dtype dtype>
__device__ __forceinline__ values load_whole(const void *array, int64_t at, int lane) {
  return arrange<dtype>(unpack(load_raw<dtype>(array, at, lane)), lane);
}

__device__ __forceinline__ void store_whole(float *array, int64_t at, int lane, const values &v) {
  float4 *to = reinterpret_cast<float4 *>(array + at);
  to[lane] = make_float4(v.of[0], v.of[1], v.of[2], v.of[3]);
  to[lane + kLanes] = make_float4(v.of[4], v.of[5], v.of[6], v.of[7]);
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  return zero1__fp32_to_bf16(low) | uint32_t{zero1__fp32_to_bf16(high)} << 16;
}

/** arrange, the other way round: lanes below 16 write what all lanes have first. */
__device__ __forceinline__ void store_whole(uint16_t *array, int64_t at, int lane,
                                            const values &v) {
  const bool upper = lane & 16, odd = lane & 1;
  const int even_lane = 2 * lane & 31, odd_lane = even_lane + 1;
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t first = pack(v.of[2 * i], v.of[2 * i + 1]);
    const uint32_t second = pack(v.of[2 * i + 4], v.of[2 * i + 5]);
    const uint32_t a = __shfl_sync(kAllLanes, odd ? second : first, upper ? odd_lane : even_lane);
    const uint32_t b = __shfl_sync(kAllLanes, odd ? first : second, upper ? even_lane : odd_lane);
    word[i] = upper ? b : a;
    word[i + 2] = upper ? a : b;
  }
  reinterpret_cast<uint4 *>(array + at)[lane] = make_uint4(word[0], word[1], word[2], word[3]);
}

// ---- short blocks: element by element; what they do not have is +0 ----

template <zero1__dtype dtype>
__device__ __forceinline__ float load_one(const void *array, int64_t at) {
  if constexpr (dtype == ZERO1_DTYPE_FP32)
    return static_cast<const float *>(array)[at];
  else if constexpr (dtype == ZERO1__DTYPE_FP32_AS_BF16)
    return zero1__round_to_bf16(static_cast<const float *>(array)[at]);
  else
    return zero1__bf16_to_fp32(static_cast<const uint16_t *>(array)[at]);
}

template <zero1__dtype dtype>
__device__ __forceinline__ values load_short(const void *array, int64_t at, int numel, int lane) {
  values v;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = element_of(lane, i);
    v.of[i] = e < numel ? load_one<dtype>(array, at + e) : 0.0f;
  }
  return v;
}

__device__ __forceinline__ void store_one(float *to, float value) {
  *to = value;
}

__device__ __forceinline__ void store_one(uint16_t *to, float value) {
  *to = zero1__fp32_to_bf16(value);
}

template <typename Element>
__device__ __forceinline__ void store_short(Element *array, int64_t at, int numel, int lane,
                                            const values &v) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = element_of(lane, i);
    if (e < numel) store_one(array + at + e, v.of[i]);
  }
}

template <zero1__dtype dtype>
__device__ __forceinline__ values load_block(const void *array, int64_t at, int numel, int lane) {
  return numel == ZERO1__BLOCK ? load_whole<dtype>(array, at, lane)
                               : load_short<dtype>(array, at, numel, lane);
}

template <typename Element>
__device__ __forceinline__ void store_block(Element *array, int64_t at, int numel, int lane,
                                            const values &v) {
  if (numel == ZERO1__BLOCK)
    store_whole(array, at, lane, v);
  else
    store_short(array, at, numel, lane, v);
}

// ---- the sum of squares ----

/** x + y, where lanes `apart` add what both hold: each keeps one of the two sums. */
__device__ __forceinline__ double fold_halves(double low, double high, int lane, int apart) {
  const bool keeps_high = lane & apart;
  const double other = __shfl_xor_sync(kAllLanes, keeps_high ? low : high, apart);
  return (keeps_high ? high : low) + other;
}

__device__ __forceinline__ double fold(double square, int apart) {
  return square + __shfl_xor_sync(kAllLanes, square, apart);
}

/** In the order of rules.h, the same number in all lanes. Elements 64 apart are 16 lanes apart;
 * while lanes hold several elements each, they share out the folding. */
__device__ __forceinline__ double squares_of(const values &v, int lane) {
  double q[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) q[i] = zero1__square(v.of[i]) + zero1__square(v.of[i + 4]); /* 128 */
  q[0] = fold_halves(q[0], q[2], lane, 16);                                               /* 64 */
  q[1] = fold_halves(q[1], q[3], lane, 16);
  double square = fold_halves(q[0], q[1], lane, 8); /* 32 */
  square = fold(square, 4);                         /* 16 */
  square = fold(square, 2);                         /* 8 */
  square = fold(square, 1);                         /* 4 */
  square = fold(square, 16);                        /* 2: elements i and i + 2 of the lanes' four */
  return fold(square, 8);                           /* 1 */
}

// ---- the blocks of a job ----

constexpr unsigned kThreads = 128;
constexpr int kWarps = kThreads / kLanes;

__device__ __forceinline__ zero1__cuda_block block_entry(const zero1__cuda_block *entry) {
  const int2 both = __ldg(reinterpret_cast<const int2 *>(entry));
  return {both.x, both.y};
}

/** Entries of kAhead blocks of this warp, of which the next ones are on their way. */
template <int kAhead>
struct block_walk {
  const zero1__cuda_block *entries;
  int64_t count, stride, block;
  zero1__cuda_block next[kAhead];

  __device__ __forceinline__ block_walk(const zero1__cuda_layout &layout, zero1__range blocks)
      : entries(layout.blocks + blocks.begin),
        count(blocks.end - blocks.begin),
        stride(int64_t{gridDim.x} * kWarps),
        block(int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes) {
    fetch();
  }

  __device__ __forceinline__ void fetch() {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t at = block + j * stride;
      next[j] = at < count ? block_entry(entries + at) : zero1__cuda_block{0, 0};
    }
  }

  /** The next blocks' entries (numel 0: padding, or past the end) and where the first begins; the
   *  others are stride * ZERO1__BLOCK further each. */
  __device__ __forceinline__ bool take(zero1__cuda_block (&entry)[kAhead], int64_t *at) {
    if (block >= count) return false;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) entry[j] = next[j];
    *at = block * ZERO1__BLOCK;
    block += kAhead * stride;
    fetch();
    return true;
  }
};

/** Calls handle(at, entry) for each block of this warp that is not padding. */
template <typename Handle>
__device__ __forceinline__ void for_blocks(const zero1__cuda_layout &layout, zero1__range blocks,
                                           Handle handle) {
  block_walk<1> walk(layout, blocks);
  zero1__cuda_block entry[1];
  for (int64_t at; walk.take(entry, &at);)
    if (entry[0].numel > 0) handle(at, entry[0]);
}

/** CTAs for a job on `blocks`, where `resident` fit a multiprocessor. */
inline int grid_of_blocks(zero1__range blocks, int resident, unsigned *grid) {
  return grid_of((blocks.end - blocks.begin + kWarps - 1) / kWarps, resident, grid);
}

}  // namespace zero1

#endif
