// Sizes of the token logits' kernel and what follows from them.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>

#include "common/channels.h"
#include "common/cuda/two_layers.h"
#include "common/memory.h"

namespace ssm {

// Numbers of channels that kernels are compiled for: those of the models, up to what the registers hold.
constexpr int kLogitsChannels[] = {64, 96, 128, 192, 384};
constexpr bool token_logits_has(int64_t channels) {
  return is_listed(kLogitsChannels, channels);
}

constexpr int kLogitsTile = kLayerWarps * kWide;  // tokens of a block at once

// Rows of the third weight in shared memory: those of its channels, and zeros up to a multiple of kWide.
C10_HOST_DEVICE constexpr int last_rows(int channels) {
  return (channels / 4 + kWide - 1) / kWide * kWide;
}

// Shared memory of a block with so many chunks of the first two weights.
template <typename scalar_t>
struct TokenLogitsMemory {
  scalar_t* tokens;                // [kLogitsTile][D + pad]
  scalar_t* weights;               // [chunks][chunk_items]
  scalar_t* weight3;               // [last_rows][D/2 + pad]
  float *gamma, *beta, *bias1;     // [D]
  float *bias2, *bias3, *weight4;  // [D/2], [last_rows], [last_rows]
  size_t bytes;

  C10_HOST_DEVICE TokenLogitsMemory(int channels, int chunks, char* memory) {
    Carver carver(memory);
    const size_t rows = last_rows(channels);
    tokens = carver.take<scalar_t>(static_cast<size_t>(kLogitsTile) * (channels + kRowPad));
    weights = carver.take<scalar_t>(static_cast<size_t>(chunks) * chunk_items(channels, channels / 2));
    weight3 = carver.take<scalar_t>(rows * (channels / 2 + kRowPad));
    gamma = carver.take<float>(channels);
    beta = carver.take<float>(channels);
    bias1 = carver.take<float>(channels);
    bias2 = carver.take<float>(channels / 2);
    bias3 = carver.take<float>(rows);
    weight4 = carver.take<float>(rows);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
