// The selective scan from the leaves of a tree to its root, on the CPU. A task is one sample and kWidth channels with
// all their states, which lie state by state, with channels side by side. A task's sums have one order, so that results
// do not depend on the threads.

#include <algorithm>
#include <memory>

#include "common/cpu/lanes.h"
#include "common/cpu/vector_math.h"
#include "common/dispatch.h"
#include "subtree_scan/inputs.h"
#include "tree/cpu/order.h"

namespace ssm {
namespace {

constexpr int kWidth = 16;

constexpr int64_t kMostVertices = int64_t(1) << 31;  // vertices are numbered in 32 bits

struct Params : SubtreeScanParams, SubtreeScanGradients {
  void* grad_weights;  // acc_t, [blocks, batch, L, 2 N]: gradients of B and of C, to be summed over the blocks

  int64_t blocks() const { return (channels + kWidth - 1) / kWidth; }
  // The token whose step the edge above a vertex takes.
  int64_t edge_of(int64_t vertex) const { return !next ? vertex : vertex + 1 < length ? vertex + 1 : 0; }
};

// One sample and block of channels.
template <typename scalar_t>
struct Task {
  using acc = acc_t<scalar_t>;

  const Params& p;
  int64_t sample, block, channel;
  int width;
  const int32_t *vertex, *parent;

  Task(const Params& params, const TreeOrder& tree, int64_t index)
      : p(params),
        sample(index / params.blocks()),
        block(index % params.blocks()),
        channel(block * kWidth),
        width(static_cast<int>(std::min<int64_t>(kWidth, params.channels - channel))),
        vertex(tree.vertex.data() + sample * params.length),
        parent(tree.parent.data() + sample * params.length) {}

  const scalar_t* row(const void* base, const VertexStrides& stride, int64_t v) const {
    return static_cast<const scalar_t*>(base) + sample * stride.batch + v * stride.vertex;
  }
  const scalar_t* channels_of(const void* base, const VertexStrides& stride, int64_t v) const {
    return row(base, stride, v) + channel;
  }
  scalar_t* output(void* base, int64_t v) const {
    return static_cast<scalar_t*>(base) + (sample * p.length + v) * p.channels + channel;
  }
  // Writes A with the channels side by side, [N, kWidth].
  void read_rates(acc* rates) const {
    std::fill_n(rates, p.states * kWidth, acc(0));
    for (int c = 0; c < width; ++c) {
      const acc* const A = static_cast<const acc*>(p.A) + (channel + c) * p.states;
      for (int64_t n = 0; n < p.states; ++n) rates[n * kWidth + c] = A[n];
    }
  }
  // Writes Δ of every token, [L, kWidth].
  SSM_INLINE void read_steps(acc* steps) const {
    acc bias[kWidth];
    load_row(bias, static_cast<const acc*>(p.delta_bias) + channel, width);
    for (int64_t v = 0; v < p.length; ++v) {
      acc z[kWidth];
      load_row(z, channels_of(p.delta, p.delta_stride, v), width);
      for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
        const Vec<acc> raw = load(z + c) + load(bias + c);
        store(steps + v * kWidth + c, softplus(raw, decaying_part(raw)));
      }
    }
  }
};

// exp(Δ A) of one state.
template <typename acc>
SSM_INLINE void decays(acc (&weight)[kWidth], const acc* steps, const acc* rates) {
  for (int c = 0; c < kWidth; c += kLanesOf<acc>) store(weight + c, exponential(load(steps + c) * load(rates + c)));
}

// Computes all states from the leaves up, [L, N, kWidth]. `states` is zeros at first.
template <typename scalar_t>
SSM_INLINE void ascend(
    const Task<scalar_t>& task, const acc_t<scalar_t>* steps, const acc_t<scalar_t>* rates, acc_t<scalar_t>* states) {
  using acc = acc_t<scalar_t>;
  const Params& p = task.p;
  const int64_t size = p.states * kWidth;
  for (int64_t t = p.length - 1; t >= 0; --t) {
    const int64_t v = task.vertex[t];
    const scalar_t* const B = task.row(p.B, p.B_stride, v);
    acc* const own = states + v * size;
    acc* const above = states + task.parent[t] * size;
    acc source[kWidth];
    load_row(source, task.channels_of(p.x, p.x_stride, v), task.width);
    for (int c = 0; c < kWidth; ++c) source[c] *= steps[v * kWidth + c];
    for (int64_t n = 0; n < p.states; ++n) {
      const acc b = static_cast<acc>(B[n]);
      acc h[kWidth], weight[kWidth];
      for (int c = 0; c < kWidth; ++c) own[n * kWidth + c] = h[c] = own[n * kWidth + c] + b * source[c];
      if (t == 0) continue;
      decays(weight, steps + p.edge_of(v) * kWidth, rates + n * kWidth);
      for (int c = 0; c < kWidth; ++c) above[n * kWidth + c] += weight[c] * h[c];
    }
  }
}

template <typename scalar_t>
SSM_MULTIVERSION void forward_task(const Task<scalar_t>& task, acc_t<scalar_t>* scratch) {
  using acc = acc_t<scalar_t>;
  const Params& p = task.p;
  const int64_t size = p.states * kWidth;
  acc *const steps = scratch, *const rates = steps + p.length * kWidth, *const states = rates + size;
  task.read_steps(steps);
  task.read_rates(rates);
  std::fill_n(states, p.length * size, acc(0));
  ascend(task, steps, rates, states);
  for (int64_t v = 0; v < p.length; ++v) {
    const scalar_t* const C = task.row(p.C, p.C_stride, v);
    acc y[kWidth] = {};
    for (int64_t n = 0; n < p.states; ++n) {
      const acc weight = static_cast<acc>(C[n]);
      for (int c = 0; c < kWidth; ++c) y[c] += weight * states[v * size + n * kWidth + c];
    }
    store_row(task.output(p.y, v), y, task.width);
  }
  acc* const root = static_cast<acc*>(p.root_state) + (task.sample * p.channels + task.channel) * p.states;
  for (int c = 0; c < task.width; ++c) {
    for (int64_t n = 0; n < p.states; ++n) root[c * p.states + n] = states[task.vertex[0] * size + n * kWidth + c];
  }
}

// What the backward pass of one task holds.
template <typename acc>
struct BackwardScratch {
  acc *steps, *rates, *grad_rates, *states, *gradients, *grad_steps;

