// The host side that the CPU and the CUDA kernels of the spanning tree share: checks, results, and tensors to raw
// pointers.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <optional>
#include <tuple>

#include "common/checks.h"
#include "spanning_tree/params.h"

namespace ssm {

// The inputs, checked and contiguous, and the results that a kernel fills. Vertices and edges are numbered by 32-bit
// integers, of which a kernel may need some bits for itself: it says how many of each it can tell apart.
struct SpanningTreeInputs {
  at::Tensor edge_weight, edges, root;  // edges is undefined for a grid
  at::Tensor parent, order, fault;
  SpanningTreeParams params;

  SpanningTreeInputs(c10::DeviceType device, const at::Tensor& weights_given,
      const std::optional<at::Tensor>& edges_given, int64_t height, int64_t width, const at::Tensor& root_given,
      int64_t most_vertices, int64_t most_edges) {
    TORCH_CHECK(weights_given.dim() == 2, "edge_weight must be [B, E], got ", weights_given.sizes());
    const int64_t batch = weights_given.size(0), num_edges = weights_given.size(1);
    TORCH_CHECK(is_grid(height, width, most_vertices), "the graph must have 1 to ", most_vertices, " vertices, got ",
        height, " by ", width);
    TORCH_CHECK(num_edges <= most_edges, "the graph has more than ", most_edges, " edges: ", num_edges);
    // Then no graph has to be looked at, however many vertices are claimed.
    TORCH_CHECK_VALUE(
        num_edges >= height * width - 1, num_edges, " edges cannot connect ", height * width, " vertices");
    check_device(weights_given, device, weights_given, "edge_weight");
    check_device(root_given, device, weights_given, "root");
    check_dtype(root_given, at::kLong, "root");
    check_shape(root_given, {batch}, "root");
    if (edges_given.has_value()) {
      check_device(*edges_given, device, weights_given, "edges");
      check_dtype(*edges_given, at::kLong, "edges");
      if (edges_given->dim() == 2) {
        check_shape(*edges_given, {num_edges, 2}, "edges");
      } else {
        check_shape(*edges_given, {batch, num_edges, 2}, "edges");
      }
      edges = edges_given->contiguous();
    } else {
      TORCH_CHECK(num_edges == (height - 1) * width + height * (width - 1), "edge_weight does not fit the grid");
    }

    edge_weight = weights_given.contiguous();
    root = root_given.contiguous();
    parent = at::empty({batch, height * width}, root.options());
    order = at::empty_like(parent);
    fault = at::empty({batch, 2}, root.options());
    params = {};
    params.batch = batch;
    params.height = height;
    params.width = width;
    params.num_edges = num_edges;
    params.edge_weight = edge_weight.const_data_ptr();
    params.edges = edges.defined() ? edges.const_data_ptr<int64_t>() : nullptr;
    params.edges_batch_stride = edges.defined() && edges.dim() == 3 ? 2 * num_edges : 0;
    params.root = root.const_data_ptr<int64_t>();
    params.parent = parent.data_ptr<int64_t>();
    params.order = order.data_ptr<int64_t>();
    params.fault = fault.data_ptr<int64_t>();
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> results() const { return {parent, order, fault}; }
};

}  // namespace ssm
