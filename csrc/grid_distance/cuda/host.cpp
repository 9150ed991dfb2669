// Host side of the grid's distances on the GPU.
#include "grid_distance/inputs.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "grid_distance/cuda/launch.h"

namespace ssm {
namespace {

at::Tensor grid_cosine_distance(const at::Tensor& x) {
  check_features(x, at::kCUDA);
  const c10::cuda::CUDAGuard guard(x.device());
  const Grid grid{x.size(1), x.size(2)};
  at::Tensor out = empty_distances(x, grid);
  if (out.numel() == 0) return out;
  const GridDistanceLaunch l{x.size(0), x.size(3), grid, x.const_data_ptr(), out.mutable_data_ptr()};
  SSM_DISPATCH(x.scalar_type(), "grid_cosine_distance", [&] { launch_grid_distance<scalar_t>(l); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("grid_cosine_distance", &grid_cosine_distance);
}

}  // namespace ssm
