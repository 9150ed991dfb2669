// The forward pass on Hopper: a warpgroup keeps the results of 64 tokens in registers, and the hidden channels pass by.
// The warpgroups of a block are at different places, so that some compute GELU while others wait for tensor cores.
#pragma once

#include "common/cuda/gelu.cuh"
#include "common/cuda/hopper_layers.cuh"
#include "common/cuda/two_layers.cuh"
#include "mlp/cuda/hopper.h"

namespace ssm {
namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A warpgroup's tokens: how they come to shared memory, and the first product with them. Registers get the tokens anew
// for each chunk. If they kept them from chunk to chunk, ptxas 13.0 would give their registers to other values, since
// it does not see that the next chunk's products read them (with 64 channels).
template <typename scalar_t, int kChannels>
class Tokens {
 public:
  static constexpr bool kByRegisters = hopper_loads(kChannels);
  static constexpr int kSteps = kChannels / kWide;
  struct Loaded {
    Factor steps[kByRegisters ? kSteps : 1];
  };

  __device__ Tokens(const HopperMlpLaunch& p, char* memory, int group) : p_(p), memory_(memory), group_(group) {}

  // Starts to copy the tokens from `begin` on. The warpgroup has ended what read the memory.
  __device__ __forceinline__ void copy(int64_t begin) {
    if constexpr (kByRegisters) {
      const int rows = threadIdx.x / 32 % 4 * kWide;
      __syncwarp();
      copy_tokens<scalar_t, kChannels, kWide>(own_rows(), p_.x, begin + rows, p_.tokens);
    } else {
      meet_group(group_);
      copy_tokens_to_cores<scalar_t, kChannels>(memory_, p_.x, begin, p_.tokens);
    }
  }

  // Waits for the copy, after which the products may read the tokens.
  __device__ __forceinline__ void receive() {
    wait_for_copies();
    if constexpr (kByRegisters) {
      __syncwarp();
    } else {
      publish_to_products();
      meet_group(group_);
    }
  }

  // Starts the first product for a chunk of hidden channels. What it loads into `x` is read until the product has
  // ended.
  template <int kCount>
  __device__ __forceinline__ void start(Result (&u)[kCount], Loaded& x, uint32_t weight1) {
    constexpr int kAlong = 8 * kCount * 16;
    const uint64_t b = describe(weight1, kAlong);
    if constexpr (kByRegisters) {
      const int lane = threadIdx.x % 32;
      const uint32_t from = address_of(own_rows(), row_down_first(lane), column_down_first(lane), kRow);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) x.steps[step] = load_matrix(from + step * kWide * sizeof(scalar_t));
      open_products();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        start_product<scalar_t>(u, x.steps[step], advance(b, step * 2 * kAlong), step > 0);
      }
    } else {
      const uint64_t a = describe(shared_address(memory_), kGroupRows * 16);
      open_products();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        start_product<scalar_t>(u, advance(a, step * 2 * kGroupRows * 16), advance(b, step * 2 * kAlong), step > 0);
      }
    }
  }

 private:
  static constexpr int kRow = kChannels + kRowPad;
  __device__ __forceinline__ scalar_t* own_rows() {
    return reinterpret_cast<scalar_t*>(memory_) + threadIdx.x / 32 % 4 * kWide * kRow;
  }

  const HopperMlpLaunch& p_;
  char* memory_;
  int group_;
};

// GELU of a chunk, rounded: as a left factor. `bias` is that of the chunk in GELU's unit, `pair` the lane's column.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void activate_chunk(
    const Result (&u)[kCount], Factor (&h)[kCount / 2], const float* bias, int pair) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * i + pair);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float2 values =
          gelu_in_units(fmaf(u[i].values[2 * row], kGeluUnit, b.x), fmaf(u[i].values[2 * row + 1], kGeluUnit, b.y));
      h[i / 2].pairs[i % 2 * 2 + row] = pack<scalar_t>(values.x, values.y);
    }
  }
}

// Adds the bias and writes a warp's 16 tokens from `token` on.
template <typename scalar_t, int kChannels, int kParts, int kCount>
__device__ __forceinline__ void write_tokens(
    const HopperMlpLaunch& p, const Result (&y)[kParts][kCount], int64_t token, int lane) {
  const int64_t mine = token + lane / 4;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const int column = (part * kCount + i) * 8;
      Result sums[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 bias = *reinterpret_cast<const float2*>(p.bias2 + column + 8 * half + lane % 4 * 2);
        const float* values = y[part][i + half].values;
        sums[half] = {{fmaf(values[0], 1 / kGeluUnit, bias.x), fmaf(values[1], 1 / kGeluUnit, bias.y),
            fmaf(values[2], 1 / kGeluUnit, bias.x), fmaf(values[3], 1 / kGeluUnit, bias.y)}};
      }
      store_matrix(static_cast<scalar_t*>(p.y) + token * kChannels + column, kChannels, lane, rounded<scalar_t>(sums),
          mine < p.tokens, mine + 8 < p.tokens);
    }
  }
}

