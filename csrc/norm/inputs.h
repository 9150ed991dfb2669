// The host side that the CPU and the CUDA kernels of the norms share: checks, results, and tensors to raw pointers.
#pragma once

#include <limits>
#include <optional>

#include "common/checks.h"
#include "norm/params.h"

namespace ssm {

using OptionalTensor = std::optional<Tensor>;

inline bool is_half(ScalarType type) {
  return type == kHalf || type == kBFloat16;
}

// One more map beside `like`.
inline const void* check_map(const Tensor& map, const Tensor& like, ScalarType dtype, const char* name) {
  return check_dense(map, like, like.sizes(), dtype, name);
}

// What a kernel for one call is, besides its parameters.
struct NormCall {
  NormParams params{};
  ScalarType narrow = kFloat;  // scalar_t of the kernel
};

// The type that a kernel is compiled for: the half type among the three, or else the type that all of them have.
inline ScalarType narrow_type(ScalarType x, ScalarType stream, ScalarType y) {
  ScalarType narrow = x;
  for (const ScalarType type : {stream, y}) {
    if (is_half(type) && narrow == kFloat) narrow = type;
  }
  for (const ScalarType type : {x, stream, y}) {
    SSM_CHECK(type == narrow || (type == kFloat && is_half(narrow)),
        "x, the residual and y must be float32 or one half type, or all three float64, got ", x, ", ", stream, " and ",
        y);
  }
  return narrow;
}

// Checks x or the stream, the parameters, and the scale of each sample.
inline NormCall norm_call(DeviceType device, const Tensor& x, ScalarType x_type, ScalarType stream_type,
    ScalarType y_type, const OptionalTensor& scale, const Tensor& weight, const OptionalTensor& bias, double eps,
    bool centred) {
  NormCall call;
  call.narrow = narrow_type(x_type, stream_type, y_type);
  SSM_CHECK(call.narrow == kDouble || call.narrow == kFloat || is_half(call.narrow),
      "x must be float64, float32, float16 or bfloat16, got ", x_type);
  SSM_CHECK(x.dim() == 3, "x must be [B, L, C], got ", x.sizes());
  SSM_CHECK(x.size(-1) <= std::numeric_limits<int>::max(), "x has too many channels: ", x.sizes());
  check_device(x, device, x, "x");
  check_contiguous(x, "x");
  const ScalarType wide = call.narrow == kDouble ? kDouble : kFloat;
  const auto check_parameter = [&](const Tensor& tensor, int64_t size, const char* name) {
    return check_dense(tensor, x, {size}, wide, name);
  };
  NormParams& p = call.params;
  p.weight = check_parameter(weight, x.size(-1), "weight");
  if (bias.has_value()) p.bias = check_parameter(*bias, x.size(-1), "bias");
  if (scale.has_value()) p.scale = check_parameter(*scale, x.size(0), "scale");
  p.channels = static_cast<int>(x.size(-1));
  p.rows = x.numel() == 0 ? 0 : x.size(0) * x.size(1);
  p.sample_rows = x.size(1);
  p.eps = eps;
  p.centred = centred;
  p.x_wide = x_type == wide;
  p.stream_wide = stream_type == wide;
  p.y_wide = y_type == wide;
  return call;
}

// A forward pass: its call and its results. The stream is set if there is a residual.
struct NormForward {
  NormCall call;
  Tensor y;
  OptionalTensor stream;

  NormForward(DeviceType device, const Tensor& x, const OptionalTensor& residual, const OptionalTensor& scale,
      const Tensor& weight, const OptionalTensor& bias, double eps, bool centred, ScalarType dtype)
      : call(norm_call(device, x, x.scalar_type(), residual.has_value() ? residual->scalar_type() : x.scalar_type(),
            dtype, scale, weight, bias, eps, centred)),
        y(empty(x.sizes(), x, dtype)) {
    NormParams& p = call.params;
    p.x = x.const_data_ptr();
    p.y = y.mutable_data_ptr();
    if (!residual.has_value()) return;
    p.residual = check_map(*residual, x, residual->scalar_type(), "residual");
    stream = empty(x.sizes(), *residual);
    p.stream = stream->mutable_data_ptr();
  }
};

// A backward pass: its call, and its results but those for x and the residual.
struct NormBackward {
  NormCall call;
  Tensor grad_y;
  OptionalTensor grad_more;
  Tensor grad_stream, grad_weight, grad_bias;

  // `grad_stream_given` is what arrives at the stream besides the gradient through the norm.
  NormBackward(DeviceType device, const Tensor& grad_y_given, const OptionalTensor& grad_stream_given,
      const Tensor& stream, const OptionalTensor& scale, const Tensor& weight, const OptionalTensor& bias, double eps,
      bool centred, ScalarType x_type)
      : call(norm_call(device, stream, x_type, stream.scalar_type(), grad_y_given.scalar_type(), scale, weight, bias,
            eps, centred)),
        grad_y(contiguous(grad_y_given)),
        grad_stream(empty(stream.sizes(), stream)),
        grad_weight(empty(weight.sizes(), weight)),
        grad_bias(empty(weight.sizes(), weight)) {
    NormParams& p = call.params;
    p.grad_y = check_map(grad_y, stream, grad_y.scalar_type(), "grad_y");
    if (grad_stream_given.has_value()) {
      grad_more = contiguous(*grad_stream_given);
      p.grad_stream = check_map(*grad_more, stream, stream.scalar_type(), "the stream's gradient");
    }
    p.kept_stream = stream.const_data_ptr();
    p.grad_residual = grad_stream.mutable_data_ptr();
    p.grad_weight = grad_weight.mutable_data_ptr();
    p.grad_bias = grad_bias.mutable_data_ptr();
  }
};

}  // namespace ssm
