// From numbers that lie side by side in memory to those that sums are made of, and back.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

#include "common/pack.h"

namespace ssm {

// Numbers rounded to scalar_t, side by side.
template <typename scalar_t, typename acc, int kVector>
__device__ __forceinline__ Pack<scalar_t, kVector> pack(const acc (&in)[kVector]) {
  Pack<scalar_t, kVector> packed;
#pragma unroll
  for (int v = 0; v < kVector; ++v) packed.value[v] = static_cast<scalar_t>(in[v]);
  return packed;
}

// Numbers that lie side by side, in the type of sums. A bfloat16 is the upper half of a float: two of them take an
// instruction each, where the compiler has three for both.
template <typename scalar_t, typename acc, int kVector>
__device__ __forceinline__ void unpack(const Pack<scalar_t, kVector>& packed, acc (&out)[kVector]) {
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16> && kVector % 2 == 0) {
    const auto words = __builtin_bit_cast(Pack<uint32_t, kVector / 2>, packed);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const uint32_t word = words.value[v / 2];
      out[v] = __uint_as_float(v % 2 == 0 ? word << 16 : word & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int v = 0; v < kVector; ++v) out[v] = static_cast<acc>(packed.value[v]);
  }
}

// Rounds numbers as a map of scalar_t would.
template <typename scalar_t, typename acc, int kVector>
__device__ __forceinline__ void round_as(acc (&value)[kVector]) {
  unpack(pack<scalar_t>(value), value);
}

}  // namespace ssm
