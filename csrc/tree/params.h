// What the parameters of all scans along trees have in common.
#pragma once

#include <cstdint>

namespace ssm {

// B, L and D of the [B, L, D] tensors.
struct TreeShape {
  int64_t batch, length, channels;
};

// Strides, in elements, of a [B, L, D] tensor whose channels lie side by side, or of a [B, L] tensor.
struct VertexStrides {
  int64_t batch = 0;
  int64_t vertex = 0;
};

}  // namespace ssm
