// What both implementations of the grid's distances take and give.
#pragma once

#include <ATen/ATen.h>

#include "common/checks.h"
#include "common/edge_distance.h"

namespace ssm {

inline void check_features(const at::Tensor& x, c10::DeviceType device) {
  TORCH_CHECK(x.dim() == 4, "x must be 4-D, got ", x.sizes());
  check_device(x, device, x, "x");
  check_contiguous(x, "x");
}

inline at::Tensor empty_distances(const at::Tensor& x, const Grid& grid) {
  const auto dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::empty({x.size(0), grid.edges()}, x.options().dtype(dtype));
}

}  // namespace ssm
