// Tile sizes of the state's readout with a gated norm, and what follows from them. csrc/README.md says how to try
// others.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/cuda/row_shape.h"
#include "common/memory.h"
#include "gated_state_readout/params.h"

namespace ssm {

constexpr int kGatedReadoutThreads = 128;  // of a block
constexpr int kGatedReadoutWarps = kGatedReadoutThreads / 32;

// Blocks that a multiprocessor must have registers for, and blocks of a launch at most for each of them: all have the
// same work, and rows that are read a row ahead need many turns. Backward, a thread holds five sums of each channel
// beside three rows, which is what 255 registers have room for.
constexpr int kGatedReadoutMinBlocks = 4, kGatedReadoutBackwardMinBlocks = 2;

// How a thread holds its channels of a row.
constexpr RowShape kGatedReadoutFours{kGatedReadoutThreads, 4, 5}, kGatedReadoutOnes{kGatedReadoutThreads, 1, 8};

// Channels that rows in fours may have: more would take the backward pass of float32 more shared memory than GPUs of
// compute capability 8.6 give a block.
constexpr int64_t kGatedReadoutMostFours = 1280;

// Shared memory: room for sums over rows that are wider than a warp, and the parameters, later their sums.
template <typename acc>
struct GatedReadoutMemory {
  acc* scratch;     // [warps][sums]
  acc* parameters;  // [kGatedReadoutParameters][channels]
  size_t bytes;

  // `sums`: how many sums the kernel takes over a row at once.
  C10_HOST_DEVICE GatedReadoutMemory(int channels, int sums, char* memory) {
    Carver carver(memory);
    scratch = carver.take<acc>(static_cast<size_t>(sums) * kGatedReadoutWarps);
    parameters = carver.take<acc>(static_cast<size_t>(kGatedReadoutParameters) * channels);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
