// Host side of the selective tree scan on the GPU. Nothing waits for the device.

#include <optional>

#include "common/checks.h"
#include "common/dispatch.h"
#include "selective_tree_scan/cuda/launch.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"

namespace ssm {
namespace {

// The launch and the tensors that it points into.
struct Arguments {
  Tensor x, delta, A, B, delta_bias, schedule;
  SelectiveTreeScanLaunch l;
};

Arguments check_arguments(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& delta_bias, const Tensor& schedule, const std::optional<Tensor>& parent,
    const std::optional<Tensor>& order) {
  check_vertex_rows(x, "x", kLongestWalk);
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2);
  SSM_CHECK(channels < kLongestWalk, "x has ", kLongestWalk, " channels or more");
  check_shape(delta, x.sizes(), "delta");
  check_shape(B, {batch, length}, "B");
  check_dtype(delta, x.scalar_type(), "delta");
  check_dtype(B, x.scalar_type(), "B");
  const auto accumulate = sum_type(x);
  for (const auto& parameter : {A, delta_bias}) {
    check_shape(parameter, {channels}, "A and delta_bias");
    check_dtype(parameter, accumulate, "A and delta_bias");
  }
  for (const auto& tensor : {x, delta, A, B, delta_bias}) {
    check_device(tensor, kCUDA, x, "x, delta, A, B and delta_bias");
  }
  // The kernels read the schedule alone. Derivatives are made of the tree itself.
  for (const auto& index : {parent, order}) {
    if (index.has_value()) check_tree_index(*index, x, kCUDA);
  }
  // B is gathered, whatever its strides: the kernels count the bytes from a vertex to the next in 32 bits.
  Arguments a{with_adjacent_channels(x), with_adjacent_channels(delta), contiguous(A),
      B.stride(1) < int64_t(1) << 28 ? B : contiguous(B), contiguous(delta_bias), check_schedule(schedule, x), {}};
  a.l.batch = batch;
  a.l.length = length;
  a.l.channels = channels;
  a.l.cut = piece_size(batch, length);
  a.l.aligned = is_aligned(a.x) && is_aligned(a.delta);
  a.l.schedule = a.schedule.const_data_ptr<int>();
  a.l.x = a.x.const_data_ptr();
  a.l.delta = a.delta.const_data_ptr();
  a.l.A = a.A.const_data_ptr();
  a.l.B = a.B.const_data_ptr();
  a.l.delta_bias = a.delta_bias.const_data_ptr();
  a.l.x_stride = vertex_strides(a.x);
  a.l.delta_stride = vertex_strides(a.delta);
  a.l.B_stride = vertex_strides(a.B);
  return a;
}

Tensor selective_tree_scan(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& delta_bias, const Tensor& schedule, const std::optional<Tensor>& parent,
    const std::optional<Tensor>& order) {
  const DeviceGuard guard(x.get_device_index());
  Arguments a = check_arguments(x, delta, A, B, delta_bias, schedule, parent, order);
  Tensor h = empty(x.sizes(), x);
  if (h.numel() == 0) return h;
  const Tensor piece_sums = empty_piece_sums(a.l, 1, A, A.scalar_type());
  a.l.state = a.l.output = h.data_ptr();
  a.l.piece_sums = piece_sums.data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_tree_scan", [&] {
    a.l.slices = selective_slices<scalar_t>(a.l);
    launch_selective_tree_scan<scalar_t>(a.l);
  });
  launch_clear_unvisited("selective_tree_scan", visits_of(a.l, {{rows_of(h)}}));
  return h;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> selective_tree_scan_backward(const Tensor& grad_h, const Tensor& x,
    const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& delta_bias, const Tensor& schedule,
    const std::optional<Tensor>& parent, const std::optional<Tensor>& order) {
  const DeviceGuard guard(x.get_device_index());
  Arguments a = check_arguments(x, delta, A, B, delta_bias, schedule, parent, order);
  check_device(grad_h, kCUDA, x, "grad_h");
  check_shape(grad_h, x.sizes(), "grad_h");
  check_dtype(grad_h, x.scalar_type(), "grad_h");
  Tensor grad_x = empty(x.sizes(), x), grad_delta = empty(x.sizes(), x);
  if (grad_x.numel() == 0) {
    return {grad_x, grad_delta, zeros(A.sizes(), A), zeros(B.sizes(), B), zeros(delta_bias.sizes(), delta_bias)};
  }
  const Tensor upstream = with_adjacent_channels(grad_h);
  a.l.backward = true;
  a.l.grad_h = upstream.const_data_ptr();
  a.l.grad_h_stride = vertex_strides(upstream);
  a.l.aligned = a.l.aligned && is_aligned(upstream);
  a.l.state = a.l.grad_delta = grad_delta.data_ptr();
  a.l.grad_state = a.l.output = grad_x.data_ptr();
  const Tensor piece_sums = empty_piece_sums(a.l, 2, A, A.scalar_type());
  a.l.piece_sums = piece_sums.data_ptr();
  const Tensor of_parameters = empty({a.l.batch, a.l.most_pieces(), 2, a.l.channels}, A);
  const Tensor grad_A = empty(A.sizes(), A), grad_delta_bias = empty(A.sizes(), A);
  Tensor grad_B;
  const int64_t item = static_cast<int64_t>(A.element_size());
  a.l.of_parameters = of_parameters.data_ptr();
  a.l.grad_A = grad_A.data_ptr();
  a.l.grad_delta_bias = grad_delta_bias.data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_tree_scan_backward", [&] {
    a.l.slices = selective_slices<scalar_t>(a.l);
    grad_B = empty({a.l.slices, a.l.batch, a.l.length}, A);
    a.l.grad_B = grad_B.data_ptr();
    launch_selective_tree_scan<scalar_t>(a.l);
  });
  const TokenRows of_B{grad_B.data_ptr(), item, a.l.slices};
  const int64_t of_sample = 2 * a.l.most_pieces() * a.l.channels * item;
  launch_clear_unvisited("selective_tree_scan",
      visits_of(a.l, {{rows_of(grad_x), rows_of(grad_delta), of_B}}, {of_parameters.data_ptr(), of_sample}));
  SSM_DISPATCH(x.scalar_type(), "selective_tree_scan_backward", [&] { launch_selective_sums<scalar_t>(a.l); });
  return {grad_x, grad_delta, grad_A, cast(sum_parts(grad_B), B.scalar_type()), grad_delta_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("selective_tree_scan", TORCH_BOX(&selective_tree_scan));
  m.impl("selective_tree_scan_backward", TORCH_BOX(&selective_tree_scan_backward));
}

}  // namespace ssm
