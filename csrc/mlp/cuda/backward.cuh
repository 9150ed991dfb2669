// The backward pass: u and h are computed again, so that the forward pass keeps nothing but x.
#pragma once

#include "common/cuda/column_sums.cuh"
#include "common/cuda/gelu.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/two_layers.cuh"
#include "mlp/cuda/launch.h"
#include "mlp/cuda/tuning.h"

namespace ssm {
namespace {

// Adds up eight numbers of every lane over the lanes of a column, which are four apart. Lane 4 r + c returns the sum of
// its column's r-th numbers.
__device__ __forceinline__ float sum_rows(const float (&values)[8], int lane) {
  float fours[4], twos[2];
  const bool high = lane & 16, middle = lane & 8, low = lane & 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float give = high ? values[i] : values[i + 4], keep = high ? values[i + 4] : values[i];
    fours[i] = keep + __shfl_xor_sync(~0u, give, 16);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float give = middle ? fours[i] : fours[i + 2], keep = middle ? fours[i + 2] : fours[i];
    twos[i] = keep + __shfl_xor_sync(~0u, give, 8);
  }
  const float give = low ? twos[0] : twos[1], keep = low ? twos[1] : twos[0];
  return keep + __shfl_xor_sync(~0u, give, 4);
}

template <typename scalar_t, int kSteps>
__global__ void __launch_bounds__(kLayerThreads, 1) mlp_backward_kernel(MlpLaunch p) {
  constexpr int kChannels = kSteps * kWide, kTile = kWide * kLayerWarps, kPairs = kHiddenChunk / kWide;
  constexpr int kRow1 = kChannels + kRowPad, kRow2 = kHiddenChunk + kRowPad;
  constexpr bool kHeld = kSteps <= 8;  // whether the registers hold the tokens beside their gradients
  extern __shared__ __align__(16) char shared[];
  const MlpMemory<scalar_t> memory(true, kTile, kChannels, p.layers.hidden, p.layers.chunks, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2;
  const int64_t tiles = (p.tokens + kTile - 1) / kTile;
  scalar_t* own_tokens = memory.tokens + warp * kWide * kRow1;
  scalar_t* own_gradients = memory.gradients + warp * kWide * kRow1;
  float* own_sums = memory.sums + warp * p.layers.hidden;
  const auto copy_maps = [&](int64_t tile) {
    const int64_t token = tile * kTile + warp * kWide;
    copy_tokens<scalar_t, kChannels, kWide>(own_tokens, p.x, token, p.tokens);
    copy_tokens<scalar_t, kChannels, kWide>(own_gradients, p.grad_y, token, p.tokens);
  };

  for (int i = threadIdx.x; i < p.layers.hidden; i += kLayerThreads) memory.bias1[i] = p.bias1[i];
  if (kHeld) copy_maps(blockIdx.x * p.of_group);
  Chunks<scalar_t, kChannels, kChannels> chunks(p.layers, memory.weights);
  const uint32_t from_x = address_of(own_tokens, row_down_first(lane), column_down_first(lane), kRow1);
  const uint32_t from_g = address_of(own_gradients, row_down_first(lane), column_down_first(lane), kRow1);

  for (int64_t group = blockIdx.x; group < p.groups; group += gridDim.x) {
    const int64_t end = min((group + 1) * p.of_group, tiles), next_group = (group + gridDim.x) * p.of_group;
    for (int i = lane; i < p.layers.hidden; i += 32) own_sums[i] = 0;
    __syncwarp();
    for (int64_t tile = group * p.of_group; tile < end; ++tile) {
      if (!kHeld) copy_maps(tile);
      Factor x[kSteps], g[kSteps];
      Result grad_x[2 * kSteps] = {};
      const int64_t token = tile * kTile + warp * kWide, mine = token + lane / 4;
#pragma unroll 1
      for (int begin = 0; begin < p.layers.hidden; begin += kHiddenChunk) {
        const scalar_t* weight1 = chunks.next();
        const scalar_t* weight2 = weight1 + first_items(kChannels);
        if (begin == 0) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            g[step] = load_matrix(from_g + step * kWide * sizeof(scalar_t));
            if (kHeld) x[step] = load_matrix(from_x + step * kWide * sizeof(scalar_t));
          }
          __syncwarp();
          const int64_t next = tile + 1 < end ? tile + 1 : next_group;
          if (kHeld && next < tiles) copy_maps(next);
        }
        Result u[2 * kPairs], grad_h[2 * kPairs] = {};
#pragma unroll
        for (int j = 0; j < 2 * kPairs; ++j) {
          const float2 bias = *reinterpret_cast<const float2*>(memory.bias1 + begin + 8 * j + pair);
          u[j] = {{bias.x, bias.y, bias.x, bias.y}};
        }
        const uint32_t from1 = address_of(weight1, row_right_first(lane), column_right_first(lane), kRow1);
        const uint32_t from2 = address_of(weight2, row_down_first(lane), column_down_first(lane), kRow2);
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          if (!kHeld) x[step] = load_matrix(from_x + step * kWide * sizeof(scalar_t));
#pragma unroll
          for (int j = 0; j < kPairs; ++j) {
            add_products<scalar_t>(
                &u[2 * j], x[step], load_matrix(from1 + (j * kWide * kRow1 + step * kWide) * sizeof(scalar_t)));
            add_products<scalar_t>(&grad_h[2 * j], g[step],
                load_transposed(from2 + (step * kWide * kRow2 + j * kWide) * sizeof(scalar_t)));
          }
        }
        float sums[8];
        Factor grad_u[kPairs];
#pragma unroll
        for (int j = 0; j < 2 * kPairs; ++j) {
          float *values = u[j].values, *slopes = grad_h[j].values;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const Normal normal = normal_tail(values[i]);
            slopes[i] *= gelu_slope(values[i], normal);
            values[i] = gelu(values[i], normal);
          }
          sums[2 * j] = slopes[0] + slopes[2];
          sums[2 * j + 1] = slopes[1] + slopes[3];
        }
        const float sum = sum_rows(sums, lane);
        own_sums[begin + lane / 8 * 8 + pair + lane / 4 % 2] += sum;
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          grad_u[j] = rounded<scalar_t>(&grad_h[2 * j]);
          const int64_t place = token * p.layers.hidden + begin + j * kWide;
          store_matrix(static_cast<scalar_t*>(p.h) + place, p.layers.hidden, lane, rounded<scalar_t>(&u[2 * j]),
              mine < p.tokens, mine + 8 < p.tokens);
          store_matrix(static_cast<scalar_t*>(p.grad_u) + place, p.layers.hidden, lane, grad_u[j], mine < p.tokens,
              mine + 8 < p.tokens);
        }
        const uint32_t again1 = address_of(weight1, row_down_first(lane), column_down_first(lane), kRow1);
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            add_products<scalar_t>(&grad_x[2 * step], grad_u[j],
                load_transposed(again1 + (j * kWide * kRow1 + step * kWide) * sizeof(scalar_t)));
          }
        }
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        store_matrix(static_cast<scalar_t*>(p.grad_x) + token * kChannels + step * kWide, kChannels, lane,
            rounded<scalar_t>(&grad_x[2 * step]), mine < p.tokens, mine + 8 < p.tokens);
      }
      __syncwarp();  // all lanes have read the tokens
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.layers.hidden; i += kLayerThreads) {
      float sum = 0;
#pragma unroll
      for (int other = 0; other < kLayerWarps; ++other) sum += memory.sums[other * p.layers.hidden + i];
      p.partial[group * p.layers.hidden + i] = sum;
    }
    __syncthreads();
  }
  wait_for_copies();
}

}  // namespace
}  // namespace ssm
