// Device side of the minimum spanning tree: graphs, comparable weights, Borůvka's rounds.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/cuda/team.cuh"
#include "spanning_tree/cuda/tuning.h"
#include "spanning_tree/params.h"

namespace ssm {

constexpr uint32_t kNone = 0xffffffffu;

// Maps weights to unsigned integers of the same order: -0 equals 0, and every NaN is the same and comes last, after
// infinity. kNone does not occur.
template <typename scalar_t>
__device__ uint32_t ordered(scalar_t weight) {
  const float value = static_cast<float>(weight) + 0.0f;
  if (isnan(value)) return kNone - 1;
  const uint32_t bits = __float_as_uint(value);
  return bits ^ ((0u - (bits >> 31)) | 0x80000000u);
}

// Weights in double arrive as their places among the sorted weights.
template <>
__device__ inline uint32_t ordered<int64_t>(int64_t place) {
  return static_cast<uint32_t>(place);
}

// The neighbours of a vertex in the order of their numbers. Which of them the tree joins it to is a bit each.
enum Side : int { kUp = 0, kLeft = 1, kRight = 2, kDown = 3, kNowhere = 4 };

// The sides of a vertex are four bits, so that a word has eight vertices.
__device__ inline uint32_t sides_of(const uint32_t* sides, uint32_t v) {
  return sides[v / 8] >> (v % 8 * 4) & 15u;
}
__device__ inline void add_side(uint32_t* sides, uint32_t v, Side side) {
  atomicOr(sides + v / 8, 1u << (v % 8 * 4 + side));
}

// The 4-connected grid; the tree is kept as the sides of every vertex.
struct GridGraph {
  int height, width;

  __device__ int64_t tree_words() const { return side_words(int64_t(height) * width); }
  // From a vertex to its neighbour on that side. The way back is on side 3 - side.
  __device__ int step(uint32_t side) const {
    const int apart = side == kUp || side == kDown ? width : 1;
    return side < kRight ? -apart : apart;
  }
  __device__ bool ends(int e, int& a, int& b) const {
    const int vertical = (height - 1) * width;
    if (e < vertical) {
      a = e;
      b = e + width;
    } else {
      const uint32_t across = e - vertical;
      a = across + across / (width - 1);
      b = a + 1;
    }
    return true;
  }
  __device__ void take(uint32_t* tree, int e, int a, int b) const {
    const bool vertical = e < (height - 1) * width;
    add_side(tree, a, vertical ? kDown : kRight);
    add_side(tree, b, vertical ? kUp : kLeft);
  }
};

// Listed edges. The tree is kept as a bit for each edge. An edge with an end that is no vertex does not count.
struct ListGraph {
  const int64_t* edges;
  int vertices, num_edges;

  __device__ int64_t tree_words() const { return taken_words(num_edges); }
  __device__ bool valid(int e) const {
    const int64_t a = edges[2 * int64_t(e)], b = edges[2 * int64_t(e) + 1];
    return a >= 0 && a < vertices && b >= 0 && b < vertices;
  }
  __device__ bool ends(int e, int& a, int& b) const {
    a = static_cast<int>(edges[2 * int64_t(e)]);
    b = static_cast<int>(edges[2 * int64_t(e) + 1]);
    return valid(e);
  }
  __device__ void take(uint32_t* tree, int e, int, int) const { atomicOr(tree + e / 32, 1u << e % 32); }
};

// The same with the ends in shared memory, two to a word, and kNone for an edge that does not count.
struct PackedGraph {
  const uint32_t* packed;
  int vertices, num_edges;

  static __device__ uint32_t pack(const ListGraph& graph, int e) {
    int a, b;
    return graph.ends(e, a, b) ? static_cast<uint32_t>(a) << 16 | static_cast<uint32_t>(b) : kNone;
  }
  __device__ int64_t tree_words() const { return taken_words(num_edges); }
  __device__ bool ends(int e, int& a, int& b) const {
    const uint32_t both = packed[e];
    a = static_cast<int>(both >> 16);
    b = static_cast<int>(both & 0xffff);
    return both != kNone;
  }
  __device__ void take(uint32_t* tree, int e, int, int) const { atomicOr(tree + e / 32, 1u << e % 32); }
};

// One sample's scratch: kComponentArrays arrays of a word for each vertex.
struct Components {
  uint32_t *label, *hook, *weight, *edge;

