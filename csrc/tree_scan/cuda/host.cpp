// Host side of the tree scan on the GPU. Nothing waits for the device, so whether the tree is one is not checked. What
// is no tree gives results without meaning, but the kernel ends and touches nothing outside the tensors.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"
#include "tree_scan/cuda/launch.h"
#include "tree_scan/inputs.h"

namespace ssm {
namespace {

// The schedule that was given, checked, or one that is made here.
at::Tensor schedule_of(const TreeScanInputs& in, const std::optional<at::Tensor>& given) {
  if (given.has_value()) return check_schedule(*given, in.u);
  static const auto tree_schedule = c10::Dispatcher::singleton()
                                        .findSchemaOrThrow("tree_ssm::tree_schedule", "")
                                        .typed<at::Tensor(const at::Tensor&)>();
  return tree_schedule.call(in.parent);
}

// The launch and the tensors that it points into.
struct Arguments {
  TreeScanInputs in;
  at::Tensor schedule;
  TreeScanLaunch l{};

  Arguments(const at::Tensor& u, const at::Tensor& weight, const at::Tensor& parent, const at::Tensor& order, bool both,
      const std::optional<at::Tensor>& given)
      : in(at::kCUDA, u, weight, parent, order, both, kLongestWalk),
        schedule(schedule_of(in, given)) {
    TORCH_CHECK(u.size(2) < kLongestWalk, "u has ", kLongestWalk, " channels or more");
    static_cast<TreeScanParams&>(l) = in.params;
    l.cut = piece_size(l.batch, l.length);
    l.wide_weight = weight.scalar_type() != u.scalar_type();
    l.schedule = schedule.const_data_ptr<int>();
    l.aligned = is_aligned(in.u) && is_aligned(in.weight);
  }

  // Where ξ or η is kept between the passes: in the output if that has the type.
  at::Tensor state_in(const at::Tensor& output) const {
    const bool is_sum = output.scalar_type() == at::kFloat || output.scalar_type() == at::kDouble;
    const bool is_result = !l.both && !l.backward;
    if (is_result || is_sum || !l.wide_weight) return output;
    return at::empty(output.sizes(), output.options().dtype(at::kFloat));
  }

  // The sums of pieces: of ξ alone, or of ξ and η.
  at::Tensor piece_sums() const {
    const auto accumulate = in.u.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    return empty_piece_sums(l, l.both && l.backward ? 2 : 1, in.u.options().dtype(accumulate));
  }
};

at::Tensor tree_scan(const at::Tensor& u, const at::Tensor& weight, const at::Tensor& parent, const at::Tensor& order,
    bool both, const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(u.device());
  Arguments a(u, weight, parent, order, both, schedule);
  at::Tensor h = at::empty(u.sizes(), u.options());
  if (h.numel() == 0) return h;
  const at::Tensor state = a.state_in(h), piece_sums = a.piece_sums();
  a.l.state = state.data_ptr();
  a.l.piece_sums = piece_sums.data_ptr();
  a.l.output = h.data_ptr();
  SSM_DISPATCH(u.scalar_type(), "tree_scan", [&] { launch_tree_scan<scalar_t>(a.l); });
  return h;
}

std::tuple<at::Tensor, at::Tensor> tree_scan_backward(const at::Tensor& grad_h, const at::Tensor& u,
    const at::Tensor& weight, const at::Tensor& parent, const at::Tensor& order, bool both,
    const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(u.device());
  Arguments a(u, weight, parent, order, both, schedule);
  const TreeScanResults results(grad_h, u, weight);
  if (results.grad_u.numel() == 0) return {results.grad_u, results.grad_weight};
  static_cast<TreeScanGradients&>(a.l) = results.gradients;
  a.l.backward = true;
  a.l.aligned = a.l.aligned && is_aligned(results.grad_h);
  const at::Tensor state = a.state_in(results.grad_weight), grad_state = a.state_in(results.grad_u);
  const at::Tensor piece_sums = a.piece_sums();
  a.l.state = state.data_ptr();
  a.l.grad_state = grad_state.data_ptr();
  a.l.piece_sums = piece_sums.data_ptr();
  a.l.output = a.l.grad_u;
  SSM_DISPATCH(u.scalar_type(), "tree_scan_backward", [&] { launch_tree_scan<scalar_t>(a.l); });
  return {results.grad_u, results.grad_weight};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("tree_scan", &tree_scan);
  m.impl("tree_scan_backward", &tree_scan_backward);
}

}  // namespace ssm
