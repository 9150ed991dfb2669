// Host side of the quadtree token order, and of the gradient of the straight-through mask, on the GPU.

#include "common/dispatch.h"
#include "quadtree_order/cuda/launch.h"
#include "quadtree_order/cuda/tuning.h"
#include "quadtree_order/inputs.h"

namespace ssm {
namespace {

Tensor quadtree_order(
    const Tensor& choice, int64_t height, int64_t width, int64_t levels, int64_t shift_y, int64_t shift_x) {
  const QuadtreeOrderInputs in(kCUDA, choice, height, width, levels, shift_y, shift_x);
  const DeviceGuard guard(choice.get_device_index());
  if (in.order.numel() > 0) launch_quadtree_order(in.params);
  return in.order;
}

Tensor mask_gradient(const Tensor& a, const Tensor& b, const Tensor& choice, int64_t height, int64_t width,
    int64_t shift_y, int64_t shift_x) {
  const MaskGradientInputs in(kCUDA, a, b, choice, height, width, shift_y, shift_x);
  const DeviceGuard guard(choice.get_device_index());
  if (in.gradient.numel() == 0) return in.gradient;
  const int splits = mask_splits(height * width * a.size(2) * a.element_size());
  const Tensor partial = splits == 1 ? in.gradient : empty({choice.size(0), 4, splits}, in.gradient);
  const MaskGradientLaunch l{in.params, splits, partial.data_ptr()};
  SSM_DISPATCH(a.scalar_type(), "mask_gradient", [&] { launch_mask_gradient<scalar_t>(l); });
  return in.gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(quadtree_ssm, CUDA, m) {
  m.impl("quadtree_order", TORCH_BOX(&quadtree_order));
  m.impl("mask_gradient", TORCH_BOX(&mask_gradient));
}

}  // namespace ssm
