// Shared memory of a kernel whose threads share rows of channels.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>

#include "common/memory.h"

namespace ssm {

// Room for sums over rows that are wider than a warp, and the parameters, later their sums.
template <typename acc, int kWarps, int kParameters>
struct RowMemory {
  acc* scratch;     // [warps][sums]
  acc* parameters;  // [kParameters][channels]
  size_t bytes;

  // `sums`: how many sums the kernel takes over a row at once.
  C10_HOST_DEVICE RowMemory(int channels, int sums, char* memory) {
    Carver carver(memory);
    scratch = carver.take<acc>(static_cast<size_t>(sums) * kWarps);
    parameters = carver.take<acc>(static_cast<size_t>(kParameters) * channels);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
