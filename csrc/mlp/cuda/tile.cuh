// What the passes of the MLP share: copies to shared memory.
#pragma once

#include "mlp/cuda/fragments.cuh"
#include "mlp/cuda/launch.h"
#include "mlp/cuda/tuning.h"

namespace ssm {

constexpr int kMlpVector = 8;  // half numbers of a copy, 16 bytes

// Starts to copy a chunk of both weights, hidden channels from `begin` on, to a stage. All threads of the block share the work.
template <typename scalar_t, int kChannels, int kChunk>
__device__ __forceinline__ void copy_weights(
    const MlpLaunch& p, const MlpMemory<scalar_t>& memory, int stage, int begin) {
  constexpr int kRow1 = kChannels + kMlpPad, kRow2 = kChunk + kMlpPad;
  constexpr int kPieces1 = kChannels / kMlpVector, kPieces2 = kChunk / kMlpVector;
  const scalar_t* from1 = static_cast<const scalar_t*>(p.weight1) + static_cast<int64_t>(begin) * kChannels;
  scalar_t* to1 = memory.weight1 + stage * kChunk * kRow1;
  for (int i = threadIdx.x; i < kChunk * kPieces1; i += kMlpThreads) {
    copy_async(reinterpret_cast<uint4*>(to1 + i / kPieces1 * kRow1 + i % kPieces1 * kMlpVector), from1 + i * kMlpVector);
  }
  const scalar_t* from2 = static_cast<const scalar_t*>(p.weight2) + begin;
  scalar_t* to2 = memory.weight2 + stage * kChannels * kRow2;
  for (int i = threadIdx.x; i < kChannels * kPieces2; i += kMlpThreads) {
    const int row = i / kPieces2, column = i % kPieces2 * kMlpVector;
    copy_async(reinterpret_cast<uint4*>(to2 + row * kRow2 + column), from2 + static_cast<int64_t>(row) * p.hidden + column);
  }
}

// Starts to copy the `kRows` tokens of a warp, which nobody else reads, from `begin` on. Those that do not exist are 0.
template <typename scalar_t, int kChannels, int kRows>
__device__ __forceinline__ void copy_tokens(scalar_t* to, const void* from, int64_t begin, int64_t tokens) {
  constexpr int kPieces = kChannels / kMlpVector;
  const scalar_t* source = static_cast<const scalar_t*>(from);
  for (int i = threadIdx.x % 32; i < kRows * kPieces; i += 32) {
    const int row = i / kPieces, column = i % kPieces * kMlpVector;
    const bool exists = begin + row < tokens;
    copy_async_or_zero<16>(to + row * (kChannels + kMlpPad) + column,
        source + (exists ? begin + row : 0) * kChannels + column, exists);
  }
}

template <typename scalar_t>
__device__ __forceinline__ uint32_t address_of(const scalar_t* matrix, int row, int column, int stride) {
  return shared_address(matrix + row * stride + column);
}

}  // namespace ssm
