// The score predictor in one pass: a warp keeps its tokens in registers from the norm to the logit.
#pragma once

#include <type_traits>

#include "common/cuda/gelu.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/two_layers.cuh"
#include "token_logits/cuda/launch.h"
#include "token_logits/cuda/norm.cuh"
#include "token_logits/cuda/tuning.h"

namespace ssm {
namespace {

constexpr const char* kLogitsName = "token_logits";

// Adds the bias and applies GELU to two results that lie side by side. `bias` is that of the first column.
__device__ __forceinline__ void activate(Result* results, const float* bias, int pair) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * half + pair);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = results[half].values[i] + (i % 2 == 0 ? b.x : b.y);
      results[half].values[i] = gelu(value, normal_tail(value));
    }
  }
}

template <typename scalar_t, int kSteps>
__global__ void __launch_bounds__(kLayerThreads, 1) token_logits_kernel(TokenLogitsLaunch p) {
  constexpr int kChannels = kSteps * kWide, kOut = kChannels / 2, kOutSteps = kSteps / 2, kLast = kChannels / 4;
  constexpr int kRow1 = kChannels + kRowPad, kRow2 = kHiddenChunk + kRowPad, kRow3 = kOut + kRowPad;
  constexpr int kPairs = kHiddenChunk / kWide, kLastRows = last_rows(kChannels);
  static_assert(kSteps % 2 == 0, "half of the channels are made of whole matrices");
  constexpr bool kHeld = kSteps <= 12;  // whether the registers hold the tokens beside the second layer's results
  extern __shared__ __align__(16) char shared[];
  const TokenLogitsMemory<scalar_t> memory(kChannels, p.layers.chunks, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2;
  scalar_t* own = memory.tokens + warp * kWide * kRow1;
  const int64_t tiles = (p.tokens + kLogitsTile - 1) / kLogitsTile;

  for (int i = threadIdx.x; i < kChannels; i += kLayerThreads) {
    memory.gamma[i] = p.gamma[i];
    memory.beta[i] = p.beta[i];
    memory.bias1[i] = p.bias1[i];
    if (i < kOut) memory.bias2[i] = p.bias2[i];
    if (i < kLastRows) {
      memory.bias3[i] = i < kLast ? p.bias3[i] : 0.f;
      memory.weight4[i] = i < kLast ? p.weight4[i] : 0.f;
    }
  }
  for (int i = threadIdx.x; i < kLastRows * (kOut / kCopied); i += kLayerThreads) {
    const int row = i / (kOut / kCopied), column = i % (kOut / kCopied) * kCopied;
    const bool exists = row < kLast;
    copy_async_or_zero<16>(memory.weight3 + row * kRow3 + column,
        static_cast<const scalar_t*>(p.weight3) + (exists ? row : 0) * kOut + column, exists);
  }
  copy_tokens<scalar_t, kChannels, kWide>(
      own, p.x, static_cast<int64_t>(blockIdx.x) * kLogitsTile + warp * kWide, p.tokens);
  Chunks<scalar_t, kChannels, kOut> chunks(p.layers, memory.weights);
  const float bias4 = *p.bias4;
  const uint32_t from_x = address_of(own, row_down_first(lane), column_down_first(lane), kRow1);
  // The third weight and the parameters are there after the first chunk's barrier.

  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t token = tile * kLogitsTile + warp * kWide,
                  next = token + static_cast<int64_t>(gridDim.x) * kLogitsTile;
    Factor x[kSteps];
    Result y[2 * kOutSteps] = {};
#pragma unroll 1
    for (int begin = 0; begin < kChannels; begin += kHiddenChunk) {
      const scalar_t* weight1 = chunks.next();
      const scalar_t* weight2 = weight1 + first_items(kChannels);
      if (begin == 0 && kHeld) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) x[step] = load_matrix(from_x + step * kWide * sizeof(scalar_t));
        __syncwarp();
        if (tile + gridDim.x < tiles) copy_tokens<scalar_t, kChannels, kWide>(own, p.x, next, p.tokens);
        normalize_rows<scalar_t, kSteps, kSteps>([&](int step) { return x[step]; },
            [&](int step, const Factor& columns) { x[step] = columns; }, memory.gamma, memory.beta, p.eps, pair);
      } else if (begin == 0) {
        scalar_t* const mine = own + lane / 4 * kRow1 + pair;
        const auto keep = [&](int step, const Factor& columns) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            *reinterpret_cast<uint32_t*>(mine + i % 2 * 8 * kRow1 + step * kWide + i / 2 * 8) = columns.pairs[i];
          }
        };
        normalize_rows<scalar_t, kSteps, 4>(
            [&](int step) { return load_matrix(from_x + step * kWide * sizeof(scalar_t)); }, keep, memory.gamma,
            memory.beta, p.eps, pair);
        __syncwarp();
      }
      Result u[2 * kPairs] = {};
      const uint32_t from1 = address_of(weight1, row_right_first(lane), column_right_first(lane), kRow1);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if (!kHeld) x[step] = load_matrix(from_x + step * kWide * sizeof(scalar_t));
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const Factor w = load_matrix(from1 + (j * kWide * kRow1 + step * kWide) * sizeof(scalar_t));
          add_products<scalar_t>(&u[2 * j], x[step], w);
        }
      }
      const uint32_t from2 = address_of(weight2, row_right_first(lane), column_right_first(lane), kRow2);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        activate(&u[2 * j], memory.bias1 + begin + j * kWide, pair);
        const Factor h = rounded<scalar_t>(&u[2 * j]);
