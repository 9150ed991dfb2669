// Sizes of the quadtree order's CUDA kernels. csrc/README.md says how to try others.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ssm {

constexpr int kQuadtreeThreads = 256;  // of a block
constexpr int kMaskLanes = 8;          // threads that share a token in the mask's gradient: 128 bytes at once

// Blocks of one quadrant in the mask's gradient: about 64 KiB of `a` each. The number depends on the shape alone, not
// on the batch, so that the sums' order does too.
constexpr int64_t kBytesOfSplit = 1 << 16;
constexpr int64_t kMostSplits = 1024;
constexpr int mask_splits(int64_t bytes_of_sample) {
  return static_cast<int>(std::min(std::max<int64_t>(1, bytes_of_sample / 4 / kBytesOfSplit), kMostSplits));
}

}  // namespace ssm
