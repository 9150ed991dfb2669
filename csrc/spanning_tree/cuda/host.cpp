// Host side of the spanning tree on the GPU.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sort.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/dispatch.h"
#include "spanning_tree/cuda/launch.h"
#include "spanning_tree/inputs.h"

namespace ssm {
namespace {

// The places of the weights when they are sorted. Equal weights keep the order of the edges.
at::Tensor places(const at::Tensor& weights) {
  const at::Tensor sorted = std::get<1>(at::sort(weights.add(0.0), /*stable=*/true, /*dim=*/1, /*descending=*/false));
  const at::Tensor count = at::arange(weights.size(1), sorted.options()).expand_as(sorted);
  return at::empty_like(sorted).scatter_(1, sorted, count);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> spanning_tree(const at::Tensor& edge_weight,
    const std::optional<at::Tensor>& edges, int64_t height, int64_t width, const at::Tensor& root) {
  constexpr int64_t kMost = int64_t(1) << 28;
  const SpanningTreeInputs in(at::kCUDA, edge_weight, edges, height, width, root, kMost, 2 * kMost);
  const c10::cuda::CUDAGuard guard(edge_weight.device());
  if (in.params.batch == 0) return in.results();
  at::Tensor place;
  if (in.edge_weight.scalar_type() == at::kDouble) place = places(in.edge_weight);

  SpanningTreeLaunch l{};
  l.p = in.params;
  l.place = place.defined() ? place.const_data_ptr<int64_t>() : nullptr;
  l.scratch_stride = spanning_scratch_words(l.p, in.edges.defined());
  const at::Tensor scratch = at::empty({l.p.batch, l.scratch_stride}, root.options().dtype(at::kInt));
  if (l.scratch_stride > 0) l.scratch = reinterpret_cast<uint32_t*>(scratch.data_ptr<int>());
  SSM_DISPATCH(
      in.edge_weight.scalar_type(), "spanning_tree", [&] { launch_spanning_tree<scalar_t>(l, in.edges.defined()); });
  return in.results();
}

// Faults are not raised, since that would wait for the device.
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