#pragma unroll
        for (int step = 0; step < kOutSteps; ++step) {
          const Factor w = load_matrix(from2 + (step * kWide * kRow2 + j * kWide) * sizeof(scalar_t));
          add_products<scalar_t>(&y[2 * step], h, w);
        }
      }
    }
    if (!kHeld) {
      __syncwarp();  // all lanes have read the tokens
      if (tile + gridDim.x < tiles) copy_tokens<scalar_t, kChannels, kWide>(own, p.x, next, p.tokens);
    }
    Factor h2[kOutSteps];
#pragma unroll
    for (int step = 0; step < kOutSteps; ++step) {
      activate(&y[2 * step], memory.bias2 + step * kWide, pair);
      h2[step] = rounded<scalar_t>(&y[2 * step]);
    }
    float logits[2] = {0, 0};  // of the lane's first row and its second
#pragma unroll
    for (int row = 0; row < kLastRows; row += kWide) {
      Result u[2] = {};
      const uint32_t from3 = address_of(memory.weight3, row + row_right_first(lane), column_right_first(lane), kRow3);
#pragma unroll
      for (int step = 0; step < kOutSteps; ++step) {
        add_products<scalar_t>(u, h2[step], load_matrix(from3 + step * kWide * sizeof(scalar_t)));
      }
      activate(u, memory.bias3 + row, pair);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 w = *reinterpret_cast<const float2*>(memory.weight4 + row + 8 * half + pair);
        logits[0] += u[half].values[0] * w.x + u[half].values[1] * w.y;
        logits[1] += u[half].values[2] * w.x + u[half].values[3] * w.y;
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float logit = sum_of_row(logits[row]) + bias4;
      const int64_t place = token + lane / 4 + 8 * row;
      if (lane % 4 == 0 && place < p.tokens) p.logits[place] = logit;
    }
  }
  wait_for_copies();
}

template <typename scalar_t, int kSteps>
void launch_logits_as(TokenLogitsLaunch p) {
  launch_pack<scalar_t>(kLogitsName, p.layers);
  auto* const kernel = token_logits_kernel<scalar_t, kSteps>;
  const auto bytes = [&](int chunks) { return TokenLogitsMemory<scalar_t>(p.layers.channels, chunks, nullptr).bytes; };
  p.layers.chunks = p.layers.chunks_of_all();
  if (bytes(p.layers.chunks) > kernel_limits(kernel, kLogitsName).shared) p.layers.chunks = kChunkStages;
  launch_kernel(kLogitsName, kernel,
      {dim3(static_cast<unsigned>(p.blocks)), dim3(kLayerThreads), bytes(p.layers.chunks), 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_token_logits(const TokenLogitsLaunch& p) {
  with_listed<kLogitsChannels>(
      p.layers.channels, [&](auto channels) { launch_logits_as<scalar_t, channels / kWide>(p); });
}

}  // namespace ssm
