// Minimum spanning trees of many small graphs on the CPU, a thread a sample: Borůvka's rounds, then breadth-first
// order. The loops over edges and components have no branch that depends on the weights. On a grid this takes half the
// time of Kruskal's algorithm on radix-sorted edges, which spends most of its time on mispredicted branches.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "common/dispatch.h"
#include "spanning_tree/inputs.h"

namespace ssm {
namespace {

constexpr uint64_t kNoEdge = std::numeric_limits<uint64_t>::max();

// The edges that still join two components, in ascending edge index. `rank` compares as (weight, edge index): its upper
// half is the weight as an unsigned integer, its lower half the edge's place in this list.
struct EdgeList {
  std::vector<uint64_t> rank;
  std::vector<int32_t> from, to, index;
  int64_t size = 0;

  explicit EdgeList(int64_t capacity) : rank(capacity), from(capacity), to(capacity), index(capacity) {}
};

// One thread's scratch, reused for all its samples.
struct Workspace {
  EdgeList edges;
  std::vector<uint32_t> weight;                    // [E], order-preserving
  std::vector<uint64_t> lightest;                  // [L], rank of the lightest edge that leaves a component
  std::vector<int32_t> hook, label;                // [L]
  std::vector<int32_t> tree;                       // [L], indices of the chosen edges
  std::vector<int32_t> first, ends, sorted, fill;  // adjacency of the tree: [L + 1], [2 L], [2 L], [L]
  std::vector<uint8_t> sides;                      // [L], the same for a grid

  Workspace(int64_t vertices, int64_t num_edges, bool grid)
      : edges(num_edges),
        weight(num_edges),
        lightest(vertices),
        hook(vertices),
        label(vertices),
        tree(vertices),
        first(grid ? 0 : vertices + 1),
        ends(grid ? 0 : 2 * vertices),
        sorted(grid ? 0 : 2 * vertices),
        fill(grid ? 0 : vertices),
        sides(grid ? vertices : 0) {}
};

// Maps weights to unsigned integers of the same order. Equal weights, such as -0 and 0, become equal integers.
template <typename scalar_t>
void order_weights(const scalar_t* weight, int64_t count, std::vector<uint32_t>& ordered) {
  for (int64_t e = 0; e < count; ++e) {
    const float value = static_cast<float>(weight[e]) + 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    ordered[e] = bits ^ ((0u - (bits >> 31)) | 0x80000000u);
  }
}

// Doubles do not fit into half of a rank, so that each becomes its place among the sorted weights.
void order_weights(const double* weight, int64_t count, std::vector<uint32_t>& ordered) {
  std::vector<int32_t> sorted(count);
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) { return weight[a] < weight[b]; });
  for (int64_t i = 0; i < count; ++i) ordered[sorted[i]] = static_cast<uint32_t>(i);
}

template <typename scalar_t>
int64_t first_non_finite(const scalar_t* weight, int64_t count) {
  bool finite = true;
  for (int64_t e = 0; e < count; ++e) finite &= std::isfinite(static_cast<acc_t<scalar_t>>(weight[e]));
  if (finite) return -1;
  return std::find_if(weight, weight + count, [](scalar_t w) {
    return !std::isfinite(static_cast<acc_t<scalar_t>>(w));
  }) - weight;
}

void append_edge(EdgeList& list, int64_t from, int64_t to, int64_t index, const std::vector<uint32_t>& weight) {
  const int64_t place = list.size++;
  list.from[place] = static_cast<int32_t>(from);
  list.to[place] = static_cast<int32_t>(to);
  list.index[place] = static_cast<int32_t>(index);
  list.rank[place] = static_cast<uint64_t>(weight[index]) << 32 | static_cast<uint64_t>(place);
}

void list_grid_edges(const SpanningTreeParams& p, Workspace& w) {
  int64_t index = 0;
  for (int64_t v = 0; v < (p.height - 1) * p.width; ++v, ++index) append_edge(w.edges, v, v + p.width, index, w.weight);
  for (int64_t row = 0; row < p.height; ++row) {
    for (int64_t v = row * p.width; v < (row + 1) * p.width - 1; ++v, ++index) {
      append_edge(w.edges, v, v + 1, index, w.weight);
    }
  }
}

void list_given_edges(const int64_t* edges, int64_t num_edges, Workspace& w) {
  for (int64_t e = 0; e < num_edges; ++e) {
    const int64_t from = edges[2 * e], to = edges[2 * e + 1];
    if (from != to) append_edge(w.edges, from, to, e, w.weight);
  }
}

