// The tree scan on the CPU. A task is one sample and one block of channels. It walks the vertices in breadth-first
// order, backwards from the leaves up and then forwards from the root down, all channels of the block at once. A task's
// sums have one order, so that results depend neither on the threads nor on the blocks.
#include "tree_scan/inputs.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include "common/dispatch.h"
#include "tree/cpu/order.h"

namespace ssm {
namespace {

// Rows as wide as possible are fastest, since memory is read in long runs. They are cut to occupy the threads, but
// never below two cache lines of float, and to keep a thread's scratch within its part of a shared cache.
constexpr int64_t kLeastWidth = 32;
constexpr int64_t kScratchBytes = int64_t(16) << 20;

// The next rows along the tree are no run of memory, so that the processor cannot guess them. If a sample is larger
// than the second level cache, rows are prefetched kAhead vertices ahead, which saves a fifth of the time at 56 × 56 ×
// 160.
constexpr int64_t kAhead = 4;
constexpr int64_t kNearBytes = int64_t(1) << 20;

struct Blocks {
  int64_t width, count;
};

struct Task {
  int64_t sample, channel, width;
};

template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  SSM_INLINE T* operator[](int64_t vertex) const { return data + vertex * stride; }
};

template <typename T>
SSM_INLINE Rows<const T> rows_at(const void* base, const VertexStrides& stride, const Task& task) {
  return {static_cast<const T*>(base) + task.sample * stride.batch + task.channel, stride.vertex};
}

template <typename T>
SSM_INLINE Rows<T> output_at(const TreeScanParams& p, void* base, const Task& task) {
  return {static_cast<T*>(base) + task.sample * p.length * p.channels + task.channel, p.channels};
}

template <typename scalar_t>
SSM_INLINE bool is_far(const TreeScanParams& p, const Task& task) {
  return p.length * task.width * static_cast<int64_t>(sizeof(acc_t<scalar_t>)) > kNearBytes;
}

template <typename T>
SSM_INLINE void fetch_row(const T* row, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(row + c);
}

template <typename... Row>
SSM_INLINE void fetch_rows(int64_t vertex, int64_t width, const Rows<Row>&... rows) {
  (fetch_row(rows[vertex], width), ...);
}

template <typename from_t, typename to_t>
SSM_INLINE void copy_row(to_t* __restrict to, const from_t* __restrict from, int64_t width) {
  for (int64_t c = 0; c < width; ++c) to[c] = static_cast<to_t>(from[c]);
}

// ξ_parent += w ξ
template <typename acc, typename weight_t>
SSM_INLINE void ascend(
    acc* __restrict parent, const acc* __restrict own, const weight_t* __restrict weight, int64_t width) {
  for (int64_t c = 0; c < width; ++c) parent[c] += static_cast<acc>(weight[c]) * own[c];
}

// h = ξ + w (h_parent - w ξ), which replaces ξ
template <typename acc, typename weight_t>
SSM_INLINE void descend(
    acc* __restrict own, const acc* __restrict parent, const weight_t* __restrict weight, int64_t width) {
  for (int64_t c = 0; c < width; ++c) {
    const acc w = static_cast<acc>(weight[c]);
    own[c] += w * (parent[c] - w * own[c]);
  }
}

// The same for ξ and η at once, and ∂w = η (h_parent - w ξ) + ξ (G_parent - w η).
template <typename acc, typename weight_t>
SSM_INLINE void descend_with_gradient(acc* __restrict xi, acc* __restrict eta, const acc* __restrict h_parent,
    const acc* __restrict g_parent, const weight_t* __restrict weight, weight_t* __restrict grad_weight,
    int64_t width) {
  for (int64_t c = 0; c < width; ++c) {
    const acc w = static_cast<acc>(weight[c]), x = xi[c], e = eta[c];
    const acc h_rest = h_parent[c] - w * x, g_rest = g_parent[c] - w * e;
    grad_weight[c] = static_cast<weight_t>(e * h_rest + x * g_rest);
    xi[c] = x + w * h_rest;
    eta[c] = e + w * g_rest;
  }
}

// The gradient of the up pass alone: G = g + w G_parent, which replaces g, and ∂w = ξ G_parent.
template <typename acc, typename weight_t>
SSM_INLINE void spread_with_gradient(const acc* __restrict xi, acc* __restrict g, const acc* __restrict g_parent,
    const weight_t* __restrict weight, weight_t* __restrict grad_weight, int64_t width) {
  for (int64_t c = 0; c < width; ++c) {
    grad_weight[c] = static_cast<weight_t>(xi[c] * g_parent[c]);
    g[c] += static_cast<acc>(weight[c]) * g_parent[c];
  }
}

// Results of the accumulate type are computed in place; others are computed in scratch.
template <typename scalar_t>
constexpr bool kInPlace = std::is_same_v<scalar_t, acc_t<scalar_t>>;

template <typename scalar_t>
SSM_INLINE Rows<acc_t<scalar_t>> working_rows(Rows<scalar_t> output, acc_t<scalar_t>* scratch, int64_t width) {
  if constexpr (kInPlace<scalar_t>) {
    return output;
  } else {
    return {scratch, width};
  }
}

template <typename scalar_t, typename weight_t>
SSM_MULTIVERSION void forward_task(
    const TreeScanParams& p, const TreeOrder& tree, void* output, const Task& task, acc_t<scalar_t>* scratch) {
  const int32_t* vertex = tree.vertex.data() + task.sample * p.length;
  const int32_t* parent = tree.parent.data() + task.sample * p.length;
  const int64_t width = task.width;
  const auto u = rows_at<scalar_t>(p.u, p.u_stride, task);
  const auto weight = rows_at<weight_t>(p.weight, p.weight_stride, task);
  const auto h = output_at<scalar_t>(p, output, task);
  const auto state = working_rows<scalar_t>(h, scratch, width);

  for (int64_t v = 0; v < p.length; ++v) copy_row(state[v], u[v], width);
  const bool far = is_far<scalar_t>(p, task);
  for (int64_t t = p.length - 1; t > 0; --t) {
    if (far && t > kAhead) fetch_rows(vertex[t - kAhead], width, weight, state);
    ascend(state[parent[t]], state[vertex[t]], weight[vertex[t]], width);
  }
  for (int64_t t = 1; p.both && t < p.length; ++t) {
    if (far && t + kAhead < p.length) fetch_rows(vertex[t + kAhead], width, weight, state);
    descend(state[vertex[t]], state[parent[t]], weight[vertex[t]], width);
  }
  if constexpr (!kInPlace<scalar_t>) {
    for (int64_t v = 0; v < p.length; ++v) copy_row(h[v], state[v], width);
  }
}

template <typename scalar_t, typename weight_t>
SSM_MULTIVERSION void backward_task(const TreeScanParams& p, const TreeOrder& tree, const TreeScanGradients& g,
    const Task& task, acc_t<scalar_t>* scratch) {
  using acc = acc_t<scalar_t>;
  const int32_t* vertex = tree.vertex.data() + task.sample * p.length;
  const int32_t* parent = tree.parent.data() + task.sample * p.length;
  const int64_t width = task.width;
  const auto u = rows_at<scalar_t>(p.u, p.u_stride, task);
  const auto weight = rows_at<weight_t>(p.weight, p.weight_stride, task);
  const auto grad_h = rows_at<scalar_t>(g.grad_h, g.grad_h_stride, task);
  const auto grad_u = output_at<scalar_t>(p, g.grad_u, task);
  const auto grad_weight = output_at<weight_t>(p, g.grad_weight, task);
  const Rows<acc> xi{scratch, width};                                                  // ξ, then h
  const auto eta = working_rows<scalar_t>(grad_u, scratch + p.length * width, width);  // η, then G

  const bool far = is_far<scalar_t>(p, task);
  for (int64_t v = 0; v < p.length; ++v) {
    copy_row(xi[v], u[v], width);
    copy_row(eta[v], grad_h[v], width);
  }
  for (int64_t t = p.length - 1; t > 0; --t) {
    if (far && t > kAhead) fetch_rows(vertex[t - kAhead], width, weight, xi, eta);
    const int64_t own = vertex[t], above = parent[t];
    ascend(xi[above], xi[own], weight[own], width);
    if (p.both) ascend(eta[above], eta[own], weight[own], width);
  }
  std::fill_n(grad_weight[vertex[0]], width, static_cast<weight_t>(0));
  for (int64_t t = 1; t < p.length; ++t) {
    if (far && t + kAhead < p.length) fetch_rows(vertex[t + kAhead], width, weight, xi, eta);
    const int64_t own = vertex[t], above = parent[t];
    if (p.both) {
      descend_with_gradient(xi[own], eta[own], xi[above], eta[above], weight[own], grad_weight[own], width);
    } else {
      spread_with_gradient(xi[own], eta[own], eta[above], weight[own], grad_weight[own], width);
    }
  }
  if constexpr (!kInPlace<scalar_t>) {
    for (int64_t v = 0; v < p.length; ++v) copy_row(grad_u[v], eta[v], width);
  }
}

// Cuts the channels into the fewest blocks that fit the scratch and leave at most a ninth of the threads' time idle.
Blocks cut_channels(const TreeScanParams& p, int64_t scratch_bytes_per_channel) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t most = std::max<int64_t>(p.channels / kLeastWidth, 1);
  int64_t count = std::min(most, 1 + scratch_bytes_per_channel * p.channels / kScratchBytes);
  for (; count < most; ++count) {
    const int64_t tasks = p.batch * count, rounds = (tasks + threads - 1) / threads;
    if (8 * rounds * threads <= 9 * tasks) break;
  }
  constexpr int64_t kMultiple = 16;
  const int64_t width = ((p.channels + count - 1) / count + kMultiple - 1) / kMultiple * kMultiple;
  return {width, (p.channels + width - 1) / width};
}

