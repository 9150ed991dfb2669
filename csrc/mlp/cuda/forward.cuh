// The forward pass: a warp keeps its tokens and their results in registers, and the hidden channels pass by.
#pragma once

#include "common/cuda/gelu.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/two_layers.cuh"
#include "mlp/cuda/launch.h"
#include "mlp/cuda/tuning.h"

namespace ssm {
namespace {

template <typename scalar_t, int kSteps>
__global__ void __launch_bounds__(kLayerThreads, 1) mlp_kernel(MlpLaunch p) {
  constexpr int kRows = mlp_rows(kSteps), kChannels = kSteps * kWide, kTokens = kRows * kWide;
  constexpr int kRow1 = kChannels + kRowPad, kRow2 = kHiddenChunk + kRowPad, kTile = kTokens * kLayerWarps;
  constexpr int kPairs = kHiddenChunk / kWide;
  extern __shared__ __align__(16) char shared[];
  const MlpMemory<scalar_t> memory(false, kTile, kChannels, p.layers.hidden, p.layers.chunks, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2;
  scalar_t* own = memory.tokens + warp * kTokens * kRow1;
  const int64_t tiles = (p.tokens + kTile - 1) / kTile;

  for (int i = threadIdx.x; i < p.layers.hidden; i += kLayerThreads) memory.bias1[i] = p.bias1[i];
  copy_tokens<scalar_t, kChannels, kTokens>(
      own, p.x, static_cast<int64_t>(blockIdx.x) * kTile + warp * kTokens, p.tokens);
  Chunks<scalar_t, kChannels, kChannels> chunks(p.layers, memory.weights);

  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t token = tile * kTile + warp * kTokens, next = token + static_cast<int64_t>(gridDim.x) * kTile;
    Factor x[kRows][kSteps];
    Result y[kRows][2 * kSteps] = {};
#pragma unroll 1
    for (int begin = 0; begin < p.layers.hidden; begin += kHiddenChunk) {
      const scalar_t* weight1 = chunks.next();
      const scalar_t* weight2 = weight1 + first_items(kChannels);
      if (begin == 0) {
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            x[row][step] = load_matrix(
                address_of(own, row * kWide + row_down_first(lane), step * kWide + column_down_first(lane), kRow1));
          }
        }
        __syncwarp();
        if (tile + gridDim.x < tiles) copy_tokens<scalar_t, kChannels, kTokens>(own, p.x, next, p.tokens);
      }
      Result u[kRows][2 * kPairs];
#pragma unroll
      for (int j = 0; j < 2 * kPairs; ++j) {
        const float2 bias = *reinterpret_cast<const float2*>(memory.bias1 + begin + 8 * j + pair);
#pragma unroll
        for (int row = 0; row < kRows; ++row) u[row][j] = {{bias.x, bias.y, bias.x, bias.y}};
      }
      const uint32_t from1 = address_of(weight1, row_right_first(lane), column_right_first(lane), kRow1);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const Factor w = load_matrix(from1 + (j * kWide * kRow1 + step * kWide) * sizeof(scalar_t));
#pragma unroll
          for (int row = 0; row < kRows; ++row) add_products<scalar_t>(&u[row][2 * j], x[row][step], w);
        }
      }
      Factor h[kRows][kPairs];
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            float& value = u[row][2 * j + i / 4].values[i % 4];
            value = gelu(value, normal_tail(value));
          }
          h[row][j] = rounded<scalar_t>(&u[row][2 * j]);
        }
      }
      const uint32_t from2 = address_of(weight2, row_right_first(lane), column_right_first(lane), kRow2);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const Factor w = load_matrix(from2 + (step * kWide * kRow2 + j * kWide) * sizeof(scalar_t));
#pragma unroll
          for (int row = 0; row < kRows; ++row) add_products<scalar_t>(&y[row][2 * step], h[row][j], w);
        }
      }
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 bias = *reinterpret_cast<const float2*>(p.bias2 + step * kWide + 8 * half + pair);
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          float* values = y[row][2 * step + half].values;
          values[0] += bias.x, values[1] += bias.y, values[2] += bias.x, values[3] += bias.y;
        }
      }
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const int64_t first = token + row * kWide, mine = first + lane / 4;
        store_matrix(static_cast<scalar_t*>(p.y) + first * kChannels + step * kWide, kChannels, lane,
            rounded<scalar_t>(&y[row][2 * step]), mine < p.tokens, mine + 8 < p.tokens);
      }
    }
  }
  wait_for_copies();
}

}  // namespace
}  // namespace ssm
