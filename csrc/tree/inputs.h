// What the hosts of all scans along trees, CPU and CUDA, ask of their tensors.
#pragma once

#include "common/checks.h"
#include "tree/params.h"

namespace ssm {

// Vertices must be fewer than `limit`, which is what a kernel can number.
inline void check_vertex_rows(const Tensor& x, const char* name, int64_t limit) {
  SSM_CHECK(x.dim() == 3 && x.size(1) >= 1, name, " must be [B, L, D] with L at least 1, got ", x.sizes());
  SSM_CHECK(x.size(1) < limit, name, " has ", limit, " vertices or more: ", x.sizes());
}

// Parents or the order of trees, [B, L], whose vertices have the rows of x.
inline void check_tree_index(const Tensor& index, const Tensor& x, DeviceType device) {
  check_device(index, device, x, "parent and order");
  check_dtype(index, kLong, "parent and order");
  check_shape(index, {x.size(0), x.size(1)}, "parent and order");
}

// The tensor, or a copy of it if channels do not lie side by side. The GPU kernels count the bytes from a vertex to the
// next in 32 bits, so that a greater stride takes a copy too.
inline Tensor with_adjacent_channels(const Tensor& x) {
  return is_adjacent(x) && x.stride(1) < int64_t(1) << 28 ? x : contiguous(x);
}

inline VertexStrides vertex_strides(const Tensor& x) {
  return {x.stride(0), x.stride(1)};
}

}  // namespace ssm
