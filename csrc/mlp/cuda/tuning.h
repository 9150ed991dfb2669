// Tile sizes of the MLP on the GPU and what follows from them.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/channels.h"
#include "common/cuda/two_layers.h"
#include "common/memory.h"

namespace ssm {

// Numbers of channels that kernels are compiled for: those of the models, up to what the registers hold.
constexpr int kMlpChannels[] = {48, 64, 80, 96, 128, 160, 192};
constexpr bool mlp_has(int64_t channels) {
  return is_listed(kMlpChannels, channels);
}

// Rows of 16 tokens of a warp in the forward pass: two share what is read of the weights, if the registers hold them.
constexpr int mlp_rows(int steps) {
  return steps <= 6 ? 2 : 1;
}

// Groups of tiles at most, of which each has its sums of the bias' gradient.
constexpr int64_t kMlpGroups = 1056;

// Shared memory of a block with `rows` tokens and so many chunks of the weights.
template <typename scalar_t>
struct MlpMemory {
  scalar_t *tokens, *gradients;  // [rows][C + pad]
  scalar_t* weights;             // [chunks][chunk_items]
  float *bias1, *sums;           // [hidden], and [warps][hidden] in the backward pass
  size_t bytes;

  C10_HOST_DEVICE MlpMemory(bool backward, int rows, int channels, int hidden, int chunks, char* memory) {
    Carver carver(memory);
    const size_t tile = static_cast<size_t>(rows) * (channels + kRowPad);
    tokens = carver.take<scalar_t>(tile);
    gradients = carver.take<scalar_t>(backward ? tile : 0);
    weights = carver.take<scalar_t>(static_cast<size_t>(chunks) * chunk_items(channels, channels));
    bias1 = carver.take<float>(hidden);
    sums = carver.take<float>(backward ? static_cast<size_t>(kLayerWarps) * hidden : 0);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
