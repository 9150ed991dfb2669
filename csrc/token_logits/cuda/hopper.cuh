// The score predictor on Hopper: a warpgroup keeps the second layer's results of 64 tokens in registers while the
// hidden channels pass by, then goes on to the logits. The warpgroups of a block are at different places, so that some
// compute the norm or GELU while others wait for tensor cores.
#pragma once

#include "common/cuda/gelu.cuh"
#include "common/cuda/hopper_layers.cuh"
#include "token_logits/cuda/hopper.h"
#include "token_logits/cuda/norm.cuh"
#include "token_logits/cuda/tuning.h"

namespace ssm {
namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Norms a warp's 16 tokens in the cores of its warpgroup.
template <typename scalar_t, int kChannels>
__device__ __forceinline__ void norm_tokens(uint32_t cores, const HopperLogitsMemory& memory, float eps) {
  constexpr int kSteps = kChannels / kWide, kStep = 2 * kGroupRows * 16;
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * kWide + row_down_first(lane);
  const uint32_t mine = cores + (column_down_first(lane) / kCopied * kGroupRows + row) * 16;
  normalize_rows<scalar_t, kSteps, 4>([&](int step) { return load_matrix(mine + step * kStep); },
      [&](int step, const Factor& columns) { keep_matrix(mine + step * kStep, columns); }, memory.gamma, memory.beta,
      eps, lane % 4 * 2);
}

// Sums begin as the bias, that of the lane's column first.
template <int kCount>
__device__ __forceinline__ void begin_with(Result (&sums)[kCount], const float* bias) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * i);
    float (&values)[4] = sums[i].values;
    values[0] = values[2] = b.x;
    values[1] = values[3] = b.y;
  }
}

// GELU of 16 kCount columns, rounded: as left factors.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void activate(const Result* sums, Factor* h) {
#pragma unroll
  for (int i = 0; i < 2 * kCount; ++i) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float2 active = gelu_in_units(sums[i].values[2 * row], sums[i].values[2 * row + 1]);
      h[i / 2].pairs[i % 2 * 2 + row] = pack<scalar_t>(active.x, active.y);
    }
  }
}

// The lane's share of the two rows that it has: GELU of the third layer's results, weighted.
template <int kCount>
__device__ __forceinline__ void weigh(
    const Result (&sums)[kCount], const float* bias, const float* weight, float (&logits)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * i);
    const float2 w = *reinterpret_cast<const float2*>(weight + 8 * i);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float2 h = gelu_in_units(sums[i].values[2 * row] + b.x, sums[i].values[2 * row + 1] + b.y);
      logits[row] = fmaf(h.x, w.x, fmaf(h.y, w.y, logits[row]));
    }
  }
}

#endif

