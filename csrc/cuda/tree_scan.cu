// Host side of the tree scan on the GPU. Nothing waits for the device, so whether the tree is one is not checked: what
// is no tree gives results without meaning, but reads and writes nothing outside the tensors and ends.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "../dispatch.h"
#include "tree_scan_inputs.h"
#include "tree_scan_launch.h"
#include "tree_schedule.h"

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
  constexpr int64_t kMost = int64_t(1) << 28;
  TORCH_CHECK(u.size(1) <= kMost && u.size(2) < kMost, "u has more than 2^28 vertices or channels");
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
  a.l.walk = prefers_walk(u.size(0), u.size(1));
  const int64_t words = ScheduleLayout{u.size(1), a.l.walk}.words();
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

// What is kept between the passes is kept in the output if that has the type.
at::Tensor state_in(const at::Tensor& output, const Arguments& a) {
  const bool as_is = a.l.walk && !a.l.wide_weight;
  const bool is_sum = output.scalar_type() == at::kFloat || output.scalar_type() == at::kDouble;
  return as_is || is_sum ? output : at::empty(output.sizes(), output.options().dtype(at::kFloat));
}

at::Tensor tree_scan(const at::Tensor& u, const at::Tensor& weight, const at::Tensor& parent, const at::Tensor& order,
    bool both, const std::optional<at::Tensor>& schedule) {
  const c10::cuda::CUDAGuard guard(u.device());
  Arguments a = check_arguments(u, weight, parent, order, both, schedule);
  at::Tensor h = at::empty(u.sizes(), u.options());
  if (h.numel() == 0) return h;
  const at::Tensor state = state_in(h, a);
  a.l.state = state.data_ptr();
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
  const at::Tensor state = state_in(grad_weight, a), grad_state = state_in(grad_u, a);
  a.l.backward = true;
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
