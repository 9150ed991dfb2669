// Tile sizes of the MLP on the GPU and what follows from them.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/memory.h"

namespace ssm {

constexpr int kMlpWarps = 8;
constexpr int kMlpThreads = 32 * kMlpWarps;
constexpr int kMlpWide = 16;   // numbers of a row and of a column that a tensor core takes; divides the channels
constexpr int kMlpChunk = 32;  // hidden channels that pass by at once
constexpr int kMlpStages = 2;  // chunks of weights in shared memory if it does not hold all: the present and the next one

// Numbers of channels that kernels are compiled for: those of the models, up to what the registers hold.
constexpr int kMlpChannels[] = {48, 64, 80, 96, 128, 160, 192};
constexpr bool mlp_has(int channels) {
  for (const int known : kMlpChannels) {
    if (channels == known) return true;
  }
  return false;
}

// Rows of 16 tokens of a warp in the forward pass: two share what is read of the weights, if the registers hold them.
constexpr int mlp_rows(int steps) {
  return steps <= 6 ? 2 : 1;
}

// Rows of shared memory are a multiple of 16 bytes apart, and an odd one, so that eight of them lie in all banks.
constexpr int kMlpPad = 8;

// The weights are packed chunk by chunk as shared memory holds them, so that a chunk is copied in one piece: kMlpChunk
// rows of the first weight, then `channels` rows of kMlpChunk columns of the second one.
constexpr int kMlpVector = 8;  // numbers that are copied at once, 16 bytes
C10_HOST_DEVICE constexpr int mlp_first_items(int channels) {
  return kMlpChunk * (channels + kMlpPad);
}
C10_HOST_DEVICE constexpr int mlp_chunk_items(int channels) {
  return mlp_first_items(channels) + channels * (kMlpChunk + kMlpPad);
}

// Groups of tiles at most, of which each has its sums of the bias' gradient.
constexpr int64_t kMlpGroups = 1056;

// Shared memory of a block with `rows` tokens and so many chunks of the weights.
template <typename scalar_t>
struct MlpMemory {
  scalar_t *tokens, *gradients;  // [rows][C + pad]
  scalar_t* weights;             // [chunks][mlp_chunk_items]
  float *bias1, *sums;           // [hidden], and [warps][hidden] in the backward pass
  size_t bytes;

  C10_HOST_DEVICE MlpMemory(bool backward, int rows, int channels, int hidden, int chunks, char* memory) {
    Carver carver(memory);
    const size_t tile = static_cast<size_t>(rows) * (channels + kMlpPad);
    tokens = carver.take<scalar_t>(tile);
    gradients = carver.take<scalar_t>(backward ? tile : 0);
    weights = carver.take<scalar_t>(static_cast<size_t>(chunks) * mlp_chunk_items(channels));
    bias1 = carver.take<float>(hidden);
    sums = carver.take<float>(backward ? static_cast<size_t>(kMlpWarps) * hidden : 0);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
