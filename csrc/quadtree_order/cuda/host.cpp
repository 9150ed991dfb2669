// Host side of the quadtree token order, and of the gradient of the straight-through mask, on the GPU.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "common/checks.h"
#include "common/dispatch.h"
#include "quadtree_order/cuda/launch.h"

namespace ssm {
namespace {

RolledMap make_map(int64_t height, int64_t width, int64_t shift_y, int64_t shift_x) {
  TORCH_CHECK(height > 0 && width > 0 && height <= std::numeric_limits<int>::max() / width, "bad geometry");
  const auto wrap = [](int64_t shift, int64_t size) { return static_cast<int>((shift % size + size) % size); };
  return {static_cast<int>(height), static_cast<int>(width), wrap(shift_y, height), wrap(shift_x, width)};
}

void check_choice(const at::Tensor& choice) {
  check_device(choice, at::kCUDA, choice, "choice");
  check_dtype(choice, at::kLong, "choice");
  TORCH_CHECK(choice.dim() == 1, "choice must be a vector, got ", choice.sizes());
}

at::Tensor quadtree_order(
    const at::Tensor& choice, int64_t height, int64_t width, int64_t levels, int64_t shift_y, int64_t shift_x) {
  check_choice(choice);
  TORCH_CHECK(levels >= 0 && levels <= 2, "levels must be 0, 1 or 2, got ", levels);
  const c10::cuda::CUDAGuard guard(choice.device());
  const RolledMap map = make_map(height, width, shift_y, shift_x);
  at::Tensor order = at::empty({choice.size(0), height * width}, choice.options());
  if (order.numel() == 0) return order;
  launch_quadtree_order({map, static_cast<int>(levels), choice.size(0), choice.const_data_ptr<int64_t>(),
      choice.stride(0), order.data_ptr<int64_t>()});
  return order;
}

at::Tensor mask_gradient(const at::Tensor& a, const at::Tensor& b, const at::Tensor& choice, int64_t height,
    int64_t width, int64_t shift_y, int64_t shift_x) {
  check_choice(choice);
  const c10::cuda::CUDAGuard guard(choice.device());
  const RolledMap map = make_map(height, width, shift_y, shift_x);
  TORCH_CHECK(a.dim() == 3 && a.size(2) <= std::numeric_limits<int>::max(), "a must be 3-D");
  for (const auto& t : {a, b}) {
    check_device(t, at::kCUDA, choice, "a and b");
    check_shape(t, {choice.size(0), height * width, a.size(2)}, "a and b");
    check_dtype(t, a.scalar_type(), "a and b");
    check_contiguous(t, "a and b");
  }
  const auto options = a.options().dtype(a.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  at::Tensor gradient = at::empty({choice.size(0), 4}, options);
  if (gradient.numel() == 0) return gradient;
  // About 64 KiB of `a` a block, whatever the batch: the sums' order must depend on the shape alone.
  const int64_t bytes = height * width * a.size(2) * a.element_size();
  const int splits = static_cast<int>(std::min<int64_t>(std::max<int64_t>(1, bytes / 4 / (1 << 16)), 1024));
  at::Tensor partial = splits == 1 ? gradient : at::empty({choice.size(0), 4, splits}, options);
  const MaskGradientLaunch l{map, splits, choice.size(0), a.size(2), a.const_data_ptr(), b.const_data_ptr(),
      choice.const_data_ptr<int64_t>(), choice.stride(0), partial.data_ptr(), gradient.data_ptr()};
  SSM_DISPATCH(a.scalar_type(), "mask_gradient", [&] { launch_mask_gradient<scalar_t>(l); });
  return gradient;
}

}  // namespace

TORCH_LIBRARY_IMPL(quadtree_ssm, CUDA, m) {
  m.impl("quadtree_order", &quadtree_order);
  m.impl("mask_gradient", &mask_gradient);
}

}  // namespace ssm