int64_t first_bad_edge(const int64_t* edges, int64_t num_edges, int64_t vertices) {
  const auto outside = [vertices](int64_t v) { return v < 0 || v >= vertices; };
  const int64_t place = std::find_if(edges, edges + 2 * num_edges, outside) - edges;
  return place == 2 * num_edges ? -1 : place / 2;
}

void find_lightest(Workspace& w, int64_t components) {
  std::fill_n(w.lightest.begin(), components, kNoEdge);
  const EdgeList& list = w.edges;
  uint64_t* lightest = w.lightest.data();
  for (int64_t i = 0; i < list.size; ++i) {
    const uint64_t rank = list.rank[i];
    const int32_t a = list.from[i], b = list.to[i];
    const uint64_t at_a = lightest[a], at_b = lightest[b];
    lightest[a] = rank < at_a ? rank : at_a;
    lightest[b] = rank < at_b ? rank : at_b;
  }
}

// Points every component at the other end of its lightest edge and takes that edge. No two ranks are equal, so that the
// only cycles are pairs that chose the same edge; the smaller of the two becomes a root and gets the next label.
// Returns the number of roots, or -1 if a component has no edge to another.
int64_t hook_components(Workspace& w, int64_t components, int64_t& taken) {
  int64_t roots = 0;
  for (int64_t c = 0; c < components; ++c) {
    const uint64_t rank = w.lightest[c];
    if (rank == kNoEdge) return -1;
    const int64_t i = static_cast<int64_t>(rank & 0xffffffffu);
    const int64_t other = w.edges.from[i] ^ w.edges.to[i] ^ static_cast<int32_t>(c);
    const bool mutual = w.lightest[other] == rank;
    const bool is_root = mutual & (c < other);
    w.hook[c] = static_cast<int32_t>(is_root ? c : other);
    w.label[c] = static_cast<int32_t>(roots);
    roots += is_root;
    w.tree[taken] = w.edges.index[i];
    taken += !mutual | is_root;
  }
  return roots;
}

void jump_to_roots(Workspace& w, int64_t components) {
  int32_t* hook = w.hook.data();
  for (bool changed = true; changed;) {
    int32_t differences = 0;
    for (int64_t c = 0; c < components; ++c) {
      const int32_t above = hook[c], further = hook[above];
      differences |= above ^ further;
      hook[c] = further;
    }
    changed = differences != 0;
  }
}

// Renames the ends of all edges to their new components and drops the edges within one, keeping the order.
void contract_edges(Workspace& w) {
  EdgeList& list = w.edges;
  int64_t kept = 0;
  for (int64_t i = 0; i < list.size; ++i) {
    const int32_t a = w.label[w.hook[list.from[i]]], b = w.label[w.hook[list.to[i]]];
    list.from[kept] = a;
    list.to[kept] = b;
    list.rank[kept] = (list.rank[i] & ~uint64_t(0xffffffffu)) | static_cast<uint64_t>(kept);
    list.index[kept] = list.index[i];
    kept += a != b;
  }
  list.size = kept;
}

// Fills w.tree with the L - 1 edges of the minimum spanning tree; false if there is none.
bool boruvka(Workspace& w, int64_t vertices) {
  int64_t taken = 0;
  for (int64_t components = vertices; components > 1;) {
    find_lightest(w, components);
    const int64_t roots = hook_components(w, components, taken);
    if (roots < 0) return false;
    jump_to_roots(w, components);
    contract_edges(w);
    components = roots;
  }
  return true;
}

// Breadth first on a grid. Each vertex has a bit for each neighbour in the tree, in the order of their numbers.
void root_grid_tree(const SpanningTreeParams& p, Workspace& w, int64_t root, int64_t* parent, int64_t* order) {
  enum Side : uint8_t { kUp = 1, kLeft = 2, kRight = 4, kDown = 8 };
  const int64_t vertices = p.num_vertices(), vertical = (p.height - 1) * p.width;
  const int64_t step[4] = {-p.width, -1, 1, p.width};
  std::fill(w.sides.begin(), w.sides.end(), uint8_t(0));
  for (int64_t i = 0; i < vertices - 1; ++i) {
    const int64_t e = w.tree[i];
    const bool is_vertical = e < vertical;
    const int64_t across = e - vertical;
    const int64_t v = is_vertical ? e : across + across / std::max<int64_t>(p.width - 1, 1);
    w.sides[v] |= is_vertical ? kDown : kRight;
    w.sides[is_vertical ? v + p.width : v + 1] |= is_vertical ? kUp : kLeft;
  }
  int64_t count = 0;
  order[count++] = root;
  parent[root] = root;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t v = order[i];
    for (uint32_t sides = w.sides[v]; sides != 0; sides &= sides - 1) {
      const int side = __builtin_ctz(sides);
      const int64_t child = v + step[side];
      w.sides[child] &= static_cast<uint8_t>(~(kDown >> side));  // opposite sides are mirrored bits
      parent[child] = v;
      order[count++] = child;
    }
  }
}

