// Host side of the selective tree scan on the GPU. Nothing waits for the device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

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
  at::Tensor x, delta, A, B, delta_bias, schedule;
  SelectiveTreeScanLaunch l;
};

Arguments check_arguments(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
    const at::Tensor& delta_bias, const at::Tensor& schedule) {
  check_vertex_rows(x, "x", kLongestWalk);
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2);
  TORCH_CHECK(channels < kLongestWalk, "x has ", kLongestWalk, " channels or more");
  check_shape(delta, x.sizes(), "delta");
  check_shape(B, {batch, length}, "B");
  check_dtype(delta, x.scalar_type(), "delta");
  check_dtype(B, x.scalar_type(), "B");
  const auto accumulate = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const auto& parameter : {A, delta_bias}) {
    check_shape(parameter, {channels}, "A and delta_bias");
    check_dtype(parameter, accumulate, "A and delta_bias");
  }
  for (const auto& tensor : {x, delta, A, B, delta_bias}) {
    check_device(tensor, at::kCUDA, x, "x, delta, A, B and delta_bias");
  }
  // B is gathered, whatever its strides: the kernels count the bytes from a vertex to the next in 32 bits.
  Arguments a{with_adjacent_channels(x), with_adjacent_channels(delta), A.contiguous(),
      B.stride(1) < int64_t(1) << 28 ? B : B.contiguous(), delta_bias.contiguous(), check_schedule(schedule, x), {}};
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

at::Tensor selective_tree_scan(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
    const at::Tensor& delta_bias, const at::Tensor& schedule, const std::optional<at::Tensor>& /*parent*/,
    const std::optional<at::Tensor>& /*order*/) {
  const c10::cuda::CUDAGuard guard(x.device());
  Arguments a = check_arguments(x, delta, A, B, delta_bias, schedule);
  at::Tensor h = at::empty(x.sizes(), x.options());
  if (h.numel() == 0) return h;
  const at::Tensor piece_sums = empty_piece_sums(a.l, 1, A.options());
  a.l.state = a.l.output = h.data_ptr();
  a.l.piece_sums = piece_sums.data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_tree_scan", [&] {
    a.l.slices = selective_slices<scalar_t>(a.l);
    launch_selective_tree_scan<scalar_t>(a.l);
  });
  return h;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> selective_tree_scan_backward(
    const at::Tensor& grad_h, const at::Tensor& x, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
    const at::Tensor& delta_bias, const at::Tensor& schedule, const std::optional<at::Tensor>& /*parent*/,
    const std::optional<at::Tensor>& /*order*/) {
  const c10::cuda::CUDAGuard guard(x.device());
  Arguments a = check_arguments(x, delta, A, B, delta_bias, schedule);
  check_device(grad_h, at::kCUDA, x, "grad_h");
  check_shape(grad_h, x.sizes(), "grad_h");
  check_dtype(grad_h, x.scalar_type(), "grad_h");
  at::Tensor grad_x = at::empty(x.sizes(), x.options()), grad_delta = at::empty(x.sizes(), x.options());
  if (grad_x.numel() == 0) {
    return {grad_x, grad_delta, at::zeros_like(A), at::zeros(B.sizes(), B.options()), at::zeros_like(delta_bias)};
  }
  const at::Tensor upstream = with_adjacent_channels(grad_h);
  a.l.backward = true;
  a.l.grad_h = upstream.const_data_ptr();
  a.l.grad_h_stride = vertex_strides(upstream);
  a.l.aligned = a.l.aligned && is_aligned(upstream);
  a.l.state = a.l.grad_delta = grad_delta.data_ptr();
  a.l.grad_state = a.l.output = grad_x.data_ptr();
  const at::Tensor piece_sums = empty_piece_sums(a.l, 2, A.options());
  a.l.piece_sums = piece_sums.data_ptr();
  at::Tensor grad_parameters = at::empty({2, a.l.batch * a.l.most_pieces(), a.l.channels}, A.options()), grad_B;
  a.l.grad_A = grad_parameters.data_ptr();
  a.l.grad_delta_bias = grad_parameters.select(0, 1).data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_tree_scan_backward", [&] {
    a.l.slices = selective_slices<scalar_t>(a.l);
    grad_B = at::empty({a.l.slices, a.l.batch, a.l.length}, A.options());
    a.l.grad_B = grad_B.data_ptr();
    launch_selective_tree_scan<scalar_t>(a.l);
  });
  return {grad_x, grad_delta, grad_parameters.select(0, 0).sum(0), grad_B.sum(0).to(B.scalar_type()),
      grad_parameters.select(0, 1).sum(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("selective_tree_scan", &selective_tree_scan);
  m.impl("selective_tree_scan_backward", &selective_tree_scan_backward);
}

}  // namespace ssm
