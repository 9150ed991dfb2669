// Tile sizes of the norms on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/cuda/row_shape.h"
#include "common/memory.h"
#include "norm/params.h"

namespace ssm {

constexpr int kNormThreads = 256;  // of a block
constexpr int kNormWarps = kNormThreads / 32;

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

// Shared memory: room for sums over rows that are wider than a warp, and the parameters, later their sums.
template <typename acc>
struct NormMemory {
  acc* scratch;     // [warps][sums]
  acc* parameters;  // [kNormParameters][channels]
  size_t bytes;

  // `sums`: how many sums the kernel takes over a row at once.
  C10_HOST_DEVICE NormMemory(int channels, int sums, char* memory) {
    Carver carver(memory);
    scratch = carver.take<acc>(static_cast<size_t>(sums) * kNormWarps);
    parameters = carver.take<acc>(static_cast<size_t>(kNormParameters) * channels);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