// Breadth first on any tree. Neighbours are sorted by taking the vertices in ascending order and listing each under its
// neighbours.
void root_tree(const int64_t* edges, Workspace& w, int64_t vertices, int64_t root, int64_t* parent, int64_t* order) {
  std::fill(w.first.begin(), w.first.end(), 0);
  for (int64_t i = 0; i < 2 * (vertices - 1); ++i) ++w.first[edges[2 * w.tree[i / 2] + i % 2] + 1];
  std::partial_sum(w.first.begin(), w.first.end(), w.first.begin());
  std::copy_n(w.first.begin(), vertices, w.fill.begin());
  for (int64_t i = 0; i < vertices - 1; ++i) {
    const int64_t a = edges[2 * w.tree[i]], b = edges[2 * w.tree[i] + 1];
    w.ends[w.fill[a]++] = static_cast<int32_t>(b);
    w.ends[w.fill[b]++] = static_cast<int32_t>(a);
  }
  std::copy_n(w.first.begin(), vertices, w.fill.begin());
  for (int64_t v = 0; v < vertices; ++v) {
    for (int32_t k = w.first[v]; k < w.first[v + 1]; ++k) w.sorted[w.fill[w.ends[k]]++] = static_cast<int32_t>(v);
  }
  int64_t count = 0;
  order[count++] = root;
  parent[root] = root;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t v = order[i], above = parent[v];
    for (int32_t k = w.first[v]; k < w.first[v + 1]; ++k) {
      const int64_t child = w.sorted[k];
      if (child == above) continue;
      parent[child] = v;
      order[count++] = child;
    }
  }
}

struct Verdict {
  GraphFault fault;
  int64_t where;
};

template <typename scalar_t>
Verdict span_sample(const SpanningTreeParams& p, Workspace& w, int64_t sample) {
  const int64_t vertices = p.num_vertices();
  const scalar_t* weight = static_cast<const scalar_t*>(p.edge_weight) + sample * p.num_edges;
  const int64_t* edges = p.edges == nullptr ? nullptr : p.edges + sample * p.edges_batch_stride;
  const int64_t root = p.root[sample];
  if (root < 0 || root >= vertices) return {GraphFault::root, root};
  if (edges != nullptr) {
    const int64_t bad = first_bad_edge(edges, p.num_edges, vertices);
    if (bad >= 0) return {GraphFault::edge, bad};
  }
  const int64_t bad = first_non_finite(weight, p.num_edges);
  if (bad >= 0) return {GraphFault::weight, bad};

  order_weights(weight, p.num_edges, w.weight);
  w.edges.size = 0;
  if (edges == nullptr) {
    list_grid_edges(p, w);
  } else {
    list_given_edges(edges, p.num_edges, w);
  }
  if (!boruvka(w, vertices)) return {GraphFault::disconnected, -1};
  int64_t *parent = p.parent + sample * vertices, *order = p.order + sample * vertices;
  if (edges == nullptr) {
    root_grid_tree(p, w, root, parent, order);
  } else {
    root_tree(edges, w, vertices, root, parent, order);
  }
  return {GraphFault::none, 0};
}

template <typename scalar_t>
void span_batch(const SpanningTreeParams& p) {
  const int64_t vertices = p.num_vertices();
  const int64_t grain = 1 + 2048 / (1 + p.num_edges + vertices);  // at least about twenty microseconds a thread
  torch::stable::parallel_for(0, p.batch, grain, [&](int64_t begin, int64_t end) {
    Workspace w(vertices, p.num_edges, p.edges == nullptr);
    for (int64_t b = begin; b < end; ++b) {
      const Verdict verdict = span_sample<scalar_t>(p, w, b);
      p.fault[2 * b] = static_cast<int64_t>(verdict.fault);
      p.fault[2 * b + 1] = verdict.where;
      if (verdict.fault == GraphFault::none) continue;
      std::fill_n(p.parent + b * vertices, vertices, 0);
      std::fill_n(p.order + b * vertices, vertices, 0);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> spanning_tree(
    const Tensor& edge_weight, const std::optional<Tensor>& edges, int64_t height, int64_t width, const Tensor& root) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  const SpanningTreeInputs in(kCPU, edge_weight, edges, height, width, root, kMost, kMost);
  SSM_DISPATCH(in.edge_weight.scalar_type(), "spanning_tree", [&] { span_batch<scalar_t>(in.params); });
  return in.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("spanning_tree", TORCH_BOX(&spanning_tree));
}

}  // namespace ssm
