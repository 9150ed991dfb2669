// The host side that the CPU and the CUDA kernels of the grid's distances share: checks, the result, and tensors to raw
// pointers.
#pragma once

#include "common/checks.h"
#include "grid_distance/params.h"

namespace ssm {

struct GridDistanceInputs {
  Tensor out;
  GridDistanceParams params;

  GridDistanceInputs(DeviceType device, const Tensor& x) {
    SSM_CHECK(x.dim() == 4, "x must be [B, H, W, D], got ", x.sizes());
    check_device(x, device, x, "x");
    SSM_CHECK(is_grid(x.size(1), x.size(2)), "x must be [B, H, W, D] with 1 to 2^31 - 1 vertices H·W, got ", x.sizes());
    SSM_CHECK(x.size(3) < int64_t(1) << 31, "x has 2^31 channels or more: ", x.sizes());
    // Samples may lie anywhere, so that a batch that was expanded takes no memory.
    SSM_CHECK(x.numel() == 0 || part(x, 0).is_contiguous(), "every sample of x must be contiguous");
    const Grid grid{x.size(1), x.size(2)};
    const auto dtype = sum_type(x);
    out = empty({x.size(0), grid.edges()}, x, dtype);
    params = {x.size(0), x.size(3), grid, x.const_data_ptr(), x.stride(0), out.mutable_data_ptr()};
  }
};

}  // namespace ssm