  static int64_t numbers(const Params& p) { return (2 * p.length * (p.states + 1) + 2 * p.states) * kWidth; }
  BackwardScratch(acc* base, const Params& p)
      : steps(base),
        rates(steps + p.length * kWidth),
        grad_rates(rates + p.states * kWidth),
        states(grad_rates + p.states * kWidth),
        gradients(states + p.length * p.states * kWidth),
        grad_steps(gradients + p.length * p.states * kWidth) {}
};

// G = C ∂y + w G_parent of one vertex, and what it adds to the gradients. The maths is in the operator's README.
template <typename scalar_t>
SSM_INLINE void descend(const Task<scalar_t>& task, const BackwardScratch<acc_t<scalar_t>>& s, int64_t t) {
  using acc = acc_t<scalar_t>;
  const Params& p = task.p;
  const int64_t size = p.states * kWidth, v = task.vertex[t], edge = p.edge_of(v);
  const scalar_t *const B = task.row(p.B, p.B_stride, v), *const C = task.row(p.C, p.C_stride, v);
  acc* const grad_weights =
      static_cast<acc*>(p.grad_weights) + ((task.block * p.batch + task.sample) * p.length + v) * 2 * p.states;
  const acc *const h = s.states + v * size, *const above = s.gradients + task.parent[t] * size;
  acc* const own = s.gradients + v * size;
  acc x[kWidth], upstream[kWidth], of_input[kWidth] = {}, of_edge[kWidth] = {};
  load_row(x, task.channels_of(p.x, p.x_stride, v), task.width);
  load_row(upstream, task.channels_of(p.grad_y, p.grad_y_stride, v), task.width);
  const acc* const steps = s.steps + v * kWidth;
  for (int64_t n = 0; n < p.states; ++n) {
    const int64_t at = n * kWidth;
    const acc b = static_cast<acc>(B[n]), weight = static_cast<acc>(C[n]);
    acc given[kWidth], of_b[kWidth], of_c[kWidth];
    if (t == 0) {
      for (int c = 0; c < kWidth; ++c) given[c] = own[at + c];  // the root's own
    } else {
      acc w[kWidth];
      decays(w, s.steps + edge * kWidth, s.rates + at);
      for (int c = 0; c < kWidth; ++c) {
        given[c] = w[c] * above[at + c];
        const acc exponent = h[at + c] * given[c];
        of_edge[c] += s.rates[at + c] * exponent;
        s.grad_rates[at + c] += s.steps[edge * kWidth + c] * exponent;
      }
    }
    for (int c = 0; c < kWidth; ++c) {
      const acc g = given[c] + weight * upstream[c];
      own[at + c] = g;
      of_input[c] += b * g;
      of_b[c] = steps[c] * x[c] * g;
      of_c[c] = h[at + c] * upstream[c];
    }
    grad_weights[n] = sum_row(of_b);
    grad_weights[p.states + n] = sum_row(of_c);
  }
  acc grad_x[kWidth];
  for (int c = 0; c < kWidth; ++c) {
    grad_x[c] = steps[c] * of_input[c];
    s.grad_steps[v * kWidth + c] += x[c] * of_input[c];
    s.grad_steps[edge * kWidth + c] += of_edge[c];
  }
  store_row(task.output(p.grad_x, v), grad_x, task.width);
}

template <typename scalar_t>
SSM_MULTIVERSION void backward_task(const Task<scalar_t>& task, acc_t<scalar_t>* scratch) {
  using acc = acc_t<scalar_t>;
  const Params& p = task.p;
  const int64_t size = p.states * kWidth, own = task.sample * p.channels + task.channel;
  const BackwardScratch<acc> s(scratch, p);
  task.read_steps(s.steps);
  task.read_rates(s.rates);
  std::fill_n(s.grad_rates, size, acc(0));
  std::fill_n(s.states, p.length * size, acc(0));
  std::fill_n(s.grad_steps, p.length * kWidth, acc(0));
  acc* const root = s.gradients + task.vertex[0] * size;
  std::fill_n(root, size, acc(0));
  if (p.grad_root_state != nullptr) {
    const acc* const given = static_cast<const acc*>(p.grad_root_state) + own * p.states;
    for (int c = 0; c < task.width; ++c) {
      for (int64_t n = 0; n < p.states; ++n) root[n * kWidth + c] = given[c * p.states + n];
    }
  }
  ascend(task, s.steps, s.rates, s.states);
  for (int64_t t = 0; t < p.length; ++t) descend(task, s, t);

  acc bias[kWidth] = {};
  for (int64_t v = 0; v < p.length; ++v) {
    acc grad[kWidth];
    for (int c = 0; c < kWidth; ++c) {
      // The derivative of softplus is 1 - exp(-Δ), computed so that it is exact for short steps too.
      grad[c] = -std::expm1(-s.steps[v * kWidth + c]) * s.grad_steps[v * kWidth + c];
      bias[c] += grad[c];
    }
    store_row(task.output(p.grad_delta, v), grad, task.width);
  }
  store_row(static_cast<acc*>(p.grad_bias) + own, bias, task.width);
  acc* const grad_A = static_cast<acc*>(p.grad_A) + own * p.states;
  for (int c = 0; c < task.width; ++c) {
    for (int64_t n = 0; n < p.states; ++n) grad_A[c * p.states + n] = s.grad_rates[n * kWidth + c];
  }
}

template <typename scalar_t, typename Run>
void for_each_task(const Params& p, const TreeOrder& tree, int64_t scratch_numbers, const Run& run) {
  torch::stable::parallel_for(0, p.batch * p.blocks(), 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<acc_t<scalar_t>[]> scratch(new acc_t<scalar_t>[scratch_numbers]);  // not initialised
    for (int64_t i = begin; i < end; ++i) run(Task<scalar_t>(p, tree, i), scratch.get());
  });
}