template <typename scalar_t, int kChannels>
__global__ void __launch_bounds__(kGroupThreads* logits_groups(kChannels), 1)
    hopper_logits_kernel(HopperLogitsLaunch p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kGroups = logits_groups(kChannels), kTile = kGroups * kGroupRows, kThreads = kGroups * kGroupThreads;
  constexpr int kOut = kChannels / 2, kLast = kChannels / 4, kChunk = logits_chunk(kChannels);
  constexpr int kColumns = kOut > 96 ? 64 : kOut, kParts = kOut / kColumns;  // of the second product
  constexpr int kItems = kChunk * kOut / logits_split(kChannels);
  constexpr int kDeep1 = kItems / kChunk, kDeep2 = kItems / kOut, kDeep3 = kItems / kLast;  // columns of a piece
  static_assert(kChannels % kChunk == 0 && kChannels % kDeep1 == 0 && kChunk % kDeep2 == 0);
  static_assert(kParts * kColumns == kOut && kDeep1 % kWide == 0 && kDeep2 % kWide == 0 && kDeep3 % kWide == 0);
  static_assert(kDeep3 % kColumns == 0 || kDeep3 > kOut);  // a part of the second layer's results is in one piece
  extern __shared__ __align__(kHopperAligned) char shared[];
  const HopperLogitsMemory memory(kChannels, 0, shared);
  // The number of the warpgroup is the same in all lanes, which the compiler has to see: descriptors are made of it.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int lane = threadIdx.x % 32, pair = lane % 4 * 2;
  const int tiles = static_cast<int>((p.tokens + kTile - 1) / kTile);
  const int rounds = (tiles - 1 - static_cast<int>(blockIdx.x)) / static_cast<int>(gridDim.x) + 1;

  char* const own = memory.tokens + group * HopperLogitsMemory::token_bytes(kChannels);
  const uint32_t cores = shared_address(own);
  const auto first_token = [&](int tile) { return static_cast<int64_t>(tile) * kTile + group * kGroupRows; };
  copy_tokens_to_cores<scalar_t, kChannels>(own, p.x, first_token(blockIdx.x), p.tokens);
  for (int i = threadIdx.x; i < kChannels; i += kThreads) {
    // From the norm to the last weight, all numbers are in the unit that GELU is computed in.
    memory.gamma[i] = p.gamma[i] * kGeluUnit;
    memory.beta[i] = p.beta[i] * kGeluUnit;
    memory.bias1[i] = p.bias1[i] * kGeluUnit;
    if (i < kOut) memory.bias2[i] = p.bias2[i] * kGeluUnit;
    if (i < kLast) {
      memory.bias3[i] = p.bias3[i] * kGeluUnit;
      memory.weight4[i] = p.weight4[i] * (1 / kGeluUnit);
    }
  }
  if (threadIdx.x == 0) {
    init_barriers(memory.barriers, p.layers.stages);
    for (int stage = 0; stage < p.layers.stages; ++stage) memory.counters[stage] = 0;
  }
  __syncthreads();
  Pieces<4 * kGroups> pieces(p.layers, shared_address(memory.pieces), shared_address(memory.barriers),
      shared_address(memory.counters), rounds);
  const float bias4 = *p.bias4;
  const auto nothing = [](int) {};

  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int next = tile + static_cast<int>(gridDim.x);
    wait_for_copies();
    __syncwarp();
    norm_tokens<scalar_t, kChannels>(cores, memory, p.eps);
    publish_to_products();
    meet_group(group);
    Result y[kParts][kColumns / 8];
#pragma unroll
    for (int part = 0; part < kParts; ++part) begin_with(y[part], memory.bias2 + part * kColumns + pair);
#pragma unroll 1
    for (int begin = 0; begin < kChannels; begin += kChunk) {
      Result u[kChunk / 8];
      Factor h[kChunk / kWide];
      begin_with(u, memory.bias1 + begin + pair);
      const uint64_t x = describe(cores, kGroupRows * 16);
      multiply_pieces<kChunk, kChannels, kDeep1>(pieces, nothing, [&](int step, uint64_t weight) {
        start_product<scalar_t>(u, advance(x, step * 2 * kGroupRows * 16), weight, 1);
      });
      settle(u);
      if (begin + kChunk == kChannels && next < tiles) {
        meet_group(group);  // all warps have ended their products with the tokens
        copy_tokens_to_cores<scalar_t, kChannels>(own, p.x, first_token(next), p.tokens);
      }
      multiply_pieces<kOut, kChunk, kDeep2>(
          pieces,
          [&](int piece) {
            activate<scalar_t, kDeep2 / kWide>(u + piece * (kDeep2 / 8), h + piece * (kDeep2 / kWide));
          },
          [&](int step, uint64_t weight) {
#pragma unroll
            for (int part = 0; part < kParts; ++part) {
              start_product<scalar_t>(y[part], h[step], advance(weight, part * kColumns * 16), 1);
            }
          });
#pragma unroll
      for (int part = 0; part < kParts; ++part) settle(y[part]);
    }
    Result u[kLast / 8];
    Factor h[kOut / kWide];
    unset(u);  // the bias would need registers while GELU is computed
    multiply_pieces<kLast, kOut, kDeep3>(
        pieces,
        [&](int piece) {
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            if (part * kColumns / kDeep3 != piece) continue;
            activate<scalar_t, kColumns / kWide>(y[part], h + part * (kColumns / kWide));
          }
        },
        [&](int step, uint64_t weight) { start_product<scalar_t>(u, h[step], weight, step > 0); });
    settle(u);
    float logits[2] = {0, 0};
    weigh(u, memory.bias3 + pair, memory.weight4 + pair, logits);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float logit = sum_of_row(logits[row]) + bias4;
      const int64_t token = first_token(tile) + threadIdx.x / 32 % 4 * kWide + lane / 4 + 8 * row;
      if (lane % 4 == 0 && token < p.tokens) p.logits[token] = logit;
    }
  }
#endif
}

constexpr const char* kHopperLogitsName = "token_logits";

}  // namespace

template <typename scalar_t>
const void* hopper_logits_kernel_for(int channels) {
  const void* found = nullptr;
  with_listed<kLogitsChannels>(
      channels, [&](auto c) { found = reinterpret_cast<const void*>(&hopper_logits_kernel<scalar_t, c>); });
  return found;
}

template <typename scalar_t>
void launch_hopper_logits(const HopperLogitsLaunch& p) {
  launch_hopper_pack<scalar_t>(kHopperLogitsName, p.layers);
  with_listed<kLogitsChannels>(p.layers.channels, [&](auto channels) {
    launch_kernel(kHopperLogitsName, hopper_logits_kernel<scalar_t, channels>,
        {dim3(static_cast<unsigned>(p.blocks)), dim3(kGroupThreads * logits_groups(channels)),
            HopperLogitsMemory(p.layers, nullptr).bytes, 1, current_stream()},
        p);
  });
}

}  // namespace ssm
