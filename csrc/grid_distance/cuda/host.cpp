// Host side of the grid's distances on the GPU.

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "grid_distance/cuda/launch.h"
#include "grid_distance/inputs.h"

namespace ssm {
namespace {

at::Tensor grid_cosine_distance(const at::Tensor& x) {
  const GridDistanceInputs in(at::kCUDA, x);
  const c10::cuda::CUDAGuard guard(x.device());
  if (in.out.numel() == 0) return in.out;
  SSM_DISPATCH(x.scalar_type(), "grid_cosine_distance", [&] { launch_grid_distance<scalar_t>(in.params); });
  return in.out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("grid_cosine_distance", &grid_cosine_distance);
}

}  // namespace ssm
