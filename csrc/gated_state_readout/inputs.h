// The host side that the CPU and the CUDA kernels of the state's readout with a gated norm share: checks, results, and
// tensors to raw pointers.
#pragma once

#include <tuple>

#include "common/checks.h"
#include "gated_state_readout/params.h"
#include "state_readout/inputs.h"

namespace ssm {

// Whether the rows of a map [B, L, D] lie at one distance from each other, and their channels side by side.
inline bool has_even_rows(const Tensor& map) {
  const bool follow = map.size(0) <= 1 || map.size(1) <= 1 || map.stride(0) == map.size(1) * map.stride(1);
  return is_adjacent(map) && follow;
}

// The inputs of a call, checked. A gate that is one half of a projection's result is read where it is. Any other gate
// without even rows is copied.
struct GatedReadoutInputs {
  GatedReadoutParams params;
  Tensor gate;

  GatedReadoutInputs(DeviceType device, const Tensor& h, const Tensor& x, const Tensor& C, const Tensor& D,
      const Tensor& weight, const Tensor& bias, double eps, const Tensor& gate_given, const Tensor& out_weight,
      const Tensor& out_bias, double out_eps)
      : params{readout_params(device, h, x, C, D, weight, bias, eps)} {
    check_device(gate_given, device, x, "gate");
    check_shape(gate_given, x.sizes(), "gate");
    check_dtype(gate_given, x.scalar_type(), "gate");
    gate = has_even_rows(gate_given) ? gate_given : contiguous(gate_given);
    GatedReadoutParams& p = params;
    p.gate = gate.const_data_ptr();
    p.gate_stride = gate.size(1) > 1 ? gate.stride(1) : gate.stride(0);
    p.out_weight = check_dense(out_weight, x, {x.size(2)}, sum_type(x), "out_weight");
    p.out_bias = check_dense(out_bias, x, {x.size(2)}, sum_type(x), "out_bias");
    p.out_eps = out_eps;
  }
};

// The results of the backward pass; `p` gets their addresses.
struct GatedReadoutGradients {
  using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  ReadoutGradients maps;
  Tensor grad_gate, parameters[kGatedReadoutParameters];

  GatedReadoutGradients(const Tensor& grad_y, const Tensor& x, const Tensor& C, const Tensor& D, GatedReadoutParams& p)
      : maps(grad_y, x, C, p),
        grad_gate(empty(x.sizes(), x)) {
    p.grad_gate = grad_gate.mutable_data_ptr();
    for (Tensor& parameter : parameters) parameter = empty(D.sizes(), D);
  }

  Results results() const {
    const auto& [weight, bias, D, out_weight, out_bias] = parameters;
    return {maps.grad_h, maps.grad_x, maps.grad_C, D, weight, bias, grad_gate, out_weight, out_bias};
  }
};

}  // namespace ssm
