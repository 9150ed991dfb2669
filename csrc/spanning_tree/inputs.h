// The host side that the CPU and the CUDA kernels of the spanning tree share: checks, results, and tensors to raw
// pointers.
#pragma once

#include <optional>
#include <tuple>

#include "common/checks.h"
#include "spanning_tree/params.h"

namespace ssm {

// The inputs, checked and contiguous, and the results that a kernel fills. Vertices and edges are numbered by 32-bit
// integers, of which a kernel may need some bits for itself: it says how many of each it can tell apart.
struct SpanningTreeInputs {
  Tensor edge_weight, edges, root;  // edges is undefined for a grid
  Tensor parent, order, fault;
  SpanningTreeParams params;

  SpanningTreeInputs(DeviceType device, const Tensor& weights_given, const std::optional<Tensor>& edges_given,
      int64_t height, int64_t width, const Tensor& root_given, int64_t most_vertices, int64_t most_edges) {
    SSM_CHECK(weights_given.dim() == 2, "edge_weight must be [B, E], got ", weights_given.sizes());
    const int64_t batch = weights_given.size(0), num_edges = weights_given.size(1);
    SSM_CHECK(is_grid(height, width, most_vertices), "the graph must have 1 to ", most_vertices, " vertices, got ",
        height, " by ", width);
    SSM_CHECK(num_edges <= most_edges, "the graph has more than ", most_edges, " edges: ", num_edges);
    // Then no graph has to be looked at, however many vertices are claimed.
    SSM_CHECK_VALUE(num_edges >= height * width - 1, num_edges, " edges cannot connect ", height * width, " vertices");
    check_device(weights_given, device, weights_given, "edge_weight");
    check_device(root_given, device, weights_given, "root");
    check_dtype(root_given, kLong, "root");
    check_shape(root_given, {batch}, "root");
    if (edges_given.has_value()) {
      check_device(*edges_given, device, weights_given, "edges");
      check_dtype(*edges_given, kLong, "edges");
      if (edges_given->dim() == 2) {
        check_shape(*edges_given, {num_edges, 2}, "edges");
      } else {
        check_shape(*edges_given, {batch, num_edges, 2}, "edges");
      }
      edges = contiguous(*edges_given);
    } else {
      SSM_CHECK(num_edges == (height - 1) * width + height * (width - 1), "edge_weight does not fit the grid");
    }

    edge_weight = contiguous(weights_given);
    root = contiguous(root_given);
    parent = empty({batch, height * width}, root);
    order = empty(parent.sizes(), parent);
    fault = empty({batch, 2}, root);
    params = {};
    params.batch = batch;
    params.height = height;
    params.width = width;
    params.num_edges = num_edges;
    params.edge_weight = edge_weight.const_data_ptr();
    params.edges = edges.defined() ? edges.const_data_ptr<int64_t>() : nullptr;
    params.edges_batch_stride = edges.defined() && edges.dim() == 3 ? 2 * num_edges : 0;
    params.root = root.const_data_ptr<int64_t>();
    params.parent = parent.mutable_data_ptr<int64_t>();
    params.order = order.mutable_data_ptr<int64_t>();
    params.fault = fault.mutable_data_ptr<int64_t>();
  }

  std::tuple<Tensor, Tensor, Tensor> results() const { return {parent, order, fault}; }
};

}  // namespace ssm
