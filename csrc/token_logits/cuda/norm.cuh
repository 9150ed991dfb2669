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
// work at once. Columns are loaded for each pass.
template <typename scalar_t, int kSteps, int kUnroll, typename Load, typename Keep>
__device__ __forceinline__ void normalize_rows(
    const Load& load, const Keep& keep, const float* gamma, const float* beta, float eps, int pair) {
  constexpr float kShare = 1.f / (kSteps * kWide);
  float mean[2] = {0, 0}, scale[2] = {0, 0};
#pragma unroll kUnroll
  for (int step = 0; step < kSteps; ++step) {
    const Factor columns = load(step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 value = unpack<scalar_t>(columns.pairs[i]);
      mean[i % 2] += value.x + value.y;
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) mean[row] = sum_of_row(mean[row]) * kShare;
#pragma unroll kUnroll
  for (int step = 0; step < kSteps; ++step) {
    const Factor columns = load(step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 value = unpack<scalar_t>(columns.pairs[i]);
      const float x = value.x - mean[i % 2], y = value.y - mean[i % 2];
      scale[i % 2] += x * x + y * y;
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) scale[row] = rsqrtf(sum_of_row(scale[row]) * kShare + eps);
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
