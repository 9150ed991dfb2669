// Tile sizes of the state's readout on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include "common/cuda/row_memory.h"
#include "common/cuda/row_shape.h"
#include "state_readout/params.h"

namespace ssm {

constexpr int kReadoutThreads = 128;  // of a block

// Blocks that a multiprocessor must have registers for. A launch has at most so many for each of them: all have the
// same work, and rows that are read a row ahead need many turns.
constexpr int kReadoutMinBlocks = 6, kReadoutBackwardMinBlocks = 3;

// How a thread holds its channels of a row.
constexpr RowShape kFours{kReadoutThreads, 4, 5}, kOnes{kReadoutThreads, 1, 8};

template <typename acc>
using ReadoutMemory = RowMemory<acc, kReadoutThreads / 32, kReadoutParameters>;

}  // namespace ssm
