// Host side of the tree scan on the GPU. Nothing waits for the device, so whether the tree is one is not checked. What
// is no tree gives results without meaning. The kernel ends all the same, and touches nothing outside the tensors. The
// rows of vertices that it does not visit are zeros.

#include "common/dispatch.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"
#include "tree_scan/cuda/launch.h"
#include "tree_scan/inputs.h"

namespace ssm {
namespace {

// The schedule that was given, checked, or one that is made here.
Tensor schedule_of(const TreeScanInputs& in, const std::optional<Tensor>& given) {
  if (given.has_value()) return check_schedule(*given, in.u);
  StableIValue stack[] = {torch::stable::detail::from(in.parent)};
  check_torch(torch_call_dispatcher("tree_ssm::tree_schedule", "", stack, TORCH_ABI_VERSION), "tree_scan");
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The launch and the tensors that it points into.
struct Arguments {
  TreeScanInputs in;
  Tensor schedule;
  TreeScanLaunch l{};

  Arguments(const Tensor& u, const Tensor& weight, const Tensor& parent, const Tensor& order, bool both,
      const std::optional<Tensor>& given)
      : in(kCUDA, u, weight, parent, order, both, kLongestWalk),
        schedule(schedule_of(in, given)) {
    SSM_CHECK(u.size(2) < kLongestWalk, "u has ", kLongestWalk, " channels or more");
    static_cast<TreeScanParams&>(l) = in.params;
    l.cut = piece_size(l.batch, l.length);
    l.wide_weight = weight.scalar_type() != u.scalar_type();
    l.schedule = schedule.const_data_ptr<int>();
    l.aligned = is_aligned(in.u) && is_aligned(in.weight);
  }

  // Where ξ or η is kept between the passes: in the output if that has the type.
  Tensor state_in(const Tensor& output) const {
    const bool is_sum = output.scalar_type() == kFloat || output.scalar_type() == kDouble;
    const bool is_result = !l.both && !l.backward;
    if (is_result || is_sum || !l.wide_weight) return output;
    return empty(output.sizes(), output, kFloat);
  }

  // The sums of pieces: of ξ alone, or of ξ and η.
  Tensor piece_sums() const {
    const auto accumulate = sum_type(in.u);
    return empty_piece_sums(l, l.both && l.backward ? 2 : 1, in.u, accumulate);
  }
};

Tensor tree_scan(const Tensor& u, const Tensor& weight, const Tensor& parent, const Tensor& order, bool both,
    const std::optional<Tensor>& schedule) {
  const DeviceGuard guard(u.get_device_index());
  Arguments a(u, weight, parent, order, both, schedule);
  Tensor h = empty(u.sizes(), u);
  if (h.numel() == 0) return h;
  const Tensor state = a.state_in(h), piece_sums = a.piece_sums();
  a.l.state = state.data_ptr();
  a.l.piece_sums = piece_sums.data_ptr();
  a.l.output = h.data_ptr();
  SSM_DISPATCH(u.scalar_type(), "tree_scan", [&] { launch_tree_scan<scalar_t>(a.l); });
  launch_clear_unvisited("tree_scan", visits_of(a.l, {{rows_of(h)}}));
  return h;
}

std::tuple<Tensor, Tensor> tree_scan_backward(const Tensor& grad_h, const Tensor& u, const Tensor& weight,
    const Tensor& parent, const Tensor& order, bool both, const std::optional<Tensor>& schedule) {
  const DeviceGuard guard(u.get_device_index());
  Arguments a(u, weight, parent, order, both, schedule);
  const TreeScanResults results(grad_h, u, weight);
  if (results.grad_u.numel() == 0) return {results.grad_u, results.grad_weight};
  static_cast<TreeScanGradients&>(a.l) = results.gradients;
  a.l.backward = true;
  a.l.aligned = a.l.aligned && is_aligned(results.grad_h);
  const Tensor state = a.state_in(results.grad_weight), grad_state = a.state_in(results.grad_u);
  const Tensor piece_sums = a.piece_sums();
  a.l.state = state.data_ptr();
  a.l.grad_state = grad_state.data_ptr();
  a.l.piece_sums = piece_sums.data_ptr();
  a.l.output = a.l.grad_u;
  SSM_DISPATCH(u.scalar_type(), "tree_scan_backward", [&] { launch_tree_scan<scalar_t>(a.l); });
  launch_clear_unvisited("tree_scan", visits_of(a.l, {{rows_of(results.grad_u), rows_of(results.grad_weight)}}));
  return {results.grad_u, results.grad_weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("tree_scan", TORCH_BOX(&tree_scan));
  m.impl("tree_scan_backward", TORCH_BOX(&tree_scan_backward));
}

}  // namespace ssm
