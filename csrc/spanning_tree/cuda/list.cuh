// Roots the tree of a listed graph. Neighbours are sorted by their numbers; then a tour leads around the tree, and
// pointer jumping ranks its arcs, so that a path of thousands of vertices takes a dozen rounds.
#pragma once

#include "spanning_tree/cuda/graph.cuh"

namespace ssm {

// One sample's scratch: where each vertex's neighbours begin, how many are found so far, and the neighbours as they
// were found and as they are sorted. A place in `sorted` is also the number of the arc from the vertex to that
// neighbour.
struct Neighbours {
  uint32_t *first, *fill, *found, *sorted;

  __device__ Neighbours(uint32_t* base, int64_t vertices)
      : first(base),
        fill(base + vertices + 1),
        found(fill + vertices),
        sorted(found + 2 * vertices) {}

  // The arc from a vertex to one of its neighbours.
  __device__ uint32_t arc(uint32_t from, uint32_t to) const {
    uint32_t low = first[from], high = first[from + 1];
    while (high - low > 1) {
      const uint32_t middle = (low + high) / 2;
      (sorted[middle] <= to ? low : high) = middle;
    }
    return low;
  }
};

template <typename Graph, typename Visit>
__device__ void each_tree_edge(const Graph& graph, const uint32_t* tree, const Visit& visit) {
  for (int e = threadIdx.x; e < graph.num_edges; e += blockDim.x) {
    int a, b;
    if ((tree[e / 32] >> (e % 32) & 1u) != 0 && graph.ends(e, a, b)) visit(a, b);
  }
}

// Exclusive prefix sum in place; the total goes behind the last. By one block.
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

// The order in which threads find the edges does not matter, since a neighbour's place is the number of smaller ones.
template <typename Graph>
__device__ void sort_neighbours(Team& team, const Graph& graph, const uint32_t* tree, const Neighbours& n) {
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

// For a graph that is not connected: breadth first by one warp, which takes 32 vertices of the queue at a time. Returns
// the length of the queue.
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
    const int upto = prefix_over_warp(active ? children : 0, lane);
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

// Appends the vertices that the root does not reach, in the order of their numbers, as children of the root. By one
// block.
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

// Scratch of a sample's tour: two arrays with an arc's successor and its distance to the end, one of which later holds
// (depth, place) to be sorted; then arrays of words. Twins lie where neighbours were found, and parents where they were
// counted.
struct Tour {
  using Link = unsigned long long;
  Link *from, *to;
  Neighbours neighbours;
  uint32_t *twin, *parent, *by_place;

  __device__ Tour(uint32_t* base, int64_t vertices)
      : from(reinterpret_cast<Link*>(base)),
        to(from + 2 * vertices),
        neighbours(base + 8 * vertices, vertices),
        twin(neighbours.found),
        parent(neighbours.fill),
        by_place(neighbours.sorted + 2 * vertices) {}

  static __device__ Link link(uint32_t high, uint32_t low) { return static_cast<Link>(high) << 32 | low; }
  static __device__ uint32_t high(Link x) { return static_cast<uint32_t>(x >> 32); }
  static __device__ uint32_t low(Link x) { return static_cast<uint32_t>(x); }

  // visit(arc, its source, its target)
  template <typename Visit>
  __device__ void each_arc(int vertices, const Visit& visit) const {
    for (uint32_t u = threadIdx.x; u < static_cast<uint32_t>(vertices); u += blockDim.x) {
      for (uint32_t k = neighbours.first[u]; k < neighbours.first[u + 1]; ++k) visit(k, u, neighbours.sorted[k]);
    }
  }

  // Computes the distance of every arc to the end of the tour, in high(from[arc]). The last arc is its own successor.
  __device__ void rank(int arcs) {
    __syncthreads();
    for (int reach = 1; reach < arcs; reach *= 2) {
      for (int k = threadIdx.x; k < arcs; k += blockDim.x) {
        const Link own = from[k], further = from[low(own)];
        to[k] = link(high(own) + high(further), low(further));
      }
      __syncthreads();
      Link* const swap = from;
      from = to;
      to = swap;
    }
  }

  // Finds parents by a tour that leaves each vertex by the neighbour after the one that it came from.
  __device__ void find_parents(int vertices, uint32_t root) {
    const Neighbours& n = neighbours;
    each_arc(vertices, [&](uint32_t k, uint32_t u, uint32_t v) {
      twin[k] = n.arc(v, u);
      const uint32_t next = twin[k] + 1 < n.first[v + 1] ? twin[k] + 1 : n.first[v];
      from[k] = next == n.first[root] ? link(0, k) : link(1, next);
    });
    rank(2 * (vertices - 1));
    each_arc(vertices, [&](uint32_t k, uint32_t u, uint32_t v) {
      if (high(from[k]) > high(from[twin[k]])) parent[v] = u;
    });
    if (threadIdx.x == 0) parent[root] = root;
    __syncthreads();
  }

  // The next arc of a tour that visits the children of a vertex in the order of their numbers; at the end, the arc
  // itself.
  __device__ uint32_t successor(uint32_t k, uint32_t u, uint32_t v, uint32_t root) const {
    const Neighbours& n = neighbours;
    const bool down = v != root && parent[v] == u;
    uint32_t next = down ? n.first[v] : twin[k] + 1;
    if (v != root && next < n.first[v + 1] && n.sorted[next] == parent[v]) ++next;
    if (next < n.first[v + 1]) return next;
    return v == root ? k : n.arc(v, parent[v]);
  }
  // Numbers the vertices depth first: by_place, and their depths by place, behind the counts in `to`.
  __device__ void number(Team& team, int vertices, uint32_t root) {
    const int arcs = 2 * (vertices - 1);
    each_arc(vertices, [&](uint32_t k, uint32_t u, uint32_t v) {
      const uint32_t next = successor(k, u, v, root);
      from[k] = link(next != k, next);
    });
    rank(arcs);
    uint32_t *const downs = reinterpret_cast<uint32_t*>(to), *const depth = downs + arcs + 1;
    each_arc(vertices,
        [&](uint32_t k, uint32_t u, uint32_t v) { downs[arcs - 1 - high(from[k])] = v != root && parent[v] == u; });
    __syncthreads();
    prefix_counts(team, downs, arcs);
    __syncthreads();
    each_arc(vertices, [&](uint32_t k, uint32_t u, uint32_t v) {
      if (v == root || parent[v] != u) return;
      const uint32_t at = arcs - 1 - high(from[k]), place = downs[at] + 1;
      by_place[place] = v;
      depth[place] = 2 * place - (at + 1);
    });
    if (threadIdx.x == 0) {
      by_place[0] = root;
      depth[0] = 0;
    }
    __syncthreads();
  }

  // Sorts the vertices by depth, and within a level by their place, which is the breadth-first order. A bitonic sort;
  // `from` holds the keys.
  __device__ void sort_levels(int vertices) {
    const uint32_t* const depth = reinterpret_cast<const uint32_t*>(to) + 2 * (vertices - 1) + 1;
    int size = 1;
    while (size < vertices) size *= 2;
    for (int i = threadIdx.x; i < size; i += blockDim.x) from[i] = i < vertices ? link(depth[i], i) : ~Link(0);
    __syncthreads();
    for (int run = 2; run <= size; run *= 2) {
      for (int apart = run / 2; apart > 0; apart /= 2) {
        for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
          const int low_end = i / apart * 2 * apart + i % apart, high_end = low_end + apart;
          const Link a = from[low_end], b = from[high_end];
          if ((a > b) == ((low_end & run) == 0)) {
            from[low_end] = b;
            from[high_end] = a;
          }
        }
        __syncthreads();
      }
    }
  }
};

// Writes parents and order of a connected graph whose neighbours are sorted. By one block.
__device__ inline void root_by_tour(
    Team& team, Tour& tour, int vertices, uint32_t root, int64_t* parent, int64_t* order) {
  if (vertices > 1) {
    tour.find_parents(vertices, root);
    tour.number(team, vertices, root);
    tour.sort_levels(vertices);
  } else if (threadIdx.x == 0) {
    tour.parent[0] = tour.by_place[0] = 0;
    tour.from[0] = 0;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < vertices; i += blockDim.x) {
    parent[i] = tour.parent[i];
    order[i] = tour.by_place[Tour::low(tour.from[i])];
  }
}

// Writes parents and order of every vertex; those that the root does not reach come last. By one block. `label` says
// which connected part of the graph a vertex is in.
template <typename Graph>
__device__ void root_list(Team& team, const Graph& graph, const uint32_t* tree, const uint32_t* label,
    uint32_t* scratch, uint32_t root, int64_t* parent, int64_t* order) {
  __shared__ int reached;
  const int vertices = graph.vertices;
  Tour tour(scratch, vertices);
  sort_neighbours(team, graph, tree, tour.neighbours);
  bool apart = false;
  for (int v = threadIdx.x; v < vertices; v += blockDim.x) apart |= label[v] != label[root];
  if (!__syncthreads_or(apart)) return root_by_tour(team, tour, vertices, root, parent, order);
  if (threadIdx.x < 32) {
    const int count = root_list_tree(tour.neighbours, static_cast<int>(root), parent, order);
    if (threadIdx.x == 0) reached = count;
  }
  __syncthreads();
  hang_unreached(team, label, vertices, static_cast<int>(root), reached, parent, order);
}

}  // namespace ssm
