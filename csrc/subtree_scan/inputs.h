// The host side that the CPU and the CUDA kernels of the selective subtree scan share: checks, and tensors to raw
// pointers.
#pragma once

#include <optional>
#include <tuple>

#include "common/checks.h"
#include "subtree_scan/params.h"
#include "tree/inputs.h"

namespace ssm {

// The checked inputs, and the tensors that the parameters point into.
struct SubtreeScanInputs {
  Tensor x, delta, A, B, C, delta_bias;
  SubtreeScanParams params{};

  // Vertices must be fewer than `limit`.
  SubtreeScanInputs(DeviceType device, const Tensor& x_given, const Tensor& delta_given, const Tensor& A_given,
      const Tensor& B_given, const Tensor& C_given, const Tensor& bias_given, bool next, int64_t limit) {
    check_vertex_rows(x_given, "x", limit);
    const int64_t batch = x_given.size(0), length = x_given.size(1), channels = x_given.size(2);
    SSM_CHECK(A_given.dim() == 2 && A_given.size(0) == channels, "A must be [D, N], got ", A_given.sizes());
    const auto scalar = x_given.scalar_type(), accumulate = scalar == kDouble ? kDouble : kFloat;
    const auto check = [&](const Tensor& tensor, Sizes shape, ScalarType dtype, const char* name) {
      check_device(tensor, device, x_given, name);
      check_shape(tensor, shape, name);
      check_dtype(tensor, dtype, name);
    };
    check(x_given, x_given.sizes(), scalar, "x");
    check(delta_given, x_given.sizes(), scalar, "delta");
    check(A_given, A_given.sizes(), accumulate, "A");
    check(bias_given, {channels}, accumulate, "delta_bias");
    for (const auto& weights : {B_given, C_given}) check(weights, {batch, length, A_given.size(1)}, scalar, "B and C");

    x = with_adjacent_channels(x_given);
    delta = with_adjacent_channels(delta_given);
    A = contiguous(A_given);
    B = with_adjacent_channels(B_given);
    C = with_adjacent_channels(C_given);
    delta_bias = contiguous(bias_given);
    params.batch = batch;
    params.length = length;
    params.channels = channels;
    params.states = A.size(1);
    params.next = next;
    params.x = x.const_data_ptr();
    params.delta = delta.const_data_ptr();
    params.A = A.const_data_ptr();
    params.B = B.const_data_ptr();
    params.C = C.const_data_ptr();
    params.delta_bias = delta_bias.const_data_ptr();
    params.x_stride = vertex_strides(x);
    params.delta_stride = vertex_strides(delta);
    params.B_stride = vertex_strides(B);
    params.C_stride = vertex_strides(C);
  }
};

// The results of the forward pass; `p` gets their addresses.
struct SubtreeScanOutputs {
  Tensor y, root_state;

  explicit SubtreeScanOutputs(SubtreeScanInputs& in) {
    SubtreeScanParams& p = in.params;
    y = empty(in.x.sizes(), in.x);
    root_state = empty({p.batch, p.channels, p.states}, in.A);
    p.y = y.data_ptr();
    p.root_state = root_state.data_ptr();
  }
};

// The gradients that come in, checked, and the results that the backward pass fills.
struct SubtreeScanResults {
  Tensor grad_y, grad_root_state;
  Tensor grad_x, grad_delta, grad_A, grad_bias;  // the last two of each sample
  SubtreeScanGradients gradients{};

  SubtreeScanResults(const Tensor& grad_y_given, const std::optional<Tensor>& root_given, const SubtreeScanInputs& in) {
    const SubtreeScanParams& p = in.params;
    const auto device = in.x.device().type();
    check_device(grad_y_given, device, in.x, "grad_y");
    check_shape(grad_y_given, in.x.sizes(), "grad_y");
    check_dtype(grad_y_given, in.x.scalar_type(), "grad_y");
    grad_y = with_adjacent_channels(grad_y_given);
    if (root_given.has_value()) {
      check_device(*root_given, device, in.x, "grad_root_state");
      check_shape(*root_given, {p.batch, p.channels, p.states}, "grad_root_state");
      check_dtype(*root_given, in.A.scalar_type(), "grad_root_state");
      grad_root_state = contiguous(*root_given);
      gradients.grad_root_state = grad_root_state.const_data_ptr();
    }
    grad_x = empty(in.x.sizes(), in.x);
    grad_delta = empty(in.x.sizes(), in.x);
    grad_A = empty({p.batch, p.channels, p.states}, in.A);
    grad_bias = empty({p.batch, p.channels}, in.A);
    gradients.grad_y = grad_y.const_data_ptr();
    gradients.grad_y_stride = vertex_strides(grad_y);
    gradients.grad_x = grad_x.data_ptr();
    gradients.grad_delta = grad_delta.data_ptr();
    gradients.grad_A = grad_A.data_ptr();
    gradients.grad_bias = grad_bias.data_ptr();
  }

  // All gradients where there is no channel or no sample: of parameters and weights they are zeros.
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> of_nothing(const SubtreeScanInputs& in) const {
    return {grad_x, grad_delta, zeros(in.A.sizes(), in.A), zeros(in.B.sizes(), in.B), zeros(in.C.sizes(), in.C),
        zeros(in.delta_bias.sizes(), in.delta_bias)};
  }

  // Gradients of B or C: the N states from `first` on of sums in acc_t, [B, L, ≥ N].
  Tensor states_of(const Tensor& sums, int64_t first, const SubtreeScanInputs& in) const {
    Tensor copy = sums;  // narrow takes no constant
    return contiguous(cast(torch::stable::narrow(copy, 2, first, in.params.states), in.x.scalar_type()));
  }
};

}  // namespace ssm
