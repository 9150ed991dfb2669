// The host side that the CPU and the CUDA kernels of the depthwise convolution share: checks, results, and tensors to
// raw pointers.
#pragma once

#include <limits>
#include <optional>

#include "common/checks.h"
#include "depthwise_conv/params.h"

namespace ssm {

using OptionalTensor = std::optional<Tensor>;

inline DepthwiseConvParams depthwise_conv_params(
    DeviceType device, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  SSM_CHECK(x.dim() == 4, "x must be [B, H, W, C], got ", x.sizes());
  for (int i = 1; i < 4; ++i) {
    SSM_CHECK(x.size(i) < std::numeric_limits<int>::max(), "x is too large: ", x.sizes());
  }
  check_device(x, device, x, "x");
  check_contiguous(x, "x");
  const auto check_parameter = [&](const Tensor& tensor, Sizes shape, const char* name) {
    check_device(tensor, device, x, name);
    check_shape(tensor, shape, name);
    check_dtype(tensor, sum_type(x), name);
    check_contiguous(tensor, name);
    return tensor.const_data_ptr();
  };
  DepthwiseConvParams p{};
  p.weight = check_parameter(weight, {x.size(3), kConvSide, kConvSide}, "weight");
  if (bias.has_value()) p.bias = check_parameter(*bias, {x.size(3)}, "bias");
  p.batch = x.size(0);
  p.height = static_cast<int>(x.size(1));
  p.width = static_cast<int>(x.size(2));
  p.channels = static_cast<int>(x.size(3));
  p.x = x.const_data_ptr();
  return p;
}

struct DepthwiseConvForward {
  DepthwiseConvParams params;
  Tensor y;

  DepthwiseConvForward(DeviceType device, const Tensor& x, const Tensor& weight, const OptionalTensor& bias)
      : params(depthwise_conv_params(device, x, weight, bias)),
        y(empty(x.sizes(), x)) {
    params.y = y.mutable_data_ptr();
  }
};

struct DepthwiseConvBackward {
  DepthwiseConvParams params;
  Tensor grad_y, more[kConvMoreGradients], grad_x, grad_weight, grad_bias;

  DepthwiseConvBackward(DeviceType device, const Tensor& grad_y_given, const Tensor& x, const Tensor& weight,
      const OptionalTensor& bias, const OptionalTensor& second = {}, const OptionalTensor& third = {})
      : params(depthwise_conv_params(device, x, weight, bias)) {
    const auto check_gradient = [&](const Tensor& given, const char* name) {
      check_device(given, device, x, name);
      check_shape(given, x.sizes(), name);
      check_dtype(given, x.scalar_type(), name);
      return contiguous(given);
    };
    grad_y = check_gradient(grad_y_given, "grad_y");
    int count = 0;
    for (const OptionalTensor* given : {&second, &third}) {
      if (!given->has_value()) continue;
      more[count] = check_gradient(**given, "a further gradient");
      params.more[count] = more[count].const_data_ptr();
      ++count;
    }
    grad_x = empty(x.sizes(), x);
    grad_weight = empty(weight.sizes(), weight);
    grad_bias = empty({x.size(3)}, weight);
    params.grad_y = grad_y.const_data_ptr();
    params.grad_x = grad_x.mutable_data_ptr();
    params.grad_weight = grad_weight.mutable_data_ptr();
    params.grad_bias = grad_bias.mutable_data_ptr();
  }
};

}  // namespace ssm
