// What the host wrappers of the tree scans ask of their tensors.
#pragma once

#include <ATen/ATen.h>

#include "tree/cuda/walk_launch.h"

namespace ssm {

// The kernels count the bytes from a vertex to the next in 32 bits.
inline at::Tensor with_adjacent_channels(const at::Tensor& x) {
  const bool adjacent = x.stride(2) == 1 || x.size(2) == 1;
  return adjacent && x.stride(1) < int64_t(1) << 28 ? x : x.contiguous();
}

inline VertexStrides strides_of(const at::Tensor& x) {
  return {x.stride(0), x.stride(1)};
}

// Whether every row begins at a multiple of 16 bytes.
inline bool is_aligned(const at::Tensor& x) {
  const int64_t width = 16 / x.element_size();
  const auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  return address % 16 == 0 && x.stride(0) % width == 0 && x.stride(1) % width == 0 && x.size(2) % width == 0;
}

// Where the pieces of cut trees leave what they tell each other.
inline at::Tensor empty_piece_sums(const WalkLaunch& l, int sums, const at::TensorOptions& options) {
  if (l.cut == 0) return at::empty({0}, options);
  return at::empty({l.batch, 1 + 2 * sums, l.most_pieces(), l.channels}, options);
}

}  // namespace ssm
