// Tile sizes of the norms on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include "common/cuda/row_memory.h"
#include "common/cuda/row_shape.h"
#include "norm/params.h"

namespace ssm {

constexpr int kNormThreads = 256;  // of a block

// Blocks that a multiprocessor must have registers for in the backward pass.
constexpr int kNormBackwardMinBlocks = 2;

// Blocks of a launch at most, for each multiprocessor. Backward, as many as it has room for at once: all have the same
// work, and each writes its part of the parameters' gradients. Forward, a few times as many.
constexpr int kNormBlocks = 12;
constexpr int kNormBackwardBlocks = kNormBackwardMinBlocks;

// How a thread holds its channels of a row. Eight threads of a row read 128 bytes of float32 at once; four suffice for
// the rows of stems, where eight would have nothing to do half of the time.
constexpr RowShape kNormThreeFours{kNormThreads, 4, 3, 4};  // 48, 96, 192, 384, 768 channels
constexpr RowShape kNormFiveFours{kNormThreads, 4, 5, 8};   // 160, 320, 640, 1,280 channels
constexpr RowShape kNormOnes{kNormThreads, 1, 16, 32};      // numbers that four does not divide

template <typename acc>
using NormMemory = RowMemory<acc, kNormThreads / 32, kNormParameters>;

}  // namespace ssm
