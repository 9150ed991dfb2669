// Sums and prefix sums over the threads of a warp or of a block, in an order that depends on nothing but the shape.
#pragma once

namespace ssm {

constexpr unsigned kFullWarp = 0xffffffffu;

// One halving of two sums over a pair of lanes: each lane gives the value that its neighbour keeps, and gets the
// neighbour's part of its own. The lane without the bit `offset` keeps `low`, the other `high`.
template <typename acc>
__device__ __forceinline__ acc exchange_halves(bool upper, int offset, acc low, acc high) {
  return (upper ? high : low) + __shfl_xor_sync(kFullWarp, upper ? low : high, offset);
}

// Halves the kSize values that a lane has until it has one, whose number is lane % kSize.
template <int kSize, typename acc, int kCount>
__device__ __forceinline__ void halve_sums(acc (&part)[kCount]) {
  if constexpr (kSize > 1) {
    constexpr int kHalf = kSize / 2;
    const bool upper = (threadIdx.x & kHalf) != 0;
#pragma unroll
    for (int j = 0; j < kHalf; ++j) part[j] = exchange_halves(upper, kHalf, part[j], part[j + kHalf]);
    halve_sums<kHalf>(part);
  }
}

// The sum over the lanes whose numbers are equal modulo `columns`, a power of two; every lane gets its column's.
template <typename acc>
__device__ __forceinline__ acc sum_over_columns(acc value, int columns) {
#pragma unroll
  for (int offset = columns; offset < 32; offset *= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

// Sums kCount values, a power of two up to 32, over a warp; lane i gets the sum of value i % kCount. All lanes call.
template <typename acc, int kCount>
__device__ __forceinline__ acc sums_over_warp(acc (&part)[kCount]) {
  halve_sums<kCount>(part);
  return sum_over_columns(part[0], kCount);
}

// Adds to each of kCount values those of the lane whose number differs in the bit kOffset.
template <int kOffset, typename acc, int kCount>
__device__ __forceinline__ void add_from_lane(acc (&value)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) value[i] += __shfl_xor_sync(kFullWarp, value[i], kOffset);
}

// Sums each of kCount values over `lanes` neighbouring lanes, a power of two up to 32; every lane gets every sum.
template <typename acc, int kCount>
__device__ __forceinline__ void sum_over_lanes(acc (&value)[kCount], int lanes) {
  switch (lanes) {  // one jump, where a loop would have a branch for each step
    case 32:
      add_from_lane<16>(value);
      [[fallthrough]];
    case 16:
      add_from_lane<8>(value);
      [[fallthrough]];
    case 8:
      add_from_lane<4>(value);
      [[fallthrough]];
    case 4:
      add_from_lane<2>(value);
      [[fallthrough]];
    case 2:
      add_from_lane<1>(value);
  }
}

// Sums each of kCount values over `threads` neighbouring threads of the block, a power of two; every thread gets every
// sum. `scratch` holds kCount values for each warp. All threads of the block call.
template <typename acc, int kCount>
__device__ void sum_over_threads(acc (&value)[kCount], int threads, acc* scratch) {
  sum_over_lanes(value, min(threads, 32));
  if (threads <= 32) return;
  const int warp = threadIdx.x / 32, warps = threads / 32, first = warp & -warps;
  __syncthreads();  // all threads have read the sums of the call before
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) scratch[warp * kCount + i] = value[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) value[i] = 0;
#pragma unroll 1  // wide rows are rare, and a loop around them all runs faster if it is short
  for (int w = first; w < first + warps; ++w) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] += scratch[w * kCount + i];
  }
}

// The sum over a block of kThreads threads; thread 0 gets it. All threads call, once in a kernel.
template <int kThreads, typename acc>
__device__ acc sum_over_block(acc value) {
  __shared__ acc sums[kThreads / 32];
  acc sum[1] = {value};
  sum_over_lanes(sum, 32);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum[0];
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / 32; ++w) sum[0] += sums[w];
  }
  return sum[0];
}

__device__ __forceinline__ int3 operator+(const int3& a, const int3& b) {
  return make_int3(a.x + b.x, a.y + b.y, a.z + b.z);
}
__device__ __forceinline__ int3 operator-(const int3& a, const int3& b) {
  return make_int3(a.x - b.x, a.y - b.y, a.z - b.z);
}
__device__ __forceinline__ int shift_up(int value, int offset) {
  return __shfl_up_sync(kFullWarp, value, offset);
}
__device__ __forceinline__ int3 shift_up(const int3& value, int offset) {
  return make_int3(shift_up(value.x, offset), shift_up(value.y, offset), shift_up(value.z, offset));
}

// Inclusive prefix sum over a warp of int or int3. All lanes call.
template <typename T>
__device__ __forceinline__ T prefix_over_warp(T value, int lane) {
  for (int offset = 1; offset < 32; offset *= 2) {
    const T before = shift_up(value, offset);
    if (lane >= offset) value = value + before;
  }
  return value;
}

}  // namespace ssm
