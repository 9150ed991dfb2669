// What the parameters of all scans along trees have in common.
#pragma once

#include <cstdint>

namespace ssm {

// Strides, in elements, of a [B, L, D] tensor whose channels lie side by side.
struct VertexStrides {
  int64_t batch = 0;
  int64_t vertex = 0;
};

}  // namespace ssm
