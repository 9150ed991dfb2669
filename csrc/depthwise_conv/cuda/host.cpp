// Host side of the depthwise convolution on the GPU.

#include <algorithm>
#include <limits>
#include <tuple>

#include "common/cuda/device.h"
#include "common/dispatch.h"
#include "common/integers.h"
#include "depthwise_conv/cuda/launch.h"
#include "depthwise_conv/inputs.h"

namespace ssm {
namespace {

// Shares the rows and channels among the blocks.
DepthwiseConvLaunch launch_of(const DepthwiseConvParams& params, int64_t item_bytes, int64_t most_blocks) {
  DepthwiseConvLaunch p{params};
  p.aligned = true;
  for (const void* map : {p.x, p.grad_y, p.more[0], p.more[1]})
    p.aligned = p.aligned && reinterpret_cast<uintptr_t>(map) % 16 == 0;
  p.aligned = p.aligned && p.channels * item_bytes % 16 == 0;
  p.row_bytes = int64_t{1} * p.width * p.channels * item_bytes;
  p.tiles = p.width > kConvWidth ? static_cast<int>(ceil_div(p.width, kConvWidth - 2)) : 1;
  const int64_t items = p.batch * p.tiles, rows = items * (int64_t{1} + p.height);
  const int64_t beside = p.tiles > 1 ? 2 : 0;
  p.places = static_cast<int>(ceil_div(ceil_div(p.width, p.tiles) + beside, kConvColumns));
  p.own_width = static_cast<int>(p.places * kConvColumns - beside);
  p.walks = kConvPlaces / p.places;
  p.chunks = static_cast<int>(ceil_div(p.channels, kConvLanes * (item_bytes == 8 ? 1 : 2)));
  const int64_t useful = ceil_div(rows, p.walks * kConvLeastRows);
  p.parts = static_cast<int>(std::clamp<int64_t>(most_blocks / p.chunks, 1, useful));
  const int64_t length = ceil_div(rows, int64_t{1} * p.parts * p.walks);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  SSM_CHECK(items < kMost && length < kMost, "depthwise_conv: the input is too large for one launch");
  p.items = static_cast<int>(items);
  p.length = static_cast<int>(length);
  return p;
}

Tensor depthwise_conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  const DepthwiseConvForward pass(kCUDA, x, weight, bias);
  if (x.numel() == 0) return pass.y;
  const DeviceGuard guard(x.get_device_index());
  const DepthwiseConvLaunch p = launch_of(pass.params, x.element_size(), multiprocessors() * kConvMinBlocks);
  SSM_DISPATCH(x.scalar_type(), "depthwise_conv", [&] { launch_depthwise_conv<scalar_t>(p); });
  return pass.y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_sum_backward(const Tensor& grad_y, const Tensor& x,
    const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& second, const OptionalTensor& third) {
  const DepthwiseConvBackward pass(kCUDA, grad_y, x, weight, bias, second, third);
  const DeviceGuard guard(x.get_device_index());
  if (x.numel() == 0) return {pass.grad_x, zeros(weight.sizes(), weight), zeros({x.size(3)}, weight)};
  DepthwiseConvLaunch p = launch_of(pass.params, x.element_size(), multiprocessors() * kConvBackwardMinBlocks);
  const Tensor partial = empty({p.parts, kConvSums, p.channels}, weight);
  p.partial = partial.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "depthwise_conv_backward", [&] { launch_depthwise_conv_backward<scalar_t>(p); });
  return {pass.grad_x, pass.grad_weight, pass.grad_bias};
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  return depthwise_conv_sum_backward(grad_y, x, weight, bias, {}, {});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssm_core, CUDA, m) {
  m.impl("depthwise_conv", TORCH_BOX(&depthwise_conv));
  m.impl("depthwise_conv_backward", TORCH_BOX(&depthwise_conv_backward));
  m.impl("depthwise_conv_sum_backward", TORCH_BOX(&depthwise_conv_sum_backward));
}

}  // namespace ssm
