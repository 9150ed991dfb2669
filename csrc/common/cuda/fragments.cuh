// Products of tensor cores on small matrices that a warp holds in registers (mma.sync, from sm_80 on). Older GPUs have
// no such instructions; hosts ask what a kernel was compiled for before they launch it.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "common/cuda/async_copy.cuh"

namespace ssm {

// Two numbers of a half type in a register, the first in the lower half.
template <typename scalar_t>
__device__ __forceinline__ uint32_t pack(float first, float second) {
  uint32_t packed = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  }
#endif
  return packed;
}

// The two numbers of such a register.
template <typename scalar_t>
__device__ __forceinline__ float2 unpack(uint32_t packed) {
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
    // A bfloat16 is the upper half of a float.
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
  } else {
    float2 numbers{};
    asm("{\n .reg .f16 low, high;\n mov.b32 {low, high}, %2;\n cvt.f32.f16 %0, low;\n cvt.f32.f16 %1, high;\n}"
        : "=f"(numbers.x), "=f"(numbers.y)
        : "r"(packed));
    return numbers;
  }
}

// A factor of a product: 16 × 16 numbers, four of which a lane holds in pairs. Lane 4 r + c holds the columns 2 c and
// 2 c + 1 of row r, then of row r + 8, then of both with columns 8 further.
struct Factor {
  uint32_t pairs[4];
};

// A result: 16 rows of 8 float numbers. Lane 4 r + c holds the columns 2 c and 2 c + 1 of row r, then of row r + 8.
struct Result {
  float values[4];
};

// Where a lane reads its row of eight numbers when a warp loads 16 × 16 numbers, which lie in rows. The left factor
// takes the quarters down the rows first, and the right factor, when its rows are columns of the product, to the right.
__device__ __forceinline__ int row_down_first(int lane) {
  return lane % 16;
}
__device__ __forceinline__ int column_down_first(int lane) {
  return lane / 16 * 8;
}
__device__ __forceinline__ int row_right_first(int lane) {
  return lane % 8 + lane / 16 * 8;
}
__device__ __forceinline__ int column_right_first(int lane) {
  return lane / 8 % 2 * 8;
}

__device__ __forceinline__ Factor load_matrix(uint32_t row) {
  Factor f{};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(f.pairs[0]), "=r"(f.pairs[1]), "=r"(f.pairs[2]), "=r"(f.pairs[3])
      : "r"(row)
      : "memory");
#endif
  return f;
}

__device__ __forceinline__ Factor load_transposed(uint32_t row) {
  Factor f{};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(f.pairs[0]), "=r"(f.pairs[1]), "=r"(f.pairs[2]), "=r"(f.pairs[3])
      : "r"(row)
      : "memory");
#endif
  return f;
}

// Transposes 8 × 8 numbers, of which lane 4 r + c holds the columns 2 c and 2 c + 1 of row r.
__device__ __forceinline__ uint32_t transposed(uint32_t pair) {
  uint32_t result = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
#endif
  return result;
}

// Adds a product to 16 × 8 numbers of the result. The right factor is half of a loaded matrix: two of its registers.
template <typename scalar_t>
__device__ __forceinline__ void add_product(Result& sum, const Factor& left, uint32_t right0, uint32_t right1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum.values[0]), "+f"(sum.values[1]), "+f"(sum.values[2]), "+f"(sum.values[3])
        : "r"(left.pairs[0]), "r"(left.pairs[1]), "r"(left.pairs[2]), "r"(left.pairs[3]), "r"(right0), "r"(right1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum.values[0]), "+f"(sum.values[1]), "+f"(sum.values[2]), "+f"(sum.values[3])
        : "r"(left.pairs[0]), "r"(left.pairs[1]), "r"(left.pairs[2]), "r"(left.pairs[3]), "r"(right0), "r"(right1));
  }
#endif
}

// Adds products to two results that lie side by side, 16 × 16 numbers.
template <typename scalar_t>
__device__ __forceinline__ void add_products(Result* sums, const Factor& left, const Factor& right) {
  add_product<scalar_t>(sums[0], left, right.pairs[0], right.pairs[1]);
  add_product<scalar_t>(sums[1], left, right.pairs[2], right.pairs[3]);
}

// Writes 16 × 16 numbers, given as lanes hold two results that lie side by side, into rows of `stride` numbers.
// Neighbouring lanes exchange pairs first, so that a lane writes four numbers at once, and a row's are 32 bytes.
// `below` is whether row r + 8 exists, `here` whether row r does.
template <typename scalar_t>
__device__ __forceinline__ void store_matrix(
    scalar_t* first, int64_t stride, int lane, const Factor& pairs, bool here, bool below) {
  const bool odd = lane % 2 != 0;
  const uint32_t from_upper = __shfl_xor_sync(~0u, odd ? pairs.pairs[0] : pairs.pairs[2], 1);
  const uint32_t from_lower = __shfl_xor_sync(~0u, odd ? pairs.pairs[1] : pairs.pairs[3], 1);
  const uint2 upper = odd ? make_uint2(from_upper, pairs.pairs[2]) : make_uint2(pairs.pairs[0], from_upper);
  const uint2 lower = odd ? make_uint2(from_lower, pairs.pairs[3]) : make_uint2(pairs.pairs[1], from_lower);
  scalar_t* to = first + lane / 4 * stride + (odd ? 8 : 0) + lane % 4 / 2 * 4;
  if (here) *reinterpret_cast<uint2*>(to) = upper;
  if (below) *reinterpret_cast<uint2*>(to + 8 * stride) = lower;
}

// Two results that lie side by side, rounded: as a left factor, or to be written.
template <typename scalar_t>
__device__ __forceinline__ Factor rounded(const Result* results) {
  const float *a = results[0].values, *b = results[1].values;
  return {
      {pack<scalar_t>(a[0], a[1]), pack<scalar_t>(a[2], a[3]), pack<scalar_t>(b[0], b[1]), pack<scalar_t>(b[2], b[3])}};
}

}  // namespace ssm
