// Host side of the spanning tree on the GPU.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "../dispatch.h"
#include "spanning_tree_launch.h"

namespace ssm {
namespace {

// What the weights come to when only their order counts, ties included: equal weights keep the order of the edges.
at::Tensor places(const at::Tensor& weights) {
  const at::Tensor sorted = std::get<1>(at::sort(weights + 0.0, /*stable=*/true, /*dim=*/1, /*descending=*/false));
  const at::Tensor count = at::arange(weights.size(1), sorted.options()).expand_as(sorted);
  return at::empty_like(sorted).scatter_(1, sorted, count);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> spanning_tree(const at::Tensor& edge_weight,
    const std::optional<at::Tensor>& edges, int64_t height, int64_t width, const at::Tensor& root) {
  TORCH_CHECK(edge_weight.dim() == 2, "edge_weight must be [B, E], got ", edge_weight.sizes());
  TORCH_CHECK(height >= 1 && width >= 1, "the graph must have a vertex");
  const int64_t batch = edge_weight.size(0), num_edges = edge_weight.size(1);
  constexpr int64_t kMost = int64_t(1) << 28;
  TORCH_CHECK(num_edges <= 2 * kMost && height <= kMost / width, "the graph has more than 2^28 vertices or 2^29 edges");
  check_device(edge_weight, at::kCUDA, edge_weight, "edge_weight");
  check_device(root, at::kCUDA, edge_weight, "root");
  check_dtype(root, at::kLong, "root");
  check_shape(root, {batch}, "root");
  const c10::cuda::CUDAGuard guard(edge_weight.device());
  at::Tensor ends;
  if (edges.has_value()) {
    check_device(*edges, at::kCUDA, edge_weight, "edges");
    check_dtype(*edges, at::kLong, "edges");
    if (edges->dim() == 2) {
      check_shape(*edges, {num_edges, 2}, "edges");
    } else {
      check_shape(*edges, {batch, num_edges, 2}, "edges");
    }
    ends = edges->contiguous();
  } else {
    TORCH_CHECK(num_edges == (height - 1) * width + height * (width - 1), "edge_weight does not fit the grid");
  }

  const at::Tensor weights = edge_weight.contiguous(), roots = root.contiguous();
  at::Tensor parent = at::empty({batch, height * width}, root.options());
  at::Tensor order = at::empty_like(parent);
  at::Tensor fault = at::empty({batch, 2}, root.options());
  if (batch == 0) return {parent, order, fault};
  at::Tensor place;
  if (weights.scalar_type() == at::kDouble) place = places(weights);

  SpanningTreeLaunch l{};
  l.p.batch = batch;
  l.p.height = height;
  l.p.width = width;
  l.p.num_edges = num_edges;
  l.p.edge_weight = weights.const_data_ptr();
  l.p.edges = ends.defined() ? ends.const_data_ptr<int64_t>() : nullptr;
  l.p.edges_batch_stride = ends.defined() && ends.dim() == 3 ? 2 * num_edges : 0;
  l.p.root = roots.const_data_ptr<int64_t>();
  l.p.parent = parent.data_ptr<int64_t>();
  l.p.order = order.data_ptr<int64_t>();
  l.p.fault = fault.data_ptr<int64_t>();
  l.place = place.defined() ? place.const_data_ptr<int64_t>() : nullptr;
  l.scratch_stride = spanning_scratch_words(l.p, ends.defined());
  const at::Tensor scratch = at::empty({batch, l.scratch_stride}, root.options().dtype(at::kInt));
  if (l.scratch_stride > 0) l.scratch = reinterpret_cast<uint32_t*>(scratch.data_ptr<int>());
  SSM_DISPATCH(weights.scalar_type(), "spanning_tree", [&] { launch_spanning_tree<scalar_t>(l, ends.defined()); });
  return {parent, order, fault};
}

// To raise a fault would be to wait for the device.
std::tuple<at::Tensor, at::Tensor> minimum_spanning_tree(const at::Tensor& edge_weight,
    const std::optional<at::Tensor>& edges, int64_t height, int64_t width, const at::Tensor& root) {
  const auto [parent, order, fault] = spanning_tree(edge_weight, edges, height, width, root);
  return {parent, order};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("spanning_tree", &spanning_tree);
  m.impl("minimum_spanning_tree", &minimum_spanning_tree);
}

}  // namespace ssm
