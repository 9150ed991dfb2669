// Tile sizes of the state's readout on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/cuda/row_shape.h"
#include "common/memory.h"
#include "state_readout/params.h"

namespace ssm {

constexpr int kReadoutThreads = 128;  // of a block
constexpr int kReadoutWarps = kReadoutThreads / 32;

// Blocks that a multiprocessor must have registers for. A launch has at most so many for each of them: all have the
// same work, and rows that are read a row ahead need many turns.
constexpr int kReadoutMinBlocks = 6, kReadoutBackwardMinBlocks = 3;

// How a thread holds its channels of a row.
constexpr RowShape kFours{kReadoutThreads, 4, 5}, kOnes{kReadoutThreads, 1, 8};

// Shared memory: room for sums over rows that are wider than a warp, and the parameters, later their sums.
template <typename acc>
struct ReadoutMemory {
  acc* scratch;     // [warps][sums]
  acc* parameters;  // [kReadoutParameters][channels]
  size_t bytes;

  // `sums`: how many sums the kernel takes over a row at once.
  C10_HOST_DEVICE ReadoutMemory(int channels, int sums, char* memory) {
    Carver carver(memory);
    scratch = carver.take<acc>(static_cast<size_t>(sums) * kReadoutWarps);
    parameters = carver.take<acc>(static_cast<size_t>(kReadoutParameters) * channels);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
