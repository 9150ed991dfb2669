// The operators of the norms, made of the two passes of a device.
#pragma once

#include <tuple>

#include "norm/inputs.h"

namespace ssm {

// `Passes` has `device` and static functions `forward(NormCall)` and `backward(NormCall, like)`, which fill the results
// that the call's parameters point to; `like` is a tensor on the device, of the parameters' type.
template <typename Passes>
struct NormOperators {
  static Tensor norm(
      const Tensor& x, const Tensor& weight, const OptionalTensor& bias, double eps, bool centred, ScalarType dtype) {
    const NormForward pass(Passes::device, x, std::nullopt, std::nullopt, weight, bias, eps, centred, dtype);
    Passes::forward(pass.call, x);
    return pass.y;
  }

  static std::tuple<Tensor, Tensor, Tensor> norm_backward(const Tensor& grad_y, const OptionalTensor& grad_more,
      const Tensor& x, const Tensor& weight, double eps, bool centred) {
    const NormBackward pass(
        Passes::device, grad_y, grad_more, x, std::nullopt, weight, std::nullopt, eps, centred, x.scalar_type());
    Passes::backward(pass.call, weight);
    return {pass.grad_stream, pass.grad_weight, pass.grad_bias};
  }

  static Tensor gated_norm(
      const Tensor& x, const Tensor& gate, const Tensor& weight, const OptionalTensor& bias, double eps, bool centred) {
    NormForward pass(Passes::device, x, std::nullopt, std::nullopt, weight, bias, eps, centred, x.scalar_type());
    pass.call.params.gate = check_map(gate, x, x.scalar_type(), "gate");
    Passes::forward(pass.call, x);
    return pass.y;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> gated_norm_backward(const Tensor& grad_y, const Tensor& x,
      const Tensor& gate, const Tensor& weight, const OptionalTensor& bias, double eps, bool centred) {
    NormBackward pass(
        Passes::device, grad_y, std::nullopt, x, std::nullopt, weight, bias, eps, centred, x.scalar_type());
    pass.call.params.gate = check_map(gate, x, x.scalar_type(), "gate");
    check_dtype(pass.grad_y, x.scalar_type(), "grad_y");
    const Tensor grad_gate = empty(gate.sizes(), gate);
    pass.call.params.grad_gate = grad_gate.mutable_data_ptr();
    Passes::backward(pass.call, weight);
    return {pass.grad_stream, grad_gate, pass.grad_weight, pass.grad_bias};
  }

  static std::tuple<Tensor, Tensor> residual_norm(const Tensor& x, const Tensor& residual, const OptionalTensor& scale,
      const Tensor& weight, const OptionalTensor& bias, double eps, bool centred, ScalarType dtype) {
    const NormForward pass(Passes::device, x, residual, scale, weight, bias, eps, centred, dtype);
    Passes::forward(pass.call, x);
    return {pass.y, *pass.stream};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> residual_norm_backward(const Tensor& grad_y,
      const OptionalTensor& grad_stream, const Tensor& stream, const OptionalTensor& scale, const Tensor& weight,
      double eps, bool centred, ScalarType dtype) {
    NormBackward pass(Passes::device, grad_y, grad_stream, stream, scale, weight, std::nullopt, eps, centred, dtype);
    const Tensor grad_x = empty(stream.sizes(), stream, dtype);
    pass.call.params.grad_x = grad_x.mutable_data_ptr();
    Passes::backward(pass.call, weight);
    return {grad_x, pass.grad_stream, pass.grad_weight, pass.grad_bias};
  }
};

}  // namespace ssm

#define SSM_REGISTER_NORMS(KEY, PASSES)                                                               \
  STABLE_TORCH_LIBRARY_IMPL(ssm_core, KEY, m) {                                                       \
    m.impl("norm", TORCH_BOX(&ssm::NormOperators<PASSES>::norm));                                     \
    m.impl("norm_backward", TORCH_BOX(&ssm::NormOperators<PASSES>::norm_backward));                   \
    m.impl("gated_norm", TORCH_BOX(&ssm::NormOperators<PASSES>::gated_norm));                         \
    m.impl("gated_norm_backward", TORCH_BOX(&ssm::NormOperators<PASSES>::gated_norm_backward));       \
    m.impl("residual_norm", TORCH_BOX(&ssm::NormOperators<PASSES>::residual_norm));                   \
    m.impl("residual_norm_backward", TORCH_BOX(&ssm::NormOperators<PASSES>::residual_norm_backward)); \
  }
