// What the hosts of all scans along trees, CPU and CUDA, ask of their tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/checks.h"
#include "tree/params.h"

namespace ssm {

// Vertices must be fewer than `limit`, which is what a kernel can number.
inline void check_vertex_rows(const at::Tensor& x, const char* name, int64_t limit) {
  TORCH_CHECK(x.dim() == 3 && x.size(1) >= 1, name, " must be [B, L, D] with L at least 1, got ", x.sizes());
  TORCH_CHECK(x.size(1) < limit, name, " has ", limit, " vertices or more: ", x.sizes());
}

// The tensor, or a copy of it if channels do not lie side by side. The GPU kernels count the bytes from a vertex to the
// next in 32 bits, so that a greater stride takes a copy too.
inline at::Tensor with_adjacent_channels(const at::Tensor& x) {
  return is_adjacent(x) && x.stride(1) < int64_t(1) << 28 ? x : x.contiguous();
}

inline VertexStrides vertex_strides(const at::Tensor& x) {
  return {x.stride(0), x.stride(1)};
}

}  // namespace ssm
