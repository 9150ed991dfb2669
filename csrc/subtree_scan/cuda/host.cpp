// Host side of the selective subtree scan on the GPU. Nothing waits for the device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "subtree_scan/cuda/launch.h"
#include "subtree_scan/inputs.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"

namespace ssm {
namespace {

const at::Tensor& given(const std::optional<at::Tensor>& schedule) {
  TORCH_CHECK(schedule.has_value(), "the kernel for GPUs needs a schedule");
  return *schedule;
}

// The launch and the tensors that it points into.
struct Arguments {
  SubtreeScanInputs in;
  at::Tensor schedule;
  SubtreeScanLaunch l{};

  Arguments(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B, const at::Tensor& C,
      const at::Tensor& delta_bias, bool next, const std::optional<at::Tensor>& schedule_given)
      : in(at::kCUDA, x, delta, A, B, C, delta_bias, next, kLongestWalk),
        schedule(check_schedule(given(schedule_given), x)) {
    const SubtreeScanParams& p = in.params;
    TORCH_CHECK(p.channels < int64_t(1) << 28, "x has too many channels for a walk: ", p.channels);
    TORCH_CHECK(p.states >= 1 && p.states <= kMostStates, "A must be [D, N] with N from 1 to ", kMostStates, ", got ",
        A.sizes());
    static_cast<SubtreeScanParams&>(l) = p;
    l.aligned = is_aligned(in.x) && is_aligned(in.delta);
    l.slices = static_cast<int>((p.channels + kSubtreeSlice - 1) / kSubtreeSlice);
    l.schedule = schedule.const_data_ptr<int>();
  }
};

std::tuple<at::Tensor, at::Tensor> selective_subtree_scan(const at::Tensor& x, const at::Tensor& delta,
    const at::Tensor& A, const at::Tensor& B, const at::Tensor& C, const at::Tensor& delta_bias,
    const at::Tensor& /*parent*/, const at::Tensor& /*order*/, bool next, const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(x.device());
  Arguments a(x, delta, A, B, C, delta_bias, next, schedule);
  const SubtreeScanOutputs outputs(a.in);
  if (outputs.y.numel() == 0) return {outputs.y, outputs.root_state};
  a.l.y = a.in.params.y;
  a.l.root_state = a.in.params.root_state;
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan", [&] { launch_subtree_scan<scalar_t>(a.l); });
  return {outputs.y, outputs.root_state};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> selective_subtree_scan_backward(
    const at::Tensor& grad_y, const std::optional<at::Tensor>& grad_root_state, const at::Tensor& x,
    const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B, const at::Tensor& C,
    const at::Tensor& delta_bias, const at::Tensor& /*parent*/, const at::Tensor& /*order*/, bool next,
    const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(x.device());
  Arguments a(x, delta, A, B, C, delta_bias, next, schedule);
  SubtreeScanLaunch& l = a.l;
  const SubtreeScanResults results(grad_y, grad_root_state, a.in);
  if (results.grad_x.numel() == 0) return results.of_nothing(a.in);
  static_cast<SubtreeScanGradients&>(l) = results.gradients;
  l.backward = true;
  l.aligned = l.aligned && is_aligned(results.grad_y);
  const int64_t held = held_states(l.states), chunks = l.slices * l.batch * subtree_chunks(l.length);
  const auto wide = [&](at::IntArrayRef shape) { return at::empty(shape, A.options()); };
  const at::Tensor parts = next ? wide({2, l.batch, l.length, l.channels}) : at::Tensor();
  const at::Tensor weights = wide({l.slices, l.batch, l.length, 2 * held});
  const at::Tensor kept = wide({1 + kMostCrossing, chunks * kSubtreeSlice * held});
  if (next) {
    l.grad_delta = parts.data_ptr();
    l.grad_edge = parts.select(0, 1).data_ptr();
  }
  l.grad_weights = weights.data_ptr();
  l.incoming = kept.data_ptr();
  l.crossing = kept.select(0, 1).data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan_backward", [&] { launch_subtree_scan<scalar_t>(l); });
  at::Tensor grad_delta = results.grad_delta;
  if (next) at::add_out(grad_delta, parts.select(0, 0), parts.select(0, 1));
  const at::Tensor sums = weights.sum(0);
  return {results.grad_x, grad_delta, results.grad_A.sum(0), results.states_of(sums, 0, a.in),
      results.states_of(sums, held, a.in), results.grad_bias.sum(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("selective_subtree_scan", &selective_subtree_scan);
  m.impl("selective_subtree_scan_backward", &selective_subtree_scan_backward);
}

}  // namespace ssm
