// Tile sizes of the state's readout with a gated norm, and what follows from them. csrc/README.md says how to try
// others.
#pragma once

#include <cstdint>

#include "common/cuda/row_memory.h"
#include "common/cuda/row_shape.h"
#include "gated_state_readout/params.h"

namespace ssm {

constexpr int kGatedReadoutThreads = 128;  // of a block

// Blocks that a multiprocessor must have registers for, and blocks of a launch at most for each of them: all have the
// same work, and rows that are read a row ahead need many turns. Backward, a thread holds five sums of each channel
// beside three rows, which is what 255 registers have room for.
constexpr int kGatedReadoutMinBlocks = 4, kGatedReadoutBackwardMinBlocks = 2;

// How a thread holds its channels of a row.
constexpr RowShape kGatedReadoutFours{kGatedReadoutThreads, 4, 5}, kGatedReadoutOnes{kGatedReadoutThreads, 1, 8};

// Channels that rows in fours may have: more would take the backward pass of float32 more shared memory than GPUs of
// compute capability 8.6 give a block.
constexpr int64_t kGatedReadoutMostFours = 1280;

template <typename acc>
using GatedReadoutMemory = RowMemory<acc, kGatedReadoutThreads / 32, kGatedReadoutParameters>;

}  // namespace ssm
