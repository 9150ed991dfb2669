// Host side of the selective subtree scan on the GPU. Nothing waits for the device.

#include "common/dispatch.h"
#include "subtree_scan/cuda/launch.h"
#include "subtree_scan/inputs.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"

namespace ssm {
namespace {

const Tensor& given(const std::optional<Tensor>& schedule) {
  SSM_CHECK(schedule.has_value(), "the kernel for GPUs needs a schedule");
  return *schedule;
}

// The launch and the tensors that it points into.
struct Arguments {
  SubtreeScanInputs in;
  Tensor schedule;
  SubtreeScanLaunch l{};

  Arguments(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
      const Tensor& delta_bias, const Tensor& parent, const Tensor& order, bool next,
      const std::optional<Tensor>& schedule_given)
      : in(kCUDA, x, delta, A, B, C, delta_bias, next, kLongestWalk),
        schedule(check_schedule(given(schedule_given), x)) {
    // The kernels read the schedule alone. Derivatives are made of the tree itself.
    for (const auto& index : {parent, order}) check_tree_index(index, in.x, kCUDA);
    const SubtreeScanParams& p = in.params;
    SSM_CHECK(p.channels < int64_t(1) << 28, "x has too many channels for a walk: ", p.channels);
    SSM_CHECK(p.states >= 1 && p.states <= kMostStates, "A must be [D, N] with N from 1 to ", kMostStates, ", got ",
        A.sizes());
    static_cast<SubtreeScanParams&>(l) = p;
    l.aligned = is_aligned(in.x) && is_aligned(in.delta);
    l.slices = static_cast<int>((p.channels + kSubtreeSlice - 1) / kSubtreeSlice);
    l.schedule = schedule.const_data_ptr<int>();
  }
};

// What the walk of a launch, along whole trees, has visited, and what it has written.
ScheduleVisits visits_of(const SubtreeScanLaunch& l, const ScanResults& results) {
  return {l.schedule, l.batch, ScheduleLayout::of(l.batch, l.length), false, results};
}

std::tuple<Tensor, Tensor> selective_subtree_scan(const Tensor& x, const Tensor& delta, const Tensor& A,
    const Tensor& B, const Tensor& C, const Tensor& delta_bias, const Tensor& parent, const Tensor& order, bool next,
    const std::optional<Tensor>& schedule) {
  const DeviceGuard guard(x.get_device_index());
  Arguments a(x, delta, A, B, C, delta_bias, parent, order, next, schedule);
  const SubtreeScanOutputs outputs(a.in);
  if (outputs.y.numel() == 0) return {outputs.y, outputs.root_state};
  a.l.y = a.in.params.y;
  a.l.root_state = a.in.params.root_state;
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan", [&] { launch_subtree_scan<scalar_t>(a.l); });
  launch_clear_unvisited("selective_subtree_scan", visits_of(a.l, {{rows_of(outputs.y)}}));
  return {outputs.y, outputs.root_state};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> selective_subtree_scan_backward(const Tensor& grad_y,
    const std::optional<Tensor>& grad_root_state, const Tensor& x, const Tensor& delta, const Tensor& A,
    const Tensor& B, const Tensor& C, const Tensor& delta_bias, const Tensor& parent, const Tensor& order, bool next,
    const std::optional<Tensor>& schedule) {
  const DeviceGuard guard(x.get_device_index());
  Arguments a(x, delta, A, B, C, delta_bias, parent, order, next, schedule);
  SubtreeScanLaunch& l = a.l;
  const SubtreeScanResults results(grad_y, grad_root_state, a.in);
  if (results.grad_x.numel() == 0) return results.of_nothing(a.in);
  static_cast<SubtreeScanGradients&>(l) = results.gradients;
  l.backward = true;
  l.aligned = l.aligned && is_aligned(results.grad_y);
  const int64_t held = held_states(l.states), chunks = l.slices * l.batch * subtree_chunks(l.length);
  const auto wide = [&](Sizes shape) { return empty(shape, A); };
  const Tensor parts = next ? wide({2, l.batch, l.length, l.channels}) : Tensor();
  const Tensor weights = wide({l.slices, l.batch, l.length, 2 * held});
  const Tensor kept = wide({1 + kMostCrossing, chunks * kSubtreeSlice * held});
  if (next) {
    l.grad_delta = parts.data_ptr();
    l.grad_edge = part(parts, 1).data_ptr();
  }
  l.grad_weights = weights.data_ptr();
  l.incoming = kept.data_ptr();
  l.crossing = part(kept, 1).data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan_backward", [&] { launch_subtree_scan<scalar_t>(l); });
  ScanResults unvisited{{rows_of(results.grad_x), rows_of(weights, l.slices)}};
  if (next) {
    unvisited.rows[2] = rows_of(part(parts, 0));
    unvisited.rows[3] = rows_of(part(parts, 1));
    unvisited.rows[3].next = true;
  } else {
    unvisited.rows[2] = rows_of(results.grad_delta);
  }
  launch_clear_unvisited("selective_subtree_scan", visits_of(l, unvisited));
  const Tensor grad_delta = next ? cast(sum_parts(parts), x.scalar_type()) : results.grad_delta;
  const Tensor sums = sum_parts(weights);
  return {results.grad_x, grad_delta, sum_parts(results.grad_A), results.states_of(sums, 0, a.in),
      results.states_of(sums, held, a.in), sum_parts(results.grad_bias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("selective_subtree_scan", TORCH_BOX(&selective_subtree_scan));
  m.impl("selective_subtree_scan_backward", TORCH_BOX(&selective_subtree_scan_backward));
}

}  // namespace ssm
