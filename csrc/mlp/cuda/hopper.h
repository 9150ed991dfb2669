// The forward pass on Hopper's tensor cores: sizes, what the host hands to the kernel by value, and its launcher.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/channels.h"
#include "common/cuda/hopper_layers.h"
#include "common/memory.h"
#include "mlp/params.h"

namespace ssm {

// Numbers of channels that kernels are compiled for: those of the models, up to what the registers hold.
constexpr int kHopperChannels[] = {48, 64, 80, 96, 128, 160, 192, 256, 320, 384};
constexpr bool hopper_mlp_has(int64_t channels) {
  return is_listed(kHopperChannels, channels);
}

// Warpgroups of a block. A thread holds channels / 2 sums, so that the registers of a multiprocessor, 64 K, leave room
// for fewer warpgroups the more channels there are: 128 registers a thread for four, 168 for three, 255 for two.
C10_HOST_DEVICE constexpr int hopper_groups(int channels) {
  return channels <= 80 ? 4 : channels <= 192 ? 3 : 2;
}
// Hidden channels that pass by at once. With 64 the sums of 384 channels leave too few registers.
C10_HOST_DEVICE constexpr int hopper_chunk(int channels) {
  return channels == 384 ? 48 : 64;
}
// Whether the tokens come to the tensor cores through registers. Otherwise these read them from shared memory.
C10_HOST_DEVICE constexpr bool hopper_loads(int channels) {
  return channels <= 128;
}
// Columns of the second product that one instruction computes.
C10_HOST_DEVICE constexpr int hopper_columns(int channels) {
  return channels <= 96 ? channels : channels % 96 == 0 ? 96 : channels % 80 == 0 ? 80 : 64;
}

struct HopperMlpLaunch {
  HopperLayers layers;
  int64_t tokens;
  const void* x;               // scalar_t, contiguous [tokens, channels]
  const float *bias1, *bias2;  // contiguous [hidden] and [channels]
  void* y;                     // scalar_t, contiguous [tokens, channels]
  int blocks;
};

// Shared memory of a block. Numbers of scalar_t have two bytes.
struct HopperMlpMemory {
  char *pieces, *tokens;  // [stages][bytes of a piece], [groups][64 tokens]
  float* bias1;           // [chunks · chunk]
  uint64_t* barriers;     // [stages]
  unsigned* counters;     // [stages]
  size_t bytes;

  C10_HOST_DEVICE HopperMlpMemory(const HopperLayers& layers, char* memory) {
    Carver carver(memory);
    const size_t stages = static_cast<size_t>(layers.stages);
    pieces = carver.take<char>(stages * layers.bytes());
    tokens = carver.take<char>(static_cast<size_t>(hopper_groups(layers.channels)) * token_bytes(layers.channels));
    bias1 = carver.take<float>(static_cast<size_t>(layers.chunks()) * layers.chunk);
    barriers = carver.take<uint64_t>(stages);
    counters = carver.take<unsigned>(stages);
    bytes = carver.bytes();
  }

  // The tokens of a warpgroup: rows that are 16 bytes further apart than they are long, for registers, or cores.
  C10_HOST_DEVICE static constexpr int token_bytes(int channels) {
    return kHopperRows * 2 * (channels + (hopper_loads(channels) ? 8 : 0));
  }
};

// The kernel for so many channels, to ask what it was compiled for.
template <typename scalar_t>
const void* hopper_mlp_kernel_for(int channels);
template <typename scalar_t>
void launch_hopper_mlp(const HopperMlpLaunch& launch);

}  // namespace ssm
