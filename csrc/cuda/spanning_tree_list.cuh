// Rooting the tree of a listed graph: neighbours sorted by their numbers, then breadth first.
#pragma once

#include "spanning_tree.cuh"

namespace ssm {

// One sample's scratch: where each vertex's neighbours begin, and the neighbours as found and as sorted.
struct Neighbours {
  uint32_t *first, *fill, *found, *sorted;

  static __host__ __device__ int64_t words(int64_t vertices) { return 6 * vertices + 1; }
  __device__ Neighbours(uint32_t* base, int64_t vertices)
      : first(base),
        fill(base + vertices + 1),
        found(fill + vertices),
        sorted(found + 2 * vertices) {}
};

template <typename Visit>
__device__ void each_tree_edge(const ListGraph& graph, const uint32_t* tree, const Visit& visit) {
  for (int e = threadIdx.x; e < graph.num_edges; e += blockDim.x) {
    int a, b;
    if ((tree[e / 32] >> (e % 32) & 1u) != 0 && graph.ends(e, a, b)) visit(a, b);
  }
}

// Exclusive prefix sum in place, `total` behind the last; by one block.
__device__ inline void prefix_counts(Team& team, uint32_t* count, int vertices) {
  const int share = (vertices + blockDim.x - 1) / blockDim.x;
  const int begin = min(vertices, static_cast<int>(threadIdx.x) * share), end = min(vertices, begin + share);
  int sum = 0;
  for (int v = begin; v < end; ++v) sum += count[v];
  int3 total;
  uint32_t place = team.prefix(make_int3(sum, 0, 0), total).x;
  for (int v = begin; v < end; ++v) {
    const uint32_t own = count[v];
    count[v] = place;
    place += own;
  }
  if (threadIdx.x == 0) count[vertices] = total.x;
}

// The order in which threads find the edges does not matter: a neighbour's place is the number of smaller ones.
__device__ inline void sort_neighbours(Team& team, const ListGraph& graph, const uint32_t* tree, const Neighbours& n) {
  for (int v = threadIdx.x; v < graph.vertices; v += blockDim.x) n.first[v] = n.fill[v] = 0;
  __syncthreads();
  each_tree_edge(graph, tree, [&](int a, int b) {
    atomicAdd(n.first + a, 1u);
    atomicAdd(n.first + b, 1u);
  });
  __syncthreads();
  prefix_counts(team, n.first, graph.vertices);
  __syncthreads();
  each_tree_edge(graph, tree, [&](int a, int b) {
    n.found[n.first[a] + atomicAdd(n.fill + a, 1u)] = b;
    n.found[n.first[b] + atomicAdd(n.fill + b, 1u)] = a;
  });
  __syncthreads();
  const auto place = [&](int at, uint32_t neighbour) {
    uint32_t smaller = 0;
    for (uint32_t k = n.first[at]; k < n.first[at + 1]; ++k) smaller += n.found[k] < neighbour;
    n.sorted[n.first[at] + smaller] = neighbour;
  };
  each_tree_edge(graph, tree, [&](int a, int b) {
    place(a, b);
    place(b, a);
  });
  __syncthreads();
}

// By one warp, 32 vertices of the queue at a time. Returns the length of the queue.
__device__ inline int root_list_tree(const Neighbours& n, int root, int64_t* parent, int64_t* order) {
  const int lane = threadIdx.x % 32;
  if (lane == 0) parent[root] = order[0] = root;
  __syncwarp();
  int tail = 1;
  for (int head = 0; head < tail;) {
    const int i = head + lane;
    const bool active = i < tail;
    const int v = active ? static_cast<int>(order[i]) : 0, above = active ? static_cast<int>(parent[v]) : 0;
    const uint32_t begin = active ? n.first[v] : 0, end = active ? n.first[v + 1] : 0;
    const int children = static_cast<int>(end - begin) - (active && v != root);
    int upto = active ? children : 0;
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(~0u, upto, offset);
      if (lane >= offset) upto += other;
    }
    int place = tail + upto - (active ? children : 0);
    head = min(head + 32, tail);
    tail += __shfl_sync(~0u, upto, 31);
    for (uint32_t k = begin; k < end; ++k) {
      const int child = static_cast<int>(n.sorted[k]);
      if (v != root && child == above) continue;
      parent[child] = v;
      order[place++] = child;
    }
    __syncwarp();
  }
  return tail;
}

// Vertices that the root does not reach follow in the order of their numbers and hang from the root. By one block.
__device__ inline void hang_unreached(
    Team& team, const uint32_t* label, int vertices, int root, int reached, int64_t* parent, int64_t* order) {
  const int share = (vertices + blockDim.x - 1) / blockDim.x;
  const int begin = min(vertices, static_cast<int>(threadIdx.x) * share), end = min(vertices, begin + share);
  int count = 0;
  for (int v = begin; v < end; ++v) count += label[v] != label[root];
  int3 total;
  int place = reached + team.prefix(make_int3(count, 0, 0), total).x;
  for (int v = begin; v < end; ++v) {
    if (label[v] == label[root]) continue;
    parent[v] = root;
    order[place++] = v;
  }
}

}  // namespace ssm