  __device__ Components(uint32_t* base, int64_t vertices)
      : label(base),
        hook(base + vertices),
        weight(base + 2 * vertices),
        edge(base + 3 * vertices) {}
};

// Finds the lightest edge that leaves each component, first by weight and then by index. Every step is an integer
// minimum, so that the order of the threads does not matter.
template <typename Graph, typename Weight>
__device__ void find_lightest(
    Team& team, const Graph& graph, const Weight& weight, int num_edges, const Components& c) {
  const auto each_crossing = [&](const auto& visit) {
    for (int e = team.first(); e < num_edges; e += team.stride()) {
      int a, b;
      if (!graph.ends(e, a, b)) continue;
      const uint32_t at_a = c.label[a], at_b = c.label[b];
      if (at_a != at_b) visit(e, at_a, at_b);
    }
  };
  each_crossing([&](int e, uint32_t a, uint32_t b) {
    const uint32_t w = weight(e);
    atomicMin(c.weight + a, w);
    atomicMin(c.weight + b, w);
  });
  team.sync();
  each_crossing([&](int e, uint32_t a, uint32_t b) {
    const uint32_t w = weight(e);
    if (w == c.weight[a]) atomicMin(c.edge + a, static_cast<uint32_t>(e));
    if (w == c.weight[b]) atomicMin(c.edge + b, static_cast<uint32_t>(e));
  });
  team.sync();
}

// Hooks every component to the other end of its lightest edge and takes that edge. No two edges have the same (weight,
// index), so that the only cycles are pairs that chose one edge; the smaller of the two becomes the root. Returns
// whether there was an edge to take.
template <typename Graph>
__device__ bool hook_components(Team& team, const Graph& graph, int vertices, const Components& c, uint32_t* tree) {
  bool hooked = false;
  for (int v = team.first(); v < vertices; v += team.stride()) {
    const uint32_t own = v, e = c.edge[v];
    if (c.label[v] != own || e == kNone) continue;
    int a, b;
    graph.ends(static_cast<int>(e), a, b);
    const uint32_t other = c.label[a] ^ c.label[b] ^ own;
    const bool mutual = c.edge[other] == e;
    if (mutual && own < other) continue;
    c.hook[v] = other;
    graph.take(tree, static_cast<int>(e), a, b);
    hooked = true;
  }
  return team.any(hooked);
}

// Forgets what the components chose in the round before.
__device__ inline void clear_choices(const Team& team, int vertices, const Components& c) {
  for (int v = team.first(); v < vertices; v += team.stride()) {
    c.weight[v] = c.edge[v] = kNone;
    c.hook[v] = v;
  }
  team.sync();
}

// Follows the hooks to their ends by pointer jumping. Returns the array with each component's end. A thread takes four
// vertices at a time, so that it waits for four of them at once.
__device__ inline const uint32_t* follow_hooks(Team& team, int vertices, const Components& c) {
  constexpr int kAtOnce = 4;
  const int stride = team.stride();
  uint32_t *from = c.hook, *to = c.weight;  // the weights are done with
  for (bool changed = true; changed;) {
    changed = false;
    for (int first = team.first(); first < vertices; first += kAtOnce * stride) {
      uint32_t above[kAtOnce], further[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) above[i] = first + i * stride < vertices ? from[first + i * stride] : 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) further[i] = first + i * stride < vertices ? from[above[i]] : 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i * stride < vertices) to[first + i * stride] = further[i];
        changed |= above[i] != further[i];
      }
    }
    changed = team.any(changed);
    uint32_t* const swap = from;
    from = to;
    to = swap;
  }
  return from;
}

// Borůvka's rounds. Each round at least halves the components. At the end, vertices that are connected have one label.
template <typename Graph, typename Weight>
__device__ void boruvka(Team& team, const Graph& graph, const Weight& weight, int vertices, int num_edges,
    const Components& c, uint32_t* tree) {
  for (int64_t i = team.first(); i < graph.tree_words(); i += team.stride()) tree[i] = 0;
  for (int v = team.first(); v < vertices; v += team.stride()) c.label[v] = v;
  while (true) {
    clear_choices(team, vertices, c);
    find_lightest(team, graph, weight, num_edges, c);
    if (!hook_components(team, graph, vertices, c, tree)) return;
    const uint32_t* const end = follow_hooks(team, vertices, c);
    for (int v = team.first(); v < vertices; v += team.stride()) c.label[v] = end[c.label[v]];
    team.sync();
  }
}

// Breadth first on a grid, by one warp, which takes 32 vertices of the queue at a time. The queue is the order itself.
// `recent` is a ring with its newest part: `capacity` entries, a power of two, each a vertex and the side that it was
// reached from.
__device__ inline void root_grid_tree(const GridGraph& graph, const uint32_t* sides, int root, uint32_t* recent,
    uint32_t capacity, int64_t* parent, int64_t* order) {
  const uint32_t lane = threadIdx.x % 32, before = (1u << lane) - 1u;
  const int width = graph.width;
  if (lane == 0) {
    recent[0] = static_cast<uint32_t>(root) * 8u + kNowhere;
    parent[root] = order[0] = root;
  }
  __syncwarp();
  for (uint32_t head = 0, tail = 1; head < tail;) {
    const uint32_t i = head + lane;
    uint32_t v = 0, open = 0;
    if (i < tail) {
      uint32_t from;
      if (tail - i <= capacity) {
        v = recent[i & (capacity - 1)] / 8u;
        from = recent[i & (capacity - 1)] % 8u;
      } else {
        v = static_cast<uint32_t>(order[i]);
        const int step = static_cast<int>(parent[v]) - static_cast<int>(v);
        from = step == -width ? kUp : step == width ? kDown : step == -1 ? kLeft : step == 1 ? kRight : kNowhere;
      }
      open = sides_of(sides, v) & ~(1u << from);
    }
    const uint32_t count = __popc(open);
    const uint32_t ones = __ballot_sync(~0u, count & 1u), twos = __ballot_sync(~0u, count & 2u);
    const uint32_t fours = __ballot_sync(~0u, count & 4u);
    uint32_t place = tail + __popc(ones & before) + 2 * __popc(twos & before) + 4 * __popc(fours & before);
    head = min(head + 32u, tail);
    tail += __popc(ones) + 2 * __popc(twos) + 4 * __popc(fours);
    __syncwarp();  // all lanes have read what may now be overwritten in the ring
    for (; open != 0; open &= open - 1, ++place) {
      const uint32_t side = __ffs(open) - 1;
      const uint32_t child = v + graph.step(side);
      recent[place & (capacity - 1)] = child * 8u + (3u - side);
      parent[child] = v;
      order[place] = child;
    }
    __syncwarp();
  }
}

}  // namespace ssm
