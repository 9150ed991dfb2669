// Borůvka's rounds of a grid by one block whose threads keep the edges in registers.
#pragma once

#include "spanning_tree/cuda/graph.cuh"

namespace ssm {

// The edges of one thread, every blockDim.x-th of the grid: their ends, ordered weights and, within a round, the
// components at their ends, two to a word. An edge within a component stays within it, so that it is never looked at
// again.
template <int kOwn>
struct OwnedEdges {
  uint32_t ends[kOwn], weight[kOwn], labels[kOwn];
  bool live[kOwn];

  static __device__ uint32_t pack(uint32_t a, uint32_t b) { return a << 16 | b; }
  static __device__ uint32_t first(uint32_t both) { return both >> 16; }
  static __device__ uint32_t second(uint32_t both) { return both & 0xffff; }

  // visit(place among the thread's edges, the edge's number), for the edges that may join components
  template <typename Visit>
  __device__ void each_live(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (live[i]) visit(i, threadIdx.x + i * blockDim.x);
    }
  }

  template <typename Weight>
  __device__ void load(const GridGraph& graph, const Weight& read, int num_edges) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int e = static_cast<int>(threadIdx.x + i * blockDim.x);
      live[i] = e < num_edges;
      if (!live[i]) continue;
      int a, b;
      graph.ends(e, a, b);
      ends[i] = pack(a, b);
      weight[i] = read(e);
    }
  }

  // What find_lightest() does in graph.cuh.
  __device__ void find_lightest(const Components& c) {
    each_live([&](int i, uint32_t) {
      const uint32_t at_a = c.label[first(ends[i])], at_b = c.label[second(ends[i])];
      live[i] = at_a != at_b;
      if (!live[i]) return;
      labels[i] = pack(at_a, at_b);
      atomicMin(c.weight + at_a, weight[i]);
      atomicMin(c.weight + at_b, weight[i]);
    });
    __syncthreads();
    each_live([&](int i, uint32_t e) {
      const uint32_t at_a = first(labels[i]), at_b = second(labels[i]);
      if (weight[i] == c.weight[at_a]) atomicMin(c.edge + at_a, e);
      if (weight[i] == c.weight[at_b]) atomicMin(c.edge + at_b, e);
    });
    __syncthreads();
  }

  // What hook_components() does in graph.cuh, by the threads of the chosen edges.
  __device__ bool hook_components(const GridGraph& graph, const Components& c, uint32_t* tree) const {
    bool hooked = false;
    each_live([&](int i, uint32_t e) {
      const uint32_t at_a = first(labels[i]), at_b = second(labels[i]);
      const bool of_a = c.edge[at_a] == e, of_b = c.edge[at_b] == e;
      if (!of_a && !of_b) return;
      const bool from_a = of_a && (!of_b || at_b < at_a);
      c.hook[from_a ? at_a : at_b] = from_a ? at_b : at_a;
      graph.take(tree, static_cast<int>(e), static_cast<int>(first(ends[i])), static_cast<int>(second(ends[i])));
      hooked = true;
    });
    return __syncthreads_or(hooked);
  }

  // boruvka() in graph.cuh, with the same components and the same tree.
  __device__ void boruvka(Team& team, const GridGraph& graph, int vertices, const Components& c, uint32_t* tree) {
    start_components(team, graph, vertices, c, tree);
    while (true) {
      clear_choices(team, vertices, c);
      find_lightest(c);
      if (!hook_components(graph, c, tree)) return;
      merge_components(team, vertices, c);
    }
  }
};

}  // namespace ssm
