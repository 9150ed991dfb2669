// The host side that the CPU and the CUDA kernels of the grid's distances share: checks, the result, and tensors to raw
// pointers.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "common/checks.h"
#include "grid_distance/params.h"

namespace ssm {

struct GridDistanceInputs {
  at::Tensor out;
  GridDistanceParams params;

  GridDistanceInputs(c10::DeviceType device, const at::Tensor& x) {
    TORCH_CHECK(x.dim() == 4, "x must be [B, H, W, D], got ", x.sizes());
    check_device(x, device, x, "x");
    TORCH_CHECK(
        is_grid(x.size(1), x.size(2)), "x must be [B, H, W, D] with 1 to 2^31 - 1 vertices H·W, got ", x.sizes());
    TORCH_CHECK(x.size(3) < int64_t(1) << 31, "x has 2^31 channels or more: ", x.sizes());
    // Samples may lie anywhere, so that a batch that was expanded takes no memory.
    TORCH_CHECK(x.numel() == 0 || x.select(0, 0).is_contiguous(), "every sample of x must be contiguous");
    const Grid grid{x.size(1), x.size(2)};
    const auto dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    out = at::empty({x.size(0), grid.edges()}, x.options().dtype(dtype));
    params = {x.size(0), x.size(3), grid, x.const_data_ptr(), x.stride(0), out.mutable_data_ptr()};
  }
};

}  // namespace ssm
