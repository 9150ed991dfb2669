// Minimum spanning trees on the GPU: Borůvka's rounds by one block a sample in shared memory, or by a cluster of blocks
// in global memory where a sample does not fit; then breadth-first order, of a grid by one warp a sample, of a list by
// a block. Nothing waits for the device, so faults are reported in a tensor that nobody has to read: a NaN weighs more
// than infinity, an edge with an end that is no vertex does not exist, a root that is no vertex is vertex 0, and what
// the root does not reach hangs from it.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "../checks.h"
#include "../dispatch.h"
#include "spanning_tree_list.cuh"

namespace ssm {
namespace {

constexpr int kThreads = 1024;
constexpr int64_t kMaxShared = 200 * 1024;

// place: of doubles among the sorted weights, or null. Scratch of a sample: Components, for a list Tour, the tree.
struct Launch {
  SpanningTreeParams p;
  const int64_t* place;
  uint32_t* scratch;
  int64_t scratch_stride;
  int team;
};

struct FaultShared {
  int root, edge, weight;
};

__device__ int clamped_root(const SpanningTreeParams& p, int64_t sample) {
  const int64_t root = p.root[sample];
  return root >= 0 && root < p.num_vertices() ? static_cast<int>(root) : 0;
}

template <typename scalar_t, typename Visit>
__device__ void with_weights(const Launch& l, int64_t sample, const Visit& visit) {
  if (l.place != nullptr) {
    const int64_t* own = l.place + sample * l.p.num_edges;
    visit([own](int e) { return ordered(own[e]); });
  } else {
    const scalar_t* own = static_cast<const scalar_t*>(l.p.edge_weight) + sample * l.p.num_edges;
    visit([own](int e) { return ordered(own[e]); });
  }
}

template <typename scalar_t>
__device__ bool is_finite(scalar_t weight) {
  return isfinite(static_cast<acc_t<scalar_t>>(weight));
}

// The first fault of the kinds that show before the tree does, in the order of GraphFault; by one block.
template <typename scalar_t, typename Graph>
__device__ void report_fault(const Launch& l, const Graph& graph, int64_t sample, FaultShared* shared, bool connected) {
  const int edges = static_cast<int>(l.p.num_edges);
  const scalar_t* weight = static_cast<const scalar_t*>(l.p.edge_weight) + sample * l.p.num_edges;
  if (threadIdx.x == 0) shared->edge = shared->weight = std::numeric_limits<int>::max();
  __syncthreads();
  for (int e = threadIdx.x; e < edges; e += blockDim.x) {
    int a, b;
    if (!graph.ends(e, a, b)) atomicMin(&shared->edge, e);
    if (!is_finite(weight[e])) atomicMin(&shared->weight, e);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const int64_t root = l.p.root[sample];
  GraphFault fault = connected ? GraphFault::none : GraphFault::disconnected;
  int64_t where = connected ? 0 : -1;
  if (root < 0 || root >= l.p.num_vertices()) {
    fault = GraphFault::root;
    where = root;
  } else if (shared->edge < edges) {
    fault = GraphFault::edge;
    where = shared->edge;
  } else if (shared->weight < edges) {
    fault = GraphFault::weight;
    where = shared->weight;
  }
  l.p.fault[2 * sample] = static_cast<int64_t>(fault);
  l.p.fault[2 * sample + 1] = where;
}

// Bytes of shared memory with which one block does a whole grid: components, weights, the tree.
int64_t whole_grid_bytes(const SpanningTreeParams& p) {
  return 4 * (Components::kArrays * p.num_vertices() + p.num_edges + side_words(p.num_vertices()));
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads) whole_grid_kernel(Launch l) {
  extern __shared__ __align__(16) uint32_t memory[];
  __shared__ TeamShared team_shared;
  __shared__ FaultShared fault_shared;
  const int64_t sample = blockIdx.x;
  const int vertices = static_cast<int>(l.p.num_vertices()), edges = static_cast<int>(l.p.num_edges);
  const GridGraph graph{static_cast<int>(l.p.height), static_cast<int>(l.p.width)};
  Components components(memory, vertices);
  uint32_t *weight = memory + Components::kArrays * int64_t(vertices), *tree = weight + edges;
  Team team(1, &team_shared);
  with_weights<scalar_t>(l, sample, [&](const auto& read) {
    for (int e = threadIdx.x; e < edges; e += blockDim.x) weight[e] = read(e);
  });
  boruvka(team, graph, [weight](int e) { return weight[e]; }, vertices, edges, components, tree);
  report_fault<scalar_t>(l, graph, sample, &fault_shared, true);
  if (threadIdx.x >= 32) return;
  // The four arrays are done with: they make a ring of at least as many entries as there are vertices.
  uint32_t capacity = 1;
  while (capacity < vertices) capacity *= 2;
  root_grid_tree(graph, tree, clamped_root(l.p, sample), memory, capacity, l.p.parent + sample * vertices,
      l.p.order + sample * vertices);
}

template <typename scalar_t, typename Graph>
__device__ Graph graph_of(const Launch& l, int64_t sample) {
  if constexpr (std::is_same_v<Graph, GridGraph>) {
    return {static_cast<int>(l.p.height), static_cast<int>(l.p.width)};
  } else {
    return {l.p.edges + sample * l.p.edges_batch_stride, static_cast<int>(l.p.num_vertices()),
        static_cast<int>(l.p.num_edges)};
  }
}

// Of a sample's scratch, between Components and the tree.
template <typename Graph>
__device__ int64_t words_before_tree(int64_t vertices) {
  return std::is_same_v<Graph, ListGraph> ? Tour::words(vertices) : 0;
}

// Borůvka's rounds in global memory.
template <typename scalar_t, typename Graph>
__global__ void __launch_bounds__(kThreads) components_kernel(Launch l) {
  __shared__ TeamShared team_shared;
  __shared__ FaultShared fault_shared;
  const int64_t sample = blockIdx.x / l.team;
  const int vertices = static_cast<int>(l.p.num_vertices()), edges = static_cast<int>(l.p.num_edges);
  const Graph graph = graph_of<scalar_t, Graph>(l, sample);
  uint32_t* const scratch = l.scratch + sample * l.scratch_stride;
  const Components components(scratch, vertices);
  uint32_t* const tree = scratch + Components::kArrays * int64_t(vertices) + words_before_tree<Graph>(vertices);
  Team team(l.team, &team_shared);
  with_weights<scalar_t>(
      l, sample, [&](const auto& weight) { boruvka(team, graph, weight, vertices, edges, components, tree); });
  bool apart = false;
  for (int v = team.first(); v < vertices; v += team.stride()) apart |= components.label[v] != components.label[0];
  apart = team.any(apart);
  if (team.rank() == 0) report_fault<scalar_t>(l, graph, sample, &fault_shared, !apart);
  team.leave();
}

// One warp a sample; the sides are copied into shared memory where they fit.
__global__ void __launch_bounds__(32) root_grid_kernel(Launch l, uint32_t capacity, bool copy) {
  extern __shared__ __align__(16) uint32_t memory[];
  const int64_t sample = blockIdx.x, vertices = l.p.num_vertices();
  const GridGraph graph{static_cast<int>(l.p.height), static_cast<int>(l.p.width)};
  const uint32_t* sides = l.scratch + sample * l.scratch_stride + Components::kArrays * vertices;
  if (copy) {
    uint32_t* const near = memory + capacity;
    for (int64_t i = threadIdx.x; i < side_words(vertices); i += 32) near[i] = sides[i];
    sides = near;
    __syncwarp();
  }
  root_grid_tree(graph, sides, clamped_root(l.p, sample), memory, capacity, l.p.parent + sample * vertices,
      l.p.order + sample * vertices);
}

__global__ void __launch_bounds__(kThreads) root_list_kernel(Launch l) {
  __shared__ TeamShared team_shared;
  const int64_t sample = blockIdx.x, vertices = l.p.num_vertices();
  const ListGraph graph = graph_of<float, ListGraph>(l, sample);
  uint32_t* const label = l.scratch + sample * l.scratch_stride;  // the first of Components
  uint32_t* const tour = label + Components::kArrays * vertices;
  Team team(1, &team_shared);
  root_list(team, graph, tour + Tour::words(vertices), label, tour, clamped_root(l.p, sample),
      l.p.parent + sample * vertices, l.p.order + sample * vertices);
}

// A listed graph as one block holds it in shared memory: the labels; what the rounds and the weights need, and after
// them the tour; the edges; the tree.
struct WholeList {
  int64_t vertices, edges;

  C10_HOST_DEVICE int64_t labels() const { return (vertices + 1) / 2 * 2; }
  C10_HOST_DEVICE int64_t work() const {
    const int64_t rounds = (Components::kArrays - 1) * vertices + edges, tour = Tour::words(vertices);
    return rounds > tour ? rounds : tour;
  }
  C10_HOST_DEVICE int64_t bytes() const { return 4 * (labels() + work() + edges + (edges + 31) / 32); }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads) whole_list_kernel(Launch l) {
  extern __shared__ __align__(16) uint32_t memory[];
  __shared__ TeamShared team_shared;
  __shared__ FaultShared fault_shared;
  const int64_t sample = blockIdx.x;
  const int vertices = static_cast<int>(l.p.num_vertices()), edges = static_cast<int>(l.p.num_edges);
  const WholeList layout{vertices, edges};
  uint32_t* const label = memory;
  uint32_t *const work = label + layout.labels(), *const packed = work + layout.work(), *const tree = packed + edges;
  Components components(label, vertices);
  components.hook = work;
  components.weight = work + vertices;
  components.edge = work + 2 * vertices;
  uint32_t* const weight = work + 3 * vertices;
  const ListGraph listed = graph_of<scalar_t, ListGraph>(l, sample);
  const PackedGraph graph{packed, vertices, edges};
  Team team(1, &team_shared);
  with_weights<scalar_t>(l, sample, [&](const auto& read) {
    for (int e = threadIdx.x; e < edges; e += blockDim.x) {
      weight[e] = read(e);
      packed[e] = PackedGraph::pack(listed, e);
    }
  });
  boruvka(team, graph, [weight](int e) { return weight[e]; }, vertices, edges, components, tree);
  bool apart = false;
  for (int v = threadIdx.x; v < vertices; v += blockDim.x) apart |= label[v] != label[0];
  apart = __syncthreads_or(apart);
  report_fault<scalar_t>(l, graph, sample, &fault_shared, !apart);
  root_list(team, graph, tree, label, work, clamped_root(l.p, sample), l.p.parent + sample * vertices,
      l.p.order + sample * vertices);
}

int threads_for(int64_t count) {
  return static_cast<int>(std::clamp<int64_t>((count + 31) / 32 * 32, 32, kThreads));
}

// A team of as many blocks as have work, where the samples alone do not fill the GPU.
int team_for(const SpanningTreeParams& p) {
  const int64_t fill = 2 * at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  int team = 1;
  while (team < largest_team() && p.batch * team < fill && p.num_edges > 2 * kThreads * team) team *= 2;
  return team;
}

template <typename scalar_t>
void span_grids(Launch& l, const at::Tensor& root) {
  const SpanningTreeParams& p = l.p;
  if (whole_grid_bytes(p) <= kMaxShared) {
    launch_teams(whole_grid_kernel<scalar_t>, p.batch, 1, threads_for(p.num_edges), whole_grid_bytes(p), l);
    return;
  }
  l.scratch_stride = Components::kArrays * p.num_vertices() + side_words(p.num_vertices());
  const at::Tensor scratch = at::empty({p.batch, l.scratch_stride}, root.options().dtype(at::kInt));
  l.scratch = reinterpret_cast<uint32_t*>(scratch.data_ptr<int>());
  l.team = team_for(p);
  launch_teams(components_kernel<scalar_t, GridGraph>, p.batch, l.team, kThreads, 0, l);
  constexpr uint32_t kCapacity = 4096;
  const int64_t bytes = 4 * (kCapacity + side_words(p.num_vertices()));
  const bool copy = bytes <= kMaxShared;
  launch_teams(root_grid_kernel, p.batch, 1, 32, copy ? bytes : 4 * kCapacity, l, kCapacity, copy);
}

template <typename scalar_t>
void span_lists(Launch& l, const at::Tensor& root) {
  const SpanningTreeParams& p = l.p;
  const WholeList whole{p.num_vertices(), p.num_edges};
  if (whole.bytes() <= kMaxShared && p.num_vertices() <= PackedGraph::kMostVertices) {
    launch_teams(whole_list_kernel<scalar_t>, p.batch, 1, threads_for(p.num_edges), whole.bytes(), l);
    return;
  }
  const int64_t words =
      Components::kArrays * p.num_vertices() + Tour::words(p.num_vertices()) + (p.num_edges + 31) / 32;
  l.scratch_stride = (words + 1) / 2 * 2;
  const at::Tensor scratch = at::empty({p.batch, l.scratch_stride}, root.options().dtype(at::kInt));
  l.scratch = reinterpret_cast<uint32_t*>(scratch.data_ptr<int>());
  l.team = team_for(p);
  launch_teams(components_kernel<scalar_t, ListGraph>, p.batch, l.team, threads_for(p.num_edges), 0, l);
  launch_teams(root_list_kernel, p.batch, 1, threads_for(p.num_edges), 0, l);
}

// What the weights come to when only their order counts, ties included: equal weights keep the order of the edges.
at::Tensor places(const at::Tensor& weights) {
  const at::Tensor sorted = std::get<1>(at::sort(weights + 0.0, /*stable=*/true, /*dim=*/1, /*descending=*/false));
  const at::Tensor count = at::arange(weights.size(1), sorted.options()).expand_as(sorted);
  return at::empty_like(sorted).scatter_(1, sorted, count);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> spanning_tree(const at::Tensor& edge_weight,
    const std::optional<at::Tensor>& edges, int64_t height, int64_t width, const at::Tensor& root) {
  TORCH_CHECK(edge_weight.dim() == 2, "edge_weight must be [B, E], got ", edge_weight.sizes());
  TORCH_CHECK(height >= 1 && width >= 1, "the graph must have a vertex");
  const int64_t batch = edge_weight.size(0), num_edges = edge_weight.size(1);
  constexpr int64_t kMost = int64_t(1) << 28;
  TORCH_CHECK(num_edges <= 2 * kMost && height <= kMost / width, "the graph has more than 2^28 vertices or 2^29 edges");
  check_device(edge_weight, at::kCUDA, edge_weight, "edge_weight");
  check_device(root, at::kCUDA, edge_weight, "root");
  check_dtype(root, at::kLong, "root");
  check_shape(root, {batch}, "root");
  const c10::cuda::CUDAGuard guard(edge_weight.device());
  at::Tensor ends;
  if (edges.has_value()) {
    check_device(*edges, at::kCUDA, edge_weight, "edges");
    check_dtype(*edges, at::kLong, "edges");
    if (edges->dim() == 2) {
      check_shape(*edges, {num_edges, 2}, "edges");
    } else {
      check_shape(*edges, {batch, num_edges, 2}, "edges");
    }
    ends = edges->contiguous();
  } else {
    TORCH_CHECK(num_edges == (height - 1) * width + height * (width - 1), "edge_weight does not fit the grid");
  }

  const at::Tensor weights = edge_weight.contiguous(), roots = root.contiguous();
  at::Tensor parent = at::empty({batch, height * width}, root.options());
  at::Tensor order = at::empty_like(parent);
  at::Tensor fault = at::empty({batch, 2}, root.options());
  if (batch == 0) return {parent, order, fault};
  at::Tensor place;
  if (weights.scalar_type() == at::kDouble) place = places(weights);

  Launch l{};
  l.p.batch = batch;
  l.p.height = height;
  l.p.width = width;
  l.p.num_edges = num_edges;
  l.p.edge_weight = weights.const_data_ptr();
  l.p.edges = ends.defined() ? ends.const_data_ptr<int64_t>() : nullptr;
  l.p.edges_batch_stride = ends.defined() && ends.dim() == 3 ? 2 * num_edges : 0;
  l.p.root = roots.const_data_ptr<int64_t>();
  l.p.parent = parent.data_ptr<int64_t>();
  l.p.order = order.data_ptr<int64_t>();
  l.p.fault = fault.data_ptr<int64_t>();
  l.place = place.defined() ? place.const_data_ptr<int64_t>() : nullptr;
  l.team = 1;
  SSM_DISPATCH(weights.scalar_type(), "spanning_tree", [&] {
    if (ends.defined()) {
      span_lists<scalar_t>(l, root);
    } else {
      span_grids<scalar_t>(l, root);
    }
  });
  return {parent, order, fault};
}

// To raise a fault would be to wait for the device.
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
