// Host side of the spanning tree on the GPU.

#include "common/dispatch.h"
#include "spanning_tree/cuda/launch.h"
#include "spanning_tree/inputs.h"

namespace ssm {
namespace {

// The places of the weights when they are sorted. Equal weights keep the order of the edges.
Tensor places(const Tensor& weights) {
  const Tensor keys = empty(weights.sizes(), weights), place = empty(weights.sizes(), weights, kLong);
  launch_sort_keys(weights.const_data_ptr<double>(), keys.mutable_data_ptr<double>(), weights.numel());
  using torch::stable::detail::from;
  const bool stable = true, descending = false;
  StableIValue stack[] = {from(keys), from(std::optional(stable)), from(int64_t(1)), from(descending)};
  check_torch(torch_call_dispatcher("aten::sort", "stable", stack, TORCH_ABI_VERSION), "spanning_tree");
  const Tensor sorted = torch::stable::detail::to<Tensor>(stack[0]);
  const Tensor from_place = torch::stable::detail::to<Tensor>(stack[1]);
  launch_places(
      from_place.const_data_ptr<int64_t>(), place.mutable_data_ptr<int64_t>(), weights.size(0), weights.size(1));
  return place;
}

std::tuple<Tensor, Tensor, Tensor> spanning_tree(
    const Tensor& edge_weight, const std::optional<Tensor>& edges, int64_t height, int64_t width, const Tensor& root) {
  constexpr int64_t kMost = int64_t(1) << 28;
  const SpanningTreeInputs in(kCUDA, edge_weight, edges, height, width, root, kMost, 2 * kMost);
  const DeviceGuard guard(edge_weight.get_device_index());
  if (in.params.batch == 0) return in.results();
  Tensor place;
  if (in.edge_weight.scalar_type() == kDouble) place = places(in.edge_weight);

  SpanningTreeLaunch l{};
  l.p = in.params;
  l.place = place.defined() ? place.const_data_ptr<int64_t>() : nullptr;
  l.scratch_stride = spanning_scratch_words(l.p, in.edges.defined());
  const Tensor scratch = empty({l.p.batch, l.scratch_stride}, root, kInt);
  if (l.scratch_stride > 0) l.scratch = reinterpret_cast<uint32_t*>(scratch.mutable_data_ptr<int>());
  SSM_DISPATCH(
      in.edge_weight.scalar_type(), "spanning_tree", [&] { launch_spanning_tree<scalar_t>(l, in.edges.defined()); });
  return in.results();
}

// Faults are not raised, since that would wait for the device.
std::tuple<Tensor, Tensor> minimum_spanning_tree(
    const Tensor& edge_weight, const std::optional<Tensor>& edges, int64_t height, int64_t width, const Tensor& root) {
  const auto [parent, order, fault] = spanning_tree(edge_weight, edges, height, width, root);
  return {parent, order};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("spanning_tree", TORCH_BOX(&spanning_tree));
  m.impl("minimum_spanning_tree", TORCH_BOX(&minimum_spanning_tree));
}

}  // namespace ssm