template <typename acc, typename Function>
void for_each_task(const TreeScanParams& p, int64_t scratch_rows, const Function& run) {
  if (p.batch * p.channels == 0) return;
  const Blocks blocks = cut_channels(p, scratch_rows * static_cast<int64_t>(sizeof(acc)));
  const int64_t grain = 1 + 16384 / (p.length * blocks.width);  // at least about ten microseconds a thread
  torch::stable::parallel_for(0, p.batch * blocks.count, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<acc[]> scratch(new acc[scratch_rows * blocks.width]);  // not initialised
    for (int64_t i = begin; i < end; ++i) {
      const int64_t channel = i % blocks.count * blocks.width;
      run(Task{i / blocks.count, channel, std::min(blocks.width, p.channels - channel)}, scratch.get());
    }
  });
}

constexpr int64_t kMostVertices = int64_t(1) << 31;  // vertices are numbered in 32 bits

Tensor tree_scan(const Tensor& u, const Tensor& weight, const Tensor& parent, const Tensor& order, bool both,
    const std::optional<Tensor>& /*schedule*/) {
  const TreeScanInputs in(kCPU, u, weight, parent, order, both, kMostVertices);
  const TreeScanParams& p = in.params;
  Tensor h = empty(u.sizes(), u);
  const TreeOrder tree = follow_orders(p.parent, p.order, p.batch, p.length, "tree_scan");
  if (h.numel() == 0) return h;
  void* output = h.data_ptr();
  SSM_DISPATCH(u.scalar_type(), "tree_scan", [&] {
    using acc = acc_t<scalar_t>;
    const bool same = weight.scalar_type() == u.scalar_type();
    const int64_t scratch_rows = kInPlace<scalar_t> ? 0 : p.length;
    for_each_task<acc>(p, scratch_rows, [&](const Task& task, acc* scratch) {
      (same ? forward_task<scalar_t, scalar_t> : forward_task<scalar_t, acc>)(p, tree, output, task, scratch);
    });
  });
  return h;
}

