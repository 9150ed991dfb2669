// Minimum spanning trees on the GPU. One block does Borůvka's rounds of a sample in shared memory, and of most grids it
// keeps the edges in registers; where a sample does not fit, a cluster of blocks does them in global memory. Then
// follows the breadth-first order, by one block a sample, but of a grid in global memory by one warp. Nothing waits for
// the device, so that faults are reported in a tensor that nobody has to read. Faulty samples get some result: a NaN
// weighs more than infinity, an edge with an end that is no vertex does not count, a root that is no vertex is taken as
// vertex 0, and what the root does not reach hangs from it.
#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/scalar.h"
#include "spanning_tree/cuda/grid_tour.cuh"
#include "spanning_tree/cuda/launch.h"
#include "spanning_tree/cuda/list.cuh"
#include "spanning_tree/cuda/owned_edges.cuh"

namespace ssm {
namespace {

struct FaultShared {
  int root, edge, weight;
};

__device__ int clamped_root(const SpanningTreeParams& p, int64_t sample) {
  const int64_t root = p.root[sample];
  return root >= 0 && root < p.num_vertices() ? static_cast<int>(root) : 0;
}

template <typename scalar_t, typename Visit>
__device__ void with_weights(const SpanningTreeLaunch& l, int64_t sample, const Visit& visit) {
  if constexpr (std::is_same_v<scalar_t, double>) {
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

// Reports a sample's first fault, in the order of GraphFault. By one block.
template <typename scalar_t, typename Graph>
__device__ void report_fault(
    const SpanningTreeLaunch& l, const Graph& graph, int64_t sample, FaultShared* shared, bool connected) {
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

// kOwn: the edges that a thread keeps in registers, or 0 if the block keeps the weights in shared memory.
template <typename scalar_t, int kOwn>
__global__ void __launch_bounds__(kSpanningThreads, 1) whole_grid_kernel(SpanningTreeLaunch l) {
  extern __shared__ __align__(16) uint32_t memory[];
  __shared__ TeamShared team_shared;
  __shared__ FaultShared fault_shared;
  __shared__ uint32_t warp_sum[32];
  const int64_t sample = blockIdx.x;
  const int vertices = static_cast<int>(l.p.num_vertices()), edges = static_cast<int>(l.p.num_edges);
  const GridGraph graph{static_cast<int>(l.p.height), static_cast<int>(l.p.width)};
  const WholeGrid layout{vertices, edges};
  const Components components(memory + layout.components(), vertices);
  uint32_t* const tree = memory;
  Team team(1, &team_shared);
  with_weights<scalar_t>(l, sample, [&](const auto& read) {
    if constexpr (kOwn > 0) {
      OwnedEdges<kOwn> own;
      own.load(graph, read, edges);
      own.boruvka(team, graph, vertices, components, tree);
    } else {
      uint32_t* const weight = memory + layout.weights();
      for (int e = threadIdx.x; e < edges; e += blockDim.x) weight[e] = read(e);
      boruvka(team, graph, [weight](int e) { return weight[e]; }, vertices, edges, components, tree);
    }
  });
  report_fault<scalar_t>(l, graph, sample, &fault_shared, true);
  GridTour tour(graph, clamped_root(l.p, sample), memory, memory + layout.tour(), warp_sum);
  tour.root_tree(tree, l.p.parent + sample * vertices, l.p.order + sample * vertices);
}

template <typename scalar_t, typename Graph>
__device__ Graph graph_of(const SpanningTreeLaunch& l, int64_t sample) {
  if constexpr (std::is_same_v<Graph, GridGraph>) {
    return {static_cast<int>(l.p.height), static_cast<int>(l.p.width)};
  } else {
    return {l.p.edges + sample * l.p.edges_batch_stride, static_cast<int>(l.p.num_vertices()),
        static_cast<int>(l.p.num_edges)};
  }
}

// The words of a sample's scratch between Components and the tree.
template <typename Graph>
__device__ int64_t words_before_tree(int64_t vertices) {
  return std::is_same_v<Graph, ListGraph> ? tour_words(vertices) : 0;
}

// Borůvka's rounds in global memory.
template <typename scalar_t, typename Graph>
__global__ void __launch_bounds__(kSpanningThreads) components_kernel(SpanningTreeLaunch l) {
  __shared__ TeamShared team_shared;
  __shared__ FaultShared fault_shared;
  const int64_t sample = blockIdx.x / l.team;
  const int vertices = static_cast<int>(l.p.num_vertices()), edges = static_cast<int>(l.p.num_edges);
  const Graph graph = graph_of<scalar_t, Graph>(l, sample);
  uint32_t* const scratch = l.scratch + sample * l.scratch_stride;
  const Components components(scratch, vertices);
  uint32_t* const tree = scratch + kComponentArrays * int64_t(vertices) + words_before_tree<Graph>(vertices);
  Team team(l.team, &team_shared);
  with_weights<scalar_t>(
      l, sample, [&](const auto& weight) { boruvka(team, graph, weight, vertices, edges, components, tree); });
  bool apart = false;
  for (int v = team.first(); v < vertices; v += team.stride()) apart |= components.label[v] != components.label[0];
  apart = team.any(apart);
  if (team.rank() == 0) report_fault<scalar_t>(l, graph, sample, &fault_shared, !apart);
  team.leave();
}

// One warp a sample. The sides are copied into shared memory where they fit.
__global__ void __launch_bounds__(32) root_grid_kernel(SpanningTreeLaunch l, uint32_t capacity, bool copy) {
  extern __shared__ __align__(16) uint32_t memory[];
  const int64_t sample = blockIdx.x, vertices = l.p.num_vertices();
  const GridGraph graph{static_cast<int>(l.p.height), static_cast<int>(l.p.width)};
  const uint32_t* sides = l.scratch + sample * l.scratch_stride + kComponentArrays * vertices;
  if (copy) {
    uint32_t* const near = memory + capacity;
    for (int64_t i = threadIdx.x; i < side_words(vertices); i += 32) near[i] = sides[i];
    sides = near;
    __syncwarp();
  }
  root_grid_tree(graph, sides, clamped_root(l.p, sample), memory, capacity, l.p.parent + sample * vertices,
      l.p.order + sample * vertices);
}

__global__ void __launch_bounds__(kSpanningThreads) root_list_kernel(SpanningTreeLaunch l) {
  __shared__ TeamShared team_shared;
  const int64_t sample = blockIdx.x, vertices = l.p.num_vertices();
  const ListGraph graph = graph_of<float, ListGraph>(l, sample);
  uint32_t* const label = l.scratch + sample * l.scratch_stride;  // the first of Components
  uint32_t* const tour = label + kComponentArrays * vertices;
  Team team(1, &team_shared);
  root_list(team, graph, tour + tour_words(vertices), label, tour, clamped_root(l.p, sample),
      l.p.parent + sample * vertices, l.p.order + sample * vertices);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kSpanningThreads) whole_list_kernel(SpanningTreeLaunch l) {
  extern __shared__ __align__(16) uint32_t memory[];
  __shared__ TeamShared team_shared;
  __shared__ FaultShared fault_shared;
  const int64_t sample = blockIdx.x;
  const int vertices = static_cast<int>(l.p.num_vertices()), edges = static_cast<int>(l.p.num_edges);
  const WholeList layout{vertices, edges};
  uint32_t* const label = memory;
  uint32_t *const work = memory + layout.work(), *const packed = memory + layout.packed();
  uint32_t* const tree = memory + layout.tree();
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

constexpr char kOp[] = "spanning_tree";

// Whether a block of the kernel has so much shared memory for a sample.
template <typename Kernel>
bool fits(Kernel* kernel, int64_t bytes) {
  return bytes <= std::min(kSpanningShared, static_cast<int64_t>(kernel_limits(kernel, kOp).shared));
}

// Blocks of a sample: as many as have work, if the samples alone do not fill the GPU.
// The threads of a grid take the elements in turns.
template <typename Visit>
__device__ void for_each_element(int64_t count, const Visit& visit) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) visit(i);
}

__global__ void sort_keys_kernel(const double* weights, double* keys, int64_t count) {
  for_each_element(count, [&](int64_t i) { keys[i] = weights[i] + 0.0; });
}

__global__ void places_kernel(const int64_t* edge_at, int64_t* place, int64_t count, int64_t edges) {
  for_each_element(count, [&](int64_t i) { place[i / edges * edges + edge_at[i]] = i % edges; });
}

LaunchShape shape_of_elements(int64_t count) {
  const int64_t blocks = std::min((count + kSpanningThreads - 1) / kSpanningThreads, 8 * multiprocessors());
  return {dim3(static_cast<unsigned>(std::max<int64_t>(blocks, 1))), dim3(kSpanningThreads), 0, 1, current_stream()};
}

int team_for(const SpanningTreeParams& p) {
  const int64_t fill = kBlocksOfMultiprocessor * multiprocessors();
  const int most = largest_team(kOp);
  int team = 1;
  while (team < most && p.batch * team < fill && p.num_edges > kEdgesOfThread * kSpanningThreads * team) team *= 2;
  return team;
}

// Calls visit with owned_edges() as a constant.
template <typename Visit>
void with_owned_edges(int64_t edges, const Visit& visit) {
  switch (owned_edges(edges)) {
    case 1:
      return visit(std::integral_constant<int, 1>());
    case 2:
      return visit(std::integral_constant<int, 2>());
    case 4:
      return visit(std::integral_constant<int, 4>());
    case 8:
      return visit(std::integral_constant<int, 8>());
    default:
      return visit(std::integral_constant<int, 0>());
  }
}

template <typename scalar_t>
void span_grids(SpanningTreeLaunch l) {
  const SpanningTreeParams& p = l.p;
  if (l.scratch == nullptr) {
    with_owned_edges(p.num_edges, [&](auto own) {
      const int each = std::max<int>(own, 1);
      launch_teams(kOp, whole_grid_kernel<scalar_t, own>, p.batch, 1, spanning_threads((p.num_edges + each - 1) / each),
          WholeGrid{p.num_vertices(), p.num_edges}.bytes(), l);
    });
    return;
  }
  l.team = team_for(p);
  launch_teams(kOp, components_kernel<scalar_t, GridGraph>, p.batch, l.team, kSpanningThreads, 0, l);
  const RootGrid rooting{p.num_vertices()};
  const bool copy = fits(root_grid_kernel, rooting.bytes(true));
  launch_teams(kOp, root_grid_kernel, p.batch, 1, 32, rooting.bytes(copy), l, kQueueEntries, copy);
}

template <typename scalar_t>
void span_lists(SpanningTreeLaunch l) {
  const SpanningTreeParams& p = l.p;
  if (l.scratch == nullptr) {
    const WholeList whole{p.num_vertices(), p.num_edges};
    launch_teams(kOp, whole_list_kernel<scalar_t>, p.batch, 1, spanning_threads(p.num_edges), whole.bytes(), l);
    return;
  }
  l.team = team_for(p);
  launch_teams(kOp, components_kernel<scalar_t, ListGraph>, p.batch, l.team, spanning_threads(p.num_edges), 0, l);
  launch_teams(kOp, root_list_kernel, p.batch, 1, spanning_threads(p.num_edges), 0, l);
}

}  // namespace

int64_t spanning_scratch_words(const SpanningTreeParams& p, bool listed) {
  const int64_t vertices = p.num_vertices(), components = kComponentArrays * vertices;
  if (!listed) {
    const WholeGrid whole{vertices, p.num_edges};
    bool whole_fits = false;
    with_owned_edges(p.num_edges, [&](auto own) { whole_fits = fits(whole_grid_kernel<float, own>, whole.bytes()); });
    return whole_fits ? 0 : components + side_words(vertices);
  }
  const WholeList whole{vertices, p.num_edges};
  if (vertices <= kMostPackedVertices && fits(whole_list_kernel<float>, whole.bytes())) return 0;
  return (components + tour_words(vertices) + taken_words(p.num_edges) + 1) / 2 * 2;
}

void launch_sort_keys(const double* weights, double* keys, int64_t count) {
  launch_kernel(kOp, sort_keys_kernel, shape_of_elements(count), weights, keys, count);
}

void launch_places(const int64_t* edge_at, int64_t* place, int64_t batch, int64_t edges) {
  launch_kernel(kOp, places_kernel, shape_of_elements(batch * edges), edge_at, place, batch * edges, edges);
}

template <typename scalar_t>
void launch_spanning_tree(const SpanningTreeLaunch& l, bool listed) {
  listed ? span_lists<scalar_t>(l) : span_grids<scalar_t>(l);
}

template void launch_spanning_tree<double>(const SpanningTreeLaunch&, bool);
template void launch_spanning_tree<float>(const SpanningTreeLaunch&, bool);
template void launch_spanning_tree<c10::Half>(const SpanningTreeLaunch&, bool);
template void launch_spanning_tree<c10::BFloat16>(const SpanningTreeLaunch&, bool);

}  // namespace ssm
