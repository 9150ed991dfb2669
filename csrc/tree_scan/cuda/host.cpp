// Host side of the tree scan on the GPU. Nothing waits for the device, so whether the tree is one is not checked: what
// is no tree gives results without meaning, but reads and writes nothing outside the tensors and ends.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/dispatch.h"
#include "tree/cuda/inputs.h"
#include "tree/cuda/schedule.h"
#include "tree_scan/cuda/launch.h"

namespace ssm {
namespace {

// The launch and the tensors that it points into.
struct Arguments {
  at::Tensor u, weight, schedule;
  TreeScanLaunch l;
};

Arguments check_arguments(const at::Tensor& u, const at::Tensor& weight, const at::Tensor& parent,
    const at::Tensor& order, bool both, const std::optional<at::Tensor>& schedule) {
  TORCH_CHECK(u.dim() == 3 && u.size(1) >= 1, "u must be [B, L, D] with L at least 1, got ", u.sizes());
  TORCH_CHECK(u.size(1) < kLongestWalk && u.size(2) < kLongestWalk, "u has 2^27 vertices or channels or more");
  check_shape(weight, u.sizes(), "weight");
  const bool is_half = u.scalar_type() == at::kHalf || u.scalar_type() == at::kBFloat16;
  if (!(is_half && weight.scalar_type() == at::kFloat)) check_dtype(weight, u.scalar_type(), "weight");
  for (const auto& index : {parent, order}) {
    check_device(index, at::kCUDA, u, "parent and order");
    check_dtype(index, at::kLong, "parent and order");
    check_shape(index, {u.size(0), u.size(1)}, "parent and order");
  }
  check_device(u, at::kCUDA, u, "u");
  check_device(weight, at::kCUDA, u, "weight");
  Arguments a{with_adjacent_channels(u), with_adjacent_channels(weight), {}, {}};
  a.l.cut = piece_size(u.size(0), u.size(1));
  const int64_t words = ScheduleLayout{u.size(1), a.l.cut}.words();
  if (schedule.has_value()) {
    check_device(*schedule, at::kCUDA, u, "schedule");
    check_dtype(*schedule, at::kInt, "schedule");
    check_shape(*schedule, {u.size(0), words}, "schedule");
    a.schedule = schedule->contiguous();
  } else {
    static const auto tree_schedule = c10::Dispatcher::singleton()
                                          .findSchemaOrThrow("tree_ssm::tree_schedule", "")
                                          .typed<at::Tensor(const at::Tensor&)>();
    a.schedule = tree_schedule.call(parent);
  }
  a.l.batch = u.size(0);
  a.l.length = u.size(1);
  a.l.channels = u.size(2);
  a.l.both = both;
  a.l.wide_weight = weight.scalar_type() != u.scalar_type();
  a.l.schedule = a.schedule.const_data_ptr<int>();
  a.l.u = a.u.const_data_ptr();
  a.l.weight = a.weight.const_data_ptr();
  a.l.u_stride = strides_of(a.u);
  a.l.weight_stride = strides_of(a.weight);
  a.l.aligned = is_aligned(a.u) && is_aligned(a.weight);
  return a;
}

// Where ξ or η is kept between the passes: in the output if that has the type.
at::Tensor state_in(const at::Tensor& output, const Arguments& a) {
  const bool is_sum = output.scalar_type() == at::kFloat || output.scalar_type() == at::kDouble;
  const bool is_result = !a.l.both && !a.l.backward;
  return is_result || is_sum || !a.l.wide_weight ? output
                                                 : at::empty(output.sizes(), output.options().dtype(at::kFloat));
}

// Of ξ alone, or of ξ and η.
at::Tensor piece_sums_of(const Arguments& a, const at::Tensor& u) {
  const auto accumulate = u.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return empty_piece_sums(a.l, a.l.both && a.l.backward ? 2 : 1, u.options().dtype(accumulate));
}

at::Tensor tree_scan(const at::Tensor& u, const at::Tensor& weight, const at::Tensor& parent, const at::Tensor& order,
    bool both, const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(u.device());
  Arguments a = check_arguments(u, weight, parent, order, both, schedule);
  at::Tensor h = at::empty(u.sizes(), u.options());
  if (h.numel() == 0) return h;
  const at::Tensor state = state_in(h, a), piece_sums = piece_sums_of(a, u);
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
  Arguments a = check_arguments(u, weight, parent, order, both, schedule);
  check_device(grad_h, at::kCUDA, u, "grad_h");
  check_shape(grad_h, u.sizes(), "grad_h");
  check_dtype(grad_h, u.scalar_type(), "grad_h");
  at::Tensor grad_u = at::empty(u.sizes(), u.options());
  at::Tensor grad_weight = at::empty(weight.sizes(), weight.options());
  if (grad_u.numel() == 0) return {grad_u, grad_weight};
  const at::Tensor upstream = with_adjacent_channels(grad_h);
  a.l.backward = true;
  const at::Tensor state = state_in(grad_weight, a), grad_state = state_in(grad_u, a), piece_sums = piece_sums_of(a, u);
  a.l.piece_sums = piece_sums.data_ptr();
  a.l.grad_h = upstream.const_data_ptr();
  a.l.grad_h_stride = strides_of(upstream);
  a.l.aligned = a.l.aligned && is_aligned(upstream);
  a.l.state = state.data_ptr();
  a.l.grad_state = grad_state.data_ptr();
  a.l.output = grad_u.data_ptr();
  a.l.grad_weight = grad_weight.data_ptr();
  SSM_DISPATCH(u.scalar_type(), "tree_scan_backward", [&] { launch_tree_scan<scalar_t>(a.l); });
  return {grad_u, grad_weight};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("tree_scan", &tree_scan);
  m.impl("tree_scan_backward", &tree_scan_backward);
}

}  // namespace ssm
