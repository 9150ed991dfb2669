// Many sums over the threads of a warp at once.
#pragma once

namespace ssm {

// Exchanges halve the values that a thread has, until it has one: of kSize, those whose number has the lane's bit.
template <int kSize, typename acc, int kCount>
__device__ __forceinline__ void share_sums(acc (&part)[kCount]) {
  if constexpr (kSize > 1) {
    constexpr int kHalf = kSize / 2;
    const bool upper = (threadIdx.x & kHalf) != 0;
#pragma unroll
    for (int j = 0; j < kHalf; ++j) {
      const acc given = upper ? part[j] : part[j + kHalf];
      part[j] = (upper ? part[j + kHalf] : part[j]) + __shfl_xor_sync(~0u, given, kHalf);
    }
    share_sums<kHalf>(part);
  }
}

// For every one of kCount values, a power of two up to 32, the sum over the warp; that of value lane % kCount. All
// threads of the warp must call.
template <typename acc, int kCount>
__device__ __forceinline__ acc sum_over_warp(acc (&part)[kCount]) {
  share_sums<kCount>(part);
  acc sum = part[0];
#pragma unroll
  for (int offset = kCount; offset < 32; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  return sum;
}

}  // namespace ssm