std::tuple<Tensor, Tensor> tree_scan_backward(const Tensor& grad_h, const Tensor& u, const Tensor& weight,
    const Tensor& parent, const Tensor& order, bool both, const std::optional<Tensor>& /*schedule*/) {
  const TreeScanInputs in(kCPU, u, weight, parent, order, both, kMostVertices);
  const TreeScanParams& p = in.params;
  const TreeScanResults results(grad_h, u, weight);
  const TreeScanGradients& g = results.gradients;
  const TreeOrder tree = follow_orders(p.parent, p.order, p.batch, p.length, "tree_scan");
  if (u.numel() == 0) return {results.grad_u, results.grad_weight};
  SSM_DISPATCH(u.scalar_type(), "tree_scan_backward", [&] {
    using acc = acc_t<scalar_t>;
    const bool same = weight.scalar_type() == u.scalar_type();
    const int64_t scratch_rows = (kInPlace<scalar_t> ? 1 : 2) * p.length;
    for_each_task<acc>(p, scratch_rows, [&](const Task& task, acc* scratch) {
      (same ? backward_task<scalar_t, scalar_t> : backward_task<scalar_t, acc>)(p, tree, g, task, scratch);
    });
  });
  return {results.grad_u, results.grad_weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("tree_scan", TORCH_BOX(&tree_scan));
  m.impl("tree_scan_backward", TORCH_BOX(&tree_scan_backward));
}

}  // namespace ssm
