// Host side of the quadtree token order, and of the gradient of the straight-through mask, on the GPU.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "quadtree_order/cuda/launch.h"
#include "quadtree_order/cuda/tuning.h"
#include "quadtree_order/inputs.h"

namespace ssm {
namespace {

at::Tensor quadtree_order(
    const at::Tensor& choice, int64_t height, int64_t width, int64_t levels, int64_t shift_y, int64_t shift_x) {
  const QuadtreeOrderInputs in(at::kCUDA, choice, height, width, levels, shift_y, shift_x);
  const c10::cuda::CUDAGuard guard(choice.device());
  if (in.order.numel() > 0) launch_quadtree_order(in.params);
  return in.order;
}

at::Tensor mask_gradient(const at::Tensor& a, const at::Tensor& b, const at::Tensor& choice, int64_t height,
    int64_t width, int64_t shift_y, int64_t shift_x) {
  const MaskGradientInputs in(at::kCUDA, a, b, choice, height, width, shift_y, shift_x);
  const c10::cuda::CUDAGuard guard(choice.device());
  if (in.gradient.numel() == 0) return in.gradient;
  const int splits = mask_splits(height * width * a.size(2) * a.element_size());
  const at::Tensor partial = splits == 1 ? in.gradient : at::empty({choice.size(0), 4, splits}, in.gradient.options());
  const MaskGradientLaunch l{in.params, splits, partial.data_ptr()};
  SSM_DISPATCH(a.scalar_type(), "mask_gradient", [&] { launch_mask_gradient<scalar_t>(l); });
  return in.gradient;
}

}  // namespace

TORCH_LIBRARY_IMPL(quadtree_ssm, CUDA, m) {
  m.impl("quadtree_order", &quadtree_order);
  m.impl("mask_gradient", &mask_gradient);
}

}  // namespace ssm
