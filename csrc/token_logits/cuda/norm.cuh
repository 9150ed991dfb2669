// The norm before the score predictor's layers, of tokens as tensor cores read them.
#pragma once

#include "common/cuda/fragments.cuh"
#include "common/cuda/two_layers.h"

namespace ssm {
namespace {

// The sum over the four lanes that have a row.
__device__ __forceinline__ float sum_of_row(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

// Brings a warp's 16 rows to mean 0 and variance 1, and applies the norm's weight and bias. load(step) returns 16
// columns as a left factor, which a lane has two rows of, and keep(step, columns) takes them back. kUnroll steps are at
// work at once. One pass sums, of distances to the row's first number, since the variance is then a difference that
// loses little: the square of that number's own distance to the mean is at most the sum of all squares.
template <typename scalar_t, int kSteps, int kUnroll, typename Load, typename Keep>
__device__ __forceinline__ void normalize_rows(
    const Load& load, const Keep& keep, const float* gamma, const float* beta, float eps, int pair) {
  constexpr float kShare = 1.f / (kSteps * kWide);
  float first[2], sum[2] = {0, 0}, squares[2] = {0, 0}, mean[2], scale[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    first[row] = __shfl_sync(~0u, unpack<scalar_t>(load(0).pairs[row]).x, threadIdx.x % 32 / 4 * 4);
  }
#pragma unroll kUnroll
  for (int step = 0; step < kSteps; ++step) {
    const Factor columns = load(step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 value = unpack<scalar_t>(columns.pairs[i]);
      const float x = value.x - first[i % 2], y = value.y - first[i % 2];
      sum[i % 2] += x;
      sum[i % 2] += y;
      squares[i % 2] = fmaf(x, x, squares[i % 2]);
      squares[i % 2] = fmaf(y, y, squares[i % 2]);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float distance = sum_of_row(sum[row]) * kShare;
    mean[row] = first[row] + distance;
    scale[row] = rsqrtf(fmaf(-distance, distance, sum_of_row(squares[row]) * kShare) + eps);
  }
#pragma unroll kUnroll
  for (int step = 0; step < kSteps; ++step) {
    Factor columns = load(step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int channel = step * kWide + i / 2 * 8 + pair;
      const float2 g = *reinterpret_cast<const float2*>(gamma + channel);
      const float2 b = *reinterpret_cast<const float2*>(beta + channel);
      const float2 value = unpack<scalar_t>(columns.pairs[i]);
      columns.pairs[i] = pack<scalar_t>(
          (value.x - mean[i % 2]) * scale[i % 2] * g.x + b.x, (value.y - mean[i % 2]) * scale[i % 2] * g.y + b.y);
    }
    keep(step, columns);
  }
}

}  // namespace
}  // namespace ssm
