// Borůvka's rounds of a grid by one block whose threads keep the edges in registers.
#pragma once

#include "spanning_tree/cuda/graph.cuh"

namespace ssm {

// The edges of one thread, every blockDim.x-th of the grid: their ordered weights and the components that they join,
// two to a word. An edge within a component stays within it: it becomes 0, a loop, and is never looked at again. The
// rounds are those of boruvka() in graph.cuh and take the same edges, but need no labels of vertices. Each step reads
// what it needs of all edges before it acts, so that a thread waits for all of them at once.
template <int kOwn>
struct OwnedEdges {
  uint32_t ends[kOwn], weight[kOwn];

  static __device__ uint32_t pack(uint32_t a, uint32_t b) { return a << 16 | b; }
  __device__ uint32_t number(int i) const { return threadIdx.x + i * blockDim.x; }
  __device__ uint32_t a(int i) const { return ends[i] >> 16; }
  __device__ uint32_t b(int i) const { return ends[i] & 0xffff; }
  __device__ bool live(int i) const { return ends[i] != 0; }

  template <typename Weight>
  __device__ void load(const GridGraph& graph, const Weight& read, int num_edges) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int e = static_cast<int>(number(i));
      ends[i] = weight[i] = 0;
      if (e >= num_edges) continue;
      int a, b;
      graph.ends(e, a, b);
      ends[i] = pack(a, b);
      weight[i] = read(e);
    }
  }

  // The values of both components of every edge.
  __device__ void read_both(const uint32_t* values, uint32_t (&of_a)[kOwn], uint32_t (&of_b)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      of_a[i] = values[a(i)];
      of_b[i] = values[b(i)];
    }
  }

  __device__ void find_lightest(const Components& c) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (!live(i)) continue;
      atomicMin(c.weight + a(i), weight[i]);
      atomicMin(c.weight + b(i), weight[i]);
    }
    __syncthreads();
    uint32_t of_a[kOwn], of_b[kOwn];
    read_both(c.weight, of_a, of_b);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (!live(i)) continue;
      if (weight[i] == of_a[i]) atomicMin(c.edge + a(i), number(i));
      if (weight[i] == of_b[i]) atomicMin(c.edge + b(i), number(i));
    }
    __syncthreads();
  }

  __device__ bool hook_components(const GridGraph& graph, const Components& c, uint32_t* tree) const {
    uint32_t of_a[kOwn], of_b[kOwn];
    read_both(c.edge, of_a, of_b);
    uint32_t taken = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const bool chosen_by_a = of_a[i] == number(i), chosen_by_b = of_b[i] == number(i);
      if (!live(i) || (!chosen_by_a && !chosen_by_b)) continue;
      const bool from_a = chosen_by_a && (!chosen_by_b || b(i) < a(i));
      c.hook[from_a ? a(i) : b(i)] = from_a ? b(i) : a(i);
      taken |= 1u << i;
    }
    const bool hooked = taken != 0;
    for (; taken != 0; taken &= taken - 1) {
      const int e = static_cast<int>(number(__ffs(taken) - 1));
      int first, second;
      graph.ends(e, first, second);
      graph.take(tree, e, first, second);
    }
    return __syncthreads_or(hooked);
  }

  __device__ void join_ends(const uint32_t* component) {
    uint32_t of_a[kOwn], of_b[kOwn];
    read_both(component, of_a, of_b);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) ends[i] = of_a[i] == of_b[i] ? 0 : pack(of_a[i], of_b[i]);
    __syncthreads();
  }

  __device__ void boruvka(Team& team, const GridGraph& graph, int vertices, const Components& c, uint32_t* tree) {
    for (int i = threadIdx.x; i < graph.tree_words(); i += blockDim.x) tree[i] = 0;
    while (true) {
      clear_choices(team, vertices, c);
      find_lightest(c);
      if (!hook_components(graph, c, tree)) return;
      join_ends(follow_hooks(team, vertices, c));
    }
  }
};

}  // namespace ssm
