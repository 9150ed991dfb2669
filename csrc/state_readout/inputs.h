// The host side that the CPU and the CUDA kernels of the state's readout share: checks, and tensors to raw pointers.
#pragma once

#include <limits>

#include "common/checks.h"
#include "state_readout/params.h"

namespace ssm {

// Checks h, x [B, L, D] contiguous; C [B, L] of any strides; D, weight, bias [D]; and fills everything but the results.
inline ReadoutParams readout_params(DeviceType device, const Tensor& h, const Tensor& x, const Tensor& C,
    const Tensor& D, const Tensor& weight, const Tensor& bias, double eps) {
  SSM_CHECK(x.dim() == 3, "x must be 3-D, got ", x.sizes());
  SSM_CHECK(x.size(2) <= std::numeric_limits<int>::max(), "x has too many channels: ", x.sizes());
  const auto wide = sum_type(x);
  check_device(x, device, x, "x");
  check_contiguous(x, "x");
  check_device(C, device, x, "C");
  check_shape(C, {x.size(0), x.size(1)}, "C");
  check_dtype(C, x.scalar_type(), "C");
  ReadoutParams p{};
  p.rows = x.size(0) * x.size(1);
  p.length = x.size(1);
  p.channels = static_cast<int>(x.size(2));
  p.eps = eps;
  p.h = check_dense(h, x, x.sizes(), x.scalar_type(), "h");
  p.x = x.const_data_ptr();
  p.C = C.const_data_ptr();
  p.C_batch_stride = C.stride(0);
  p.C_token_stride = C.stride(1);
  p.D = check_dense(D, x, {x.size(2)}, wide, "D");
  p.weight = check_dense(weight, x, {x.size(2)}, wide, "weight");
  p.bias = check_dense(bias, x, {x.size(2)}, wide, "bias");
  return p;
}

// The gradient that comes in, checked, and the results that the backward pass fills; `p` gets their addresses.
struct ReadoutGradients {
  Tensor grad_y, grad_h, grad_x, grad_C;

  ReadoutGradients(const Tensor& grad_y_given, const Tensor& x, const Tensor& C, ReadoutParams& p) {
    check_device(grad_y_given, x.device().type(), x, "grad_y");
    check_shape(grad_y_given, x.sizes(), "grad_y");
    check_dtype(grad_y_given, x.scalar_type(), "grad_y");
    grad_y = contiguous(grad_y_given);
    grad_h = empty(x.sizes(), x);
    grad_x = empty(x.sizes(), x);
    grad_C = empty(C.sizes(), C);
    p.grad_y = grad_y.const_data_ptr();
    p.grad_h = grad_h.mutable_data_ptr();
    p.grad_x = grad_x.mutable_data_ptr();
    p.grad_C = grad_C.mutable_data_ptr();
  }
};

}  // namespace ssm
