// Host side of the grid's distances on the GPU.

#include "common/dispatch.h"
#include "grid_distance/cuda/launch.h"
#include "grid_distance/inputs.h"

namespace ssm {
namespace {

Tensor grid_cosine_distance(const Tensor& x) {
  const GridDistanceInputs in(kCUDA, x);
  const DeviceGuard guard(x.get_device_index());
  if (in.out.numel() == 0) return in.out;
  SSM_DISPATCH(x.scalar_type(), "grid_cosine_distance", [&] { launch_grid_distance<scalar_t>(in.params); });
  return in.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("grid_cosine_distance", TORCH_BOX(&grid_cosine_distance));
}

}  // namespace ssm