#endif

template <typename scalar_t, int kChannels>
__global__ void __launch_bounds__(kGroupThreads* hopper_groups(kChannels), 1) hopper_mlp_kernel(HopperMlpLaunch p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kGroups = hopper_groups(kChannels), kTile = kGroups * kGroupRows, kChunk = hopper_chunk(kChannels);
  constexpr int kColumns = hopper_columns(kChannels), kParts = kChannels / kColumns, kCount = kColumns / 8;
  static_assert(kParts * kColumns == kChannels);
  extern __shared__ __align__(kHopperAligned) char shared[];
  const HopperMlpMemory memory(p.layers, shared);
  // The number of the warpgroup is the same in all lanes, which the compiler has to see: descriptors are made of it.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int lane = threadIdx.x % 32, pair = lane % 4 * 2, rows = group * kGroupRows, chunks = p.layers.chunks();
  const int tiles = static_cast<int>((p.tokens + kTile - 1) / kTile);
  const int rounds = (tiles - 1 - static_cast<int>(blockIdx.x)) / static_cast<int>(gridDim.x) + 1;

  const auto first_token = [&](int tile) { return static_cast<int64_t>(tile) * kTile + rows; };
  Tokens<scalar_t, kChannels> tokens(p, memory.tokens + group * HopperMlpMemory::token_bytes(kChannels), group);
  tokens.copy(first_token(blockIdx.x));
  for (int i = threadIdx.x; i < chunks * kChunk; i += kGroups * kGroupThreads) {
    memory.bias1[i] = i < p.layers.hidden ? p.bias1[i] * kGeluUnit : 0.f;
  }
  if (threadIdx.x == 0) {
    init_barriers(memory.barriers, p.layers.stages);
    for (int stage = 0; stage < p.layers.stages; ++stage) memory.counters[stage] = 0;
  }
  __syncthreads();
  Pieces<4 * kGroups> pieces(p.layers, shared_address(memory.pieces), shared_address(memory.barriers),
      shared_address(memory.counters), rounds);

  Result y[kParts][kCount];
#pragma unroll
  for (int part = 0; part < kParts; ++part) unset(y[part]);
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int next = tile + static_cast<int>(gridDim.x);
    tokens.receive();
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Result u[kChunk / 8];
      Factor h[kChunk / kWide];
      typename Tokens<scalar_t, kChannels>::Loaded x;
      unset(u);
      tokens.start(u, x, pieces.take());
      close_products();
      wait_for_products<0>();
      settle(u);
      pieces.give_back();
      if (chunk + 1 == chunks && next < tiles) tokens.copy(first_token(next));
      activate_chunk<scalar_t>(u, h, memory.bias1 + chunk * kChunk, pair);
      const uint64_t weight2 = describe(pieces.take(), kChannels * 16);
      open_products();
#pragma unroll
      for (int step = 0; step < kChunk / kWide; ++step) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          start_product<scalar_t>(y[part], h[step], advance(weight2, step * 2 * kChannels * 16 + part * kColumns * 16),
              step > 0 || chunk > 0);
        }
      }
      close_products();
      wait_for_products<0>();  // the registers of h may change now
#pragma unroll
      for (int part = 0; part < kParts; ++part) settle(y[part]);
      pieces.give_back();
    }
    write_tokens<scalar_t, kChannels>(p, y, first_token(tile) + threadIdx.x / 32 % 4 * kWide, lane);
  }
#endif
}

constexpr const char* kHopperMlpName = "mlp";

}  // namespace

template <typename scalar_t>
const void* hopper_mlp_kernel_for(int channels) {
  const void* found = nullptr;
  with_listed<kHopperChannels>(
      channels, [&](auto c) { found = reinterpret_cast<const void*>(&hopper_mlp_kernel<scalar_t, c>); });
  return found;
}

template <typename scalar_t>
void launch_hopper_mlp(const HopperMlpLaunch& p) {
  launch_hopper_pack<scalar_t>(kHopperMlpName, p.layers);
  with_listed<kHopperChannels>(p.layers.channels, [&](auto channels) {
    launch_kernel(kHopperMlpName, hopper_mlp_kernel<scalar_t, channels>,
        {dim3(static_cast<unsigned>(p.blocks)), dim3(kGroupThreads * hopper_groups(channels)),
            HopperMlpMemory(p.layers, nullptr).bytes, 1, current_stream()},
        p);
  });
}

}  // namespace ssm
