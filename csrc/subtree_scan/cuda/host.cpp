// Host side of the selective subtree scan on the GPU. Nothing waits for the device.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/dispatch.h"
#include "subtree_scan/cuda/launch.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"

namespace ssm {
namespace {

// The launch and the tensors that it points into.
struct Arguments {
  at::Tensor x, delta, A, B, C, delta_bias, schedule;
  SubtreeScanLaunch l;
};

void check_arguments(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
    const at::Tensor& C, const at::Tensor& delta_bias, const at::Tensor& schedule) {
  TORCH_CHECK(x.dim() == 3 && x.size(1) >= 1, "x must be [B, L, D] with L at least 1, got ", x.sizes());
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2);
  TORCH_CHECK(length < kLongestWalk && channels < int64_t(1) << 28, "x is too large for a walk: ", x.sizes());
  TORCH_CHECK(A.dim() == 2 && A.size(0) == channels && A.size(1) >= 1 && A.size(1) <= kMostStates,
      "A must be [D, N] with N from 1 to ", kMostStates, ", got ", A.sizes());
  check_shape(delta, x.sizes(), "delta");
  check_shape(delta_bias, {channels}, "delta_bias");
  check_shape(schedule, {batch, ScheduleLayout::of(batch, length).words()}, "schedule");
  check_dtype(schedule, at::kInt, "schedule");
  for (const auto& weights : {B, C}) {
    check_shape(weights, {batch, length, A.size(1)}, "B and C");
    check_dtype(weights, x.scalar_type(), "B and C");
  }
  check_dtype(delta, x.scalar_type(), "delta");
  const auto accumulate = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const auto& parameter : {A, delta_bias}) check_dtype(parameter, accumulate, "A and delta_bias");
  for (const auto& tensor : {x, delta, A, B, C, delta_bias, schedule}) {
    check_device(tensor, at::kCUDA, x, "x, delta, A, B, C, delta_bias and schedule");
  }
}

Arguments take_arguments(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
    const at::Tensor& C, const at::Tensor& delta_bias, bool next, const std::optional<at::Tensor>& schedule) {
  TORCH_CHECK(schedule.has_value(), "the kernel for GPUs needs a schedule");
  check_arguments(x, delta, A, B, C, delta_bias, *schedule);
  Arguments a{with_adjacent_channels(x), with_adjacent_channels(delta), A.contiguous(), with_adjacent_channels(B),
      with_adjacent_channels(C), delta_bias.contiguous(), schedule->contiguous(), {}};
  a.l.batch = x.size(0);
  a.l.length = x.size(1);
  a.l.channels = x.size(2);
  a.l.states = A.size(1);
  a.l.aligned = is_aligned(a.x) && is_aligned(a.delta);
  a.l.next = next;
  a.l.slices = static_cast<int>((a.l.channels + kSubtreeSlice - 1) / kSubtreeSlice);
  a.l.schedule = a.schedule.const_data_ptr<int>();
  a.l.x = a.x.const_data_ptr();
  a.l.delta = a.delta.const_data_ptr();
  a.l.A = a.A.const_data_ptr();
  a.l.B = a.B.const_data_ptr();
  a.l.C = a.C.const_data_ptr();
  a.l.delta_bias = a.delta_bias.const_data_ptr();
  a.l.x_stride = strides_of(a.x);
  a.l.delta_stride = strides_of(a.delta);
  a.l.B_stride = strides_of(a.B);
  a.l.C_stride = strides_of(a.C);
  return a;
}

