// The host side that the CPU and the CUDA kernels of the selective subtree scan share: checks, and tensors to raw
// pointers.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <tuple>

#include "common/checks.h"
#include "subtree_scan/params.h"
#include "tree/inputs.h"

namespace ssm {

// The checked inputs, and the tensors that the parameters point into.
struct SubtreeScanInputs {
  at::Tensor x, delta, A, B, C, delta_bias;
  SubtreeScanParams params{};

  // Vertices must be fewer than `limit`.
  SubtreeScanInputs(c10::DeviceType device, const at::Tensor& x_given, const at::Tensor& delta_given,
      const at::Tensor& A_given, const at::Tensor& B_given, const at::Tensor& C_given, const at::Tensor& bias_given,
      bool next, int64_t limit) {
    check_vertex_rows(x_given, "x", limit);
    const int64_t batch = x_given.size(0), length = x_given.size(1), channels = x_given.size(2);
    TORCH_CHECK(A_given.dim() == 2 && A_given.size(0) == channels, "A must be [D, N], got ", A_given.sizes());
    const auto scalar = x_given.scalar_type(), accumulate = scalar == at::kDouble ? at::kDouble : at::kFloat;
    const auto check = [&](const at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType dtype, const char* name) {
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
    A = A_given.contiguous();
    B = with_adjacent_channels(B_given);
    C = with_adjacent_channels(C_given);
    delta_bias = bias_given.contiguous();
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
  at::Tensor y, root_state;

  explicit SubtreeScanOutputs(SubtreeScanInputs& in) {
    SubtreeScanParams& p = in.params;
    y = at::empty(in.x.sizes(), in.x.options());
    root_state = at::empty({p.batch, p.channels, p.states}, in.A.options());
    p.y = y.data_ptr();
    p.root_state = root_state.data_ptr();
  }
};

// The gradients that come in, checked, and the results that the backward pass fills.
struct SubtreeScanResults {
  at::Tensor grad_y, grad_root_state;
  at::Tensor grad_x, grad_delta, grad_A, grad_bias;  // the last two of each sample
  SubtreeScanGradients gradients{};

  SubtreeScanResults(
      const at::Tensor& grad_y_given, const std::optional<at::Tensor>& root_given, const SubtreeScanInputs& in) {
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
      grad_root_state = root_given->contiguous();
      gradients.grad_root_state = grad_root_state.const_data_ptr();
    }
    grad_x = at::empty(in.x.sizes(), in.x.options());
    grad_delta = at::empty(in.x.sizes(), in.x.options());
    grad_A = at::empty({p.batch, p.channels, p.states}, in.A.options());
    grad_bias = at::empty({p.batch, p.channels}, in.A.options());
    gradients.grad_y = grad_y.const_data_ptr();
    gradients.grad_y_stride = vertex_strides(grad_y);
    gradients.grad_x = grad_x.data_ptr();
    gradients.grad_delta = grad_delta.data_ptr();
    gradients.grad_A = grad_A.data_ptr();
    gradients.grad_bias = grad_bias.data_ptr();
  }

  // All gradients where there is no channel or no sample: of parameters and weights they are zeros.
  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> of_nothing(
      const SubtreeScanInputs& in) const {
    const auto zeros = [](const at::Tensor& like) { return at::zeros(like.sizes(), like.options()); };
    return {grad_x, grad_delta, zeros(in.A), zeros(in.B), zeros(in.C), zeros(in.delta_bias)};
  }

  // Gradients of B or C: the N states from `first` on of sums in acc_t, [B, L, ≥ N].
  at::Tensor states_of(const at::Tensor& sums, int64_t first, const SubtreeScanInputs& in) const {
    return sums.narrow(2, first, in.params.states).to(in.x.scalar_type()).contiguous();
  }
};

}  // namespace ssm
