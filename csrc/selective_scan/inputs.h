// The host side that the CPU and the CUDA kernels of the selective scan share: checks, and tensors to raw pointers.
#pragma once

#include <vector>

#include "common/checks.h"
#include "selective_scan/params.h"

namespace ssm {

inline Strides strides_of(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.dim() > 3 ? t.stride(3) : 1};
}

// Checks the canonical shapes and fills everything but the outputs. `reverse` is copied: bool[] arrives without storage
// that a kernel can point to.
struct SelectiveScanInputs {
  SelectiveScanParams params;
  std::vector<char> reverse;

  SelectiveScanInputs(DeviceType device, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
      const Tensor& C, const std::optional<Tensor>& D, const std::optional<Tensor>& delta_bias,
      const std::optional<Tensor>& order, const std::vector<bool>& reverse_flags, bool delta_softplus) {
    SSM_CHECK(u.dim() == 4 && delta.dim() == 4 && A.dim() == 3,
        "u must be [B, G, L, D], delta [B, K, L, D] and A [K, D, N], got ", u.sizes(), ", ", delta.sizes(), " and ",
        A.sizes());
    const int64_t batch = u.size(0), groups = u.size(1), length = u.size(2), channels = u.size(3);
    const int64_t K = delta.size(1), states = A.size(2);
    SSM_CHECK(groups > 0 && K > 0 && K % groups == 0, "delta's ", K, " directions must be a multiple of u's ", groups);
    SSM_CHECK(length > 0 && states > 0, "there must be a token and a state, got u ", u.sizes(), " and A ", A.sizes());
    const auto compute = sum_type(u);
    for (const auto& t : {u, delta, A, B, C}) check_device(t, device, u, "every argument");
    check_shape(delta, {batch, K, length, channels}, "delta");
    check_shape(A, {K, channels, states}, "A");
    check_shape(B, {batch, K, length, states}, "B");
    check_shape(C, {batch, K, length, states}, "C");
    for (const auto& t : {delta, B, C}) check_dtype(t, u.scalar_type(), "delta, B and C");
    SSM_CHECK(is_adjacent(u) && is_adjacent(delta), "u and delta must be contiguous in their channels");
    check_dtype(A, compute, "A");
    check_contiguous(A, "A");
    for (const auto& t : {D, delta_bias}) {
      if (!t.has_value()) continue;
      check_device(*t, device, u, "D and delta_bias");
      check_shape(*t, {K, channels}, "D and delta_bias");
      check_dtype(*t, compute, "D and delta_bias");
      check_contiguous(*t, "D and delta_bias");
    }
    SSM_CHECK(static_cast<int64_t>(reverse_flags.size()) == K, "reverse must have one flag for each direction");
    for (bool flag : reverse_flags) reverse.push_back(flag);

    params = {};
    params.batch = batch;
    params.groups = groups;
    params.inner = K / groups;
    params.length = length;
    params.channels = channels;
    params.states = states;
    params.delta_softplus = delta_softplus;
    params.u = u.const_data_ptr();
    params.delta = delta.const_data_ptr();
    params.B = B.const_data_ptr();
    params.C = C.const_data_ptr();
    params.A = A.const_data_ptr();
    params.D = D.has_value() ? D->const_data_ptr() : nullptr;
    params.delta_bias = delta_bias.has_value() ? delta_bias->const_data_ptr() : nullptr;
    params.u_stride = strides_of(u);
    params.delta_stride = strides_of(delta);
    params.B_stride = strides_of(B);
    params.C_stride = strides_of(C);
    params.reverse = reinterpret_cast<const bool*>(reverse.data());
    if (order.has_value()) {
      check_device(*order, device, u, "order");
      check_shape(*order, {batch, K, length}, "order");
      check_dtype(*order, kLong, "order");
      params.order = order->const_data_ptr<int64_t>();
      params.order_stride = strides_of(*order);
    }
  }
};

// The gradients that come in, checked and made contiguous.
struct SelectiveScanUpstream {
  Tensor grad_y, grad_last_state;

  SelectiveScanUpstream(const SelectiveScanParams& p, const Tensor& grad_y_given,
      const std::optional<Tensor>& grad_last_state_given, const Tensor& u, const Tensor& A) {
    check_device(grad_y_given, u.device().type(), u, "grad_y");
    check_shape(grad_y_given, {p.batch, p.groups, p.length, p.channels}, "grad_y");
    check_dtype(grad_y_given, u.scalar_type(), "grad_y");
    grad_y = contiguous(grad_y_given);
    if (!grad_last_state_given.has_value()) return;
    check_device(*grad_last_state_given, u.device().type(), u, "grad_last_state");
    check_shape(*grad_last_state_given, {p.batch, p.groups * p.inner, p.channels, p.states}, "grad_last_state");
    check_dtype(*grad_last_state_given, A.scalar_type(), "grad_last_state");
    grad_last_state = contiguous(*grad_last_state_given);
  }

  const void* grad_y_data() const { return grad_y.const_data_ptr(); }
  const void* grad_last_state_data() const {
    return grad_last_state.defined() ? grad_last_state.const_data_ptr() : nullptr;
  }
};

}  // namespace ssm
