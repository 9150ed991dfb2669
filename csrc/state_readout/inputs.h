// What both implementations of the state's readout take, and its checks.
#pragma once

#include <ATen/ATen.h>

#include "common/checks.h"

namespace ssm {

// h, x [B, L, D] contiguous; C [B, L] of any strides; D, weight, bias [D].
struct ReadoutInputs {
  const at::Tensor &h, &x, &C, &D, &weight, &bias;
  double eps;
};

inline void check_readout(const ReadoutInputs& in, c10::DeviceType device) {
  const at::Tensor& x = in.x;
  TORCH_CHECK(x.dim() == 3, "x must be 3-D, got ", x.sizes());
  const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  check_device(x, device, x, "x");
  check_contiguous(x, "x");
  check_device(in.h, device, x, "h");
  check_shape(in.h, x.sizes(), "h");
  check_contiguous(in.h, "h");
  check_dtype(in.h, x.scalar_type(), "h");
  check_device(in.C, device, x, "C");
  check_shape(in.C, {x.size(0), x.size(1)}, "C");
  check_dtype(in.C, x.scalar_type(), "C");
  for (const auto& [tensor, name] : {std::pair(&in.D, "D"), {&in.weight, "weight"}, {&in.bias, "bias"}}) {
    check_device(*tensor, device, x, name);
    check_shape(*tensor, {x.size(2)}, name);
    check_dtype(*tensor, wide, name);
    check_contiguous(*tensor, name);
  }
}

inline void check_gradient(const at::Tensor& grad_y, const ReadoutInputs& in) {
  check_device(grad_y, in.x.device().type(), in.x, "grad_y");
  check_shape(grad_y, in.x.sizes(), "grad_y");
  check_dtype(grad_y, in.x.scalar_type(), "grad_y");
}

}  // namespace ssm
