// Rows of a [B, L, D] tensor: the channels of one vertex that one thread has.
#pragma once

#include <type_traits>

#include "common/cuda/launch.h"
#include "common/cuda/math.cuh"
#include "common/pack.h"
#include "common/scalar.h"

namespace ssm {

template <typename acc, int N>
struct Channels {
  acc value[N];
  __device__ acc& operator[](int c) { return value[c]; }
  __device__ const acc& operator[](int c) const { return value[c]; }
};

// kIsAligned: whether every row begins at a multiple of 16 bytes.
template <typename scalar, typename weight, int kVector, bool kIsAligned, bool kIsBoth, bool kIsBackward>
struct ScanKind {
  using scalar_t = scalar;
  using weight_t = weight;
  using acc = acc_t<scalar>;
  static constexpr int kWidth = kVector;
  static constexpr bool kAligned = kIsAligned, kBoth = kIsBoth, kBackward = kIsBackward;
};

template <typename acc, int N, typename T>
__device__ Channels<acc, N> read_row(const T* from) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
  Channels<acc, N> row;
#pragma unroll
  for (int c = 0; c < N; ++c) row[c] = static_cast<acc>(pack.value[c]);
  return row;
}

template <typename T, typename acc, int N>
__device__ void write_row(T* to, const Channels<acc, N>& row, bool really = true) {
  Pack<T, N> pack;
#pragma unroll
  for (int c = 0; c < N; ++c) pack.value[c] = static_cast<T>(row[c]);
  if (really) *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

}  // namespace ssm
