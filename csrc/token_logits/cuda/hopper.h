// The score predictor on Hopper's tensor cores: sizes, what the host hands to the kernel by value, and its launcher.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/cuda/hopper_layers.h"
#include "common/memory.h"
#include "token_logits/params.h"

namespace ssm {

// Warpgroups of a block. A thread holds channels / 4 sums of the second layer, and registers and shared memory leave
// room for three warpgroups with 384 channels.
C10_HOST_DEVICE constexpr int logits_groups(int channels) {
  return channels == 384 ? 3 : 4;
}
// Hidden channels that pass by at once, which divide all of them.
C10_HOST_DEVICE constexpr int logits_chunk(int channels) {
  return channels == 96 ? 96 : 64;
}
// Pieces of the second weight in a chunk. With 384 channels, shared memory does not hold all pieces. They are small
// there, so that it holds several, and warpgroups can be at different ones.
C10_HOST_DEVICE constexpr int logits_split(int channels) {
  return channels == 384 ? 2 : 1;
}

constexpr int kLogitsStages = 32;  // pieces in shared memory at most

// The layers of so many channels, with their weights.
inline HopperLayers logits_layers(int channels, const void* weight1, const void* weight2, const void* weight3) {
  return {channels, channels, channels / 2, logits_chunk(channels), logits_split(channels), weight1, weight2, weight3,
      channels / 4};
}

struct HopperLogitsLaunch : TokenLogitsParams {
  HopperLayers layers;
  int blocks;
};

// Shared memory of a block. Numbers of scalar_t have two bytes. All places are known where the numbers of channels and
// of stages are constants: the kernel has no registers for them.
struct HopperLogitsMemory {
  char* tokens;                    // [groups][64 tokens] in cores
  float *gamma, *beta, *bias1;     // [D]
  float *bias2, *bias3, *weight4;  // [D/2], [D/4], [D/4]
  uint64_t* barriers;              // [kLogitsStages]
  unsigned* counters;              // [kLogitsStages]
  char* pieces;                    // [stages][bytes of a piece]
  size_t bytes;

  C10_HOST_DEVICE HopperLogitsMemory(int channels, size_t piece_bytes, char* memory) {
    Carver carver(memory);
    const size_t D = static_cast<size_t>(channels);
    tokens = carver.take<char>(static_cast<size_t>(logits_groups(channels)) * token_bytes(channels));
    gamma = carver.take<float>(D);
    beta = carver.take<float>(D);
    bias1 = carver.take<float>(D);
    bias2 = carver.take<float>(D / 2);
    bias3 = carver.take<float>(D / 4);
    weight4 = carver.take<float>(D / 4);
    barriers = carver.take<uint64_t>(kLogitsStages);
    counters = carver.take<unsigned>(kLogitsStages);
    static_assert(kLogitsStages * (sizeof(uint64_t) + sizeof(unsigned)) % kHopperAligned == 0);
    pieces = carver.take<char>(piece_bytes);
    bytes = carver.bytes();
  }
  HopperLogitsMemory(const HopperLayers& layers, char* memory)
      : HopperLogitsMemory(layers.channels, static_cast<size_t>(layers.stages) * layers.bytes(), memory) {}

  // The tokens of a warpgroup.
  C10_HOST_DEVICE static constexpr int token_bytes(int channels) { return kHopperRows * 2 * channels; }
};

// The kernel for so many channels, to ask what it was compiled for.
template <typename scalar_t>
const void* hopper_logits_kernel_for(int channels);
template <typename scalar_t>
void launch_hopper_logits(const HopperLogitsLaunch& launch);

}  // namespace ssm
