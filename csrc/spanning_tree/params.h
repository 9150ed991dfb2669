// What the host wrappers of the spanning tree hand to a kernel: raw pointers and sizes.
#pragma once

#include <cstdint>

namespace ssm {

// What can be wrong with a sample, numbered as in tree_ssm/ops/spanning_tree/faults.py.
enum class GraphFault : int64_t { none = 0, root = 1, edge = 2, weight = 3, disconnected = 4 };

// edges is null for the 4-connected height × width grid, whose edges are the vertical ones and then the horizontal
// ones.
struct SpanningTreeParams {
  int64_t batch, height, width, num_edges;
  const void* edge_weight;  // scalar_t, contiguous [batch, num_edges]
  const int64_t* edges;     // contiguous [num_edges, 2] or [batch, num_edges, 2]
  int64_t edges_batch_stride;
  const int64_t* root;  // contiguous [batch]

  int64_t* parent;  // contiguous [batch, height * width]
  int64_t* order;   // contiguous [batch, height * width]
  int64_t* fault;   // contiguous [batch, 2]: GraphFault, and the edge or root at fault

  constexpr int64_t num_vertices() const { return height * width; }
};

}  // namespace ssm