// The inputs, and the tree in the order in which a task goes through it.
struct Arguments {
  SubtreeScanInputs in;
  TreeOrder tree;

  Arguments(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
      const Tensor& delta_bias, const Tensor& parent, const Tensor& order, bool next)
      : in(kCPU, x, delta, A, B, C, delta_bias, next, kMostVertices) {
    const SubtreeScanParams& p = in.params;
    for (const auto& index : {parent, order}) check_tree_index(index, in.x, kCPU);
    const Tensor parents = contiguous(parent), orders = contiguous(order);
    tree = follow_orders(
        parents.const_data_ptr<int64_t>(), orders.const_data_ptr<int64_t>(), p.batch, p.length, "subtree_scan");
  }
};

std::tuple<Tensor, Tensor> selective_subtree_scan(const Tensor& x, const Tensor& delta, const Tensor& A,
    const Tensor& B, const Tensor& C, const Tensor& delta_bias, const Tensor& parent, const Tensor& order, bool next,
    const std::optional<Tensor>& /*schedule*/) {
  Arguments a(x, delta, A, B, C, delta_bias, parent, order, next);
  const SubtreeScanOutputs outputs(a.in);
  if (outputs.y.numel() == 0) return {outputs.y, outputs.root_state};
  const Params p{a.in.params, {}, nullptr};
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan", [&] {
    const int64_t numbers = (p.length * (p.states + 1) + p.states) * kWidth;
    for_each_task<scalar_t>(p, a.tree, numbers, forward_task<scalar_t>);
  });
  return {outputs.y, outputs.root_state};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> selective_subtree_scan_backward(const Tensor& grad_y,
    const std::optional<Tensor>& grad_root_state, const Tensor& x, const Tensor& delta, const Tensor& A,
    const Tensor& B, const Tensor& C, const Tensor& delta_bias, const Tensor& parent, const Tensor& order, bool next,
    const std::optional<Tensor>& /*schedule*/) {
  const Arguments a(x, delta, A, B, C, delta_bias, parent, order, next);
  const SubtreeScanResults results(grad_y, grad_root_state, a.in);
  if (results.grad_x.numel() == 0) return results.of_nothing(a.in);
  Params p{a.in.params, results.gradients, nullptr};
  const Tensor weights = empty({p.blocks(), p.batch, p.length, 2 * p.states}, A);
  p.grad_weights = weights.data_ptr();
  SSM_DISPATCH(x.scalar_type(), "selective_subtree_scan_backward", [&] {
    for_each_task<scalar_t>(p, a.tree, BackwardScratch<acc_t<scalar_t>>::numbers(p), backward_task<scalar_t>);
  });
  const Tensor sums = sum_parts(weights);
  return {results.grad_x, results.grad_delta, sum_parts(results.grad_A), results.states_of(sums, 0, a.in),
      results.states_of(sums, p.states, a.in), sum_parts(results.grad_bias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("selective_subtree_scan", TORCH_BOX(&selective_subtree_scan));
  m.impl("selective_subtree_scan_backward", TORCH_BOX(&selective_subtree_scan_backward));
}

}  // namespace ssm