std::tuple<at::Tensor, at::Tensor> selective_subtree_scan(const at::Tensor& x, const at::Tensor& delta,
    const at::Tensor& A, const at::Tensor& B, const at::Tensor& C, const at::Tensor& delta_bias,
    const at::Tensor& /*parent*/, const at::Tensor& /*order*/, bool next, const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(x.device());
  Arguments a = take_arguments(x, delta, A, B, C, delta_bias, next, schedule);
  at::Tensor y = at::empty(x.sizes(), x.options());
  at::Tensor root_state = at::empty({a.l.batch, a.l.channels, a.l.states}, A.options());
  if (y.numel() == 0) return {y, root_state};
  a.l.y = y.data_ptr();
  a.l.root_state = root_state.data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan", [&] { launch_subtree_scan<scalar_t>(a.l); });
  return {y, root_state};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> selective_subtree_scan_backward(
    const at::Tensor& grad_y, const std::optional<at::Tensor>& grad_root_state, const at::Tensor& x,
    const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B, const at::Tensor& C,
    const at::Tensor& delta_bias, const at::Tensor& /*parent*/, const at::Tensor& /*order*/, bool next,
    const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(x.device());
  Arguments a = take_arguments(x, delta, A, B, C, delta_bias, next, schedule);
  SubtreeScanLaunch& l = a.l;
  check_device(grad_y, at::kCUDA, x, "grad_y");
  check_shape(grad_y, x.sizes(), "grad_y");
  check_dtype(grad_y, x.scalar_type(), "grad_y");
  at::Tensor grad_x = at::empty(x.sizes(), x.options()), grad_delta = at::empty(x.sizes(), x.options());
  if (grad_x.numel() == 0) {
    const auto zeros = [](const at::Tensor& like) { return at::zeros(like.sizes(), like.options()); };
    return {grad_x, grad_delta, zeros(A), zeros(B), zeros(C), zeros(delta_bias)};
  }
  const at::Tensor upstream = with_adjacent_channels(grad_y);
  at::Tensor of_root;
  if (grad_root_state.has_value()) {
    check_device(*grad_root_state, at::kCUDA, x, "grad_root_state");
    check_shape(*grad_root_state, {l.batch, l.channels, l.states}, "grad_root_state");
    check_dtype(*grad_root_state, A.scalar_type(), "grad_root_state");
    of_root = grad_root_state->contiguous();
    l.root_state = of_root.data_ptr();
  }
  l.backward = true;
  l.aligned = l.aligned && is_aligned(upstream);
  l.grad_y = upstream.const_data_ptr();
  l.grad_y_stride = strides_of(upstream);
  const int64_t held = held_states(l.states), chunks = l.slices * l.batch * subtree_chunks(l.length);
  const auto wide = [&](at::IntArrayRef shape) { return at::empty(shape, A.options()); };
  const at::Tensor parts = next ? wide({2, l.batch, l.length, l.channels}) : at::Tensor();
  const at::Tensor weights = wide({l.slices, l.batch, l.length, 2 * held}), bias = wide({l.batch, l.channels});
  const at::Tensor rates = wide({l.batch, l.channels, l.states});
  const at::Tensor kept = wide({1 + kMostCrossing, chunks * kSubtreeSlice * held});
  l.grad_x = grad_x.data_ptr();
  l.grad_delta = next ? parts.data_ptr() : grad_delta.data_ptr();
  l.grad_edge = next ? parts[1].data_ptr() : nullptr;
  l.grad_weights = weights.data_ptr();
  l.grad_A = rates.data_ptr();
  l.grad_bias = bias.data_ptr();
  l.incoming = kept.data_ptr();
  l.crossing = kept[1].data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan_backward", [&] { launch_subtree_scan<scalar_t>(l); });
  if (next) at::add_out(grad_delta, parts[0], parts[1]);
  const at::Tensor of_weights = weights.sum(0);
  const auto states = [&](int64_t first) {
    return of_weights.narrow(2, first, l.states).to(x.scalar_type()).contiguous();
  };
  return {grad_x, grad_delta, rates.sum(0), states(0), states(held), bias.sum(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("selective_subtree_scan", &selective_subtree_scan);
  m.impl("selective_subtree_scan_backward", &selective_subtree_scan_backward);
}

}  // namespace ssm
