// Selective scan on the CPU. One task is one sample, one group and one block of WIDTH channels; it walks the tokens of
// each of the group's directions in that direction's order, all channels of the block at once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "../dispatch.h"
#include "../selective_scan_inputs.h"
#include "vector_math.h"

namespace ssm {
namespace {

constexpr int kWidth = 32;
// Sums over the tokens go through partial sums of this many, which keeps float32 as exact as PyTorch's pairwise sums.
constexpr int kPartial = 64;

struct Task {
  int64_t batch, group, channel;
  int width;
};

Task task_at(const SelectiveScanParams& p, int64_t index) {
  const int64_t blocks = (p.channels + kWidth - 1) / kWidth;
  const int64_t channel = index % blocks * kWidth;
  const int width = static_cast<int>(std::min<int64_t>(kWidth, p.channels - channel));
  return {index / blocks / p.groups, index / blocks % p.groups, channel, width};
}

// The parameters of one direction for one block of channels.
template <typename acc>
struct Direction {
  acc D[kWidth], bias[kWidth];
  std::vector<acc> A;  // [N, kWidth]
};

template <typename acc>
SSM_INLINE void load_direction(Direction<acc>& d, const SelectiveScanParams& p, int64_t k, const Task& task) {
  const int64_t row = k * p.channels + task.channel;
  for (int c = 0; c < kWidth; ++c) {
    const bool inside = c < task.width;
    d.D[c] = inside && p.D ? static_cast<const acc*>(p.D)[row + c] : acc(0);
    d.bias[c] = inside && p.delta_bias ? static_cast<const acc*>(p.delta_bias)[row + c] : acc(0);
    for (int64_t n = 0; n < p.states; ++n) {
      d.A[n * kWidth + c] = inside ? static_cast<const acc*>(p.A)[(row + c) * p.states + n] : acc(0);
    }
  }
}

SSM_INLINE int64_t token_at(const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t step) {
  const int64_t t = p.reverse[k] ? p.length - 1 - step : step;
  if (p.order == nullptr) return t;
  return p.order[batch * p.order_stride.batch + k * p.order_stride.group + t * p.order_stride.token];
}

template <typename scalar_t>
SSM_INLINE const scalar_t* at(const void* base, const Strides& s, int64_t batch, int64_t group, int64_t token) {
  return static_cast<const scalar_t*>(base) + batch * s.batch + group * s.group + token * s.token;
}

template <typename acc>
SSM_INLINE void time_step(acc (&dt)[kWidth], const Direction<acc>& d, bool with_softplus) {
  for (int c = 0; c < kWidth; ++c) dt[c] += d.bias[c];
  if (with_softplus) {
    for (int c = 0; c < kWidth; ++c) dt[c] = softplus(dt[c]);
  }
}

// h ← exp(Δ·A)·h + Δ·B·u for one state of the block.
template <typename acc>
SSM_INLINE void step_state(acc* h, const acc* A, const acc (&dt)[kWidth], const acc (&u)[kWidth], acc B) {
  for (int c = 0; c < kWidth; ++c) h[c] = exponential(dt[c] * A[c]) * h[c] + dt[c] * u[c] * B;
}

template <typename scalar_t>
SSM_MULTIVERSION void forward_task(const SelectiveScanParams& p, int64_t index, std::vector<acc_t<scalar_t>>& sum) {
  using acc = acc_t<scalar_t>;
  const Task task = task_at(p, index);
  Direction<acc> direction;
  direction.A.resize(p.states * kWidth);
  std::vector<acc> state(p.states * kWidth);
  std::fill(sum.begin(), sum.end(), acc(0));

  for (int64_t i = 0; i < p.inner; ++i) {
    const int64_t k = task.group * p.inner + i;
    load_direction(direction, p, k, task);
    std::fill(state.begin(), state.end(), acc(0));
    for (int64_t step = 0; step < p.length; ++step) {
      const int64_t token = token_at(p, task.batch, k, step);
      const scalar_t* B = at<scalar_t>(p.B, p.B_stride, task.batch, k, token);
      const scalar_t* C = at<scalar_t>(p.C, p.C_stride, task.batch, k, token);
      acc u[kWidth], dt[kWidth], y[kWidth];
      load_row(u, at<scalar_t>(p.u, p.u_stride, task.batch, task.group, token) + task.channel, task.width);
      load_row(dt, at<scalar_t>(p.delta, p.delta_stride, task.batch, k, token) + task.channel, task.width);
      time_step(dt, direction, p.delta_softplus);
      acc* out = sum.data() + token * kWidth;
      for (int c = 0; c < kWidth; ++c) y[c] = out[c] + direction.D[c] * u[c];
      for (int64_t n = 0; n < p.states; ++n) {
        acc* h = state.data() + n * kWidth;
        step_state(h, direction.A.data() + n * kWidth, dt, u, static_cast<acc>(B[n * p.B_stride.last]));
        const acc weight = static_cast<acc>(C[n * p.C_stride.last]);
        for (int c = 0; c < kWidth; ++c) y[c] += h[c] * weight;
      }
      for (int c = 0; c < kWidth; ++c) out[c] = y[c];
    }
    const int64_t row = (task.batch * p.groups * p.inner + k) * p.channels + task.channel;
    for (int c = 0; c < task.width; ++c) {
      for (int64_t n = 0; n < p.states; ++n) {
        static_cast<acc*>(p.last_state)[(row + c) * p.states + n] = state[n * kWidth + c];
      }
    }
  }
  scalar_t* y = static_cast<scalar_t*>(p.y) + (task.batch * p.groups + task.group) * p.length * p.channels;
  for (int64_t token = 0; token < p.length; ++token) {
    acc row[kWidth];
    load_row(row, sum.data() + token * kWidth, kWidth);
    store_row(y + token * p.channels + task.channel, row, task.width);
  }
}

// Scratch of one thread in the backward pass.
template <typename acc>
struct BackwardScratch {
  explicit BackwardScratch(const SelectiveScanParams& p)
      : states(p.length * p.states * kWidth),
        dt(p.length * kWidth),
        grad_u(p.length * kWidth),
        carry(p.states * kWidth),
        grad_A(p.states * kWidth),
        grad_A_partial(p.states * kWidth) {
    direction.A.resize(p.states * kWidth);
  }
  std::vector<acc> states;  // [L, N, kWidth], every state of the forward pass
  std::vector<acc> dt;      // [L, kWidth], after softplus
  std::vector<acc> grad_u;  // [L, kWidth], summed over the group's directions
  std::vector<acc> carry;   // [N, kWidth], gradient of the state
  std::vector<acc> grad_A;  // [N, kWidth]
  std::vector<acc> grad_A_partial;
  acc grad_D[kWidth], grad_D_partial[kWidth], grad_bias[kWidth], grad_bias_partial[kWidth];
  Direction<acc> direction;

  SSM_INLINE void start_sums() {
    for (int c = 0; c < kWidth; ++c) grad_D[c] = grad_D_partial[c] = grad_bias[c] = grad_bias_partial[c] = acc(0);
    std::fill(grad_A.begin(), grad_A.end(), acc(0));
    std::fill(grad_A_partial.begin(), grad_A_partial.end(), acc(0));
  }

  SSM_INLINE void add_partial_sums() {
    for (int c = 0; c < kWidth; ++c) {
      grad_D[c] += grad_D_partial[c];
      grad_bias[c] += grad_bias_partial[c];
      grad_D_partial[c] = grad_bias_partial[c] = acc(0);
    }
    for (size_t i = 0; i < grad_A.size(); ++i) {
      grad_A[i] += grad_A_partial[i];
      grad_A_partial[i] = acc(0);
    }
  }
};

template <typename scalar_t>
SSM_INLINE void recompute_states(
    const SelectiveScanParams& p, const Task& task, int64_t k, BackwardScratch<acc_t<scalar_t>>& s) {
  using acc = acc_t<scalar_t>;
  const int64_t row = p.states * kWidth;
  for (int64_t step = 0; step < p.length; ++step) {
    const int64_t token = token_at(p, task.batch, k, step);
    const scalar_t* B = at<scalar_t>(p.B, p.B_stride, task.batch, k, token);
    acc u[kWidth], dt[kWidth];
    load_row(u, at<scalar_t>(p.u, p.u_stride, task.batch, task.group, token) + task.channel, task.width);
    load_row(dt, at<scalar_t>(p.delta, p.delta_stride, task.batch, k, token) + task.channel, task.width);
    time_step(dt, s.direction, p.delta_softplus);
    for (int c = 0; c < kWidth; ++c) s.dt[step * kWidth + c] = dt[c];
    acc* h = s.states.data() + step * row;
    if (step == 0) {
      std::fill(h, h + row, acc(0));
    } else {
      std::copy(h - row, h, h);
    }
    for (int64_t n = 0; n < p.states; ++n) {
      step_state(h + n * kWidth, s.direction.A.data() + n * kWidth, dt, u, static_cast<acc>(B[n * p.B_stride.last]));
    }
  }
}

template <typename scalar_t>
SSM_INLINE void backward_direction(const SelectiveScanParams& p, const SelectiveScanGradients& g, const Task& task,
    int64_t k, BackwardScratch<acc_t<scalar_t>>& s) {
  using acc = acc_t<scalar_t>;
  const int64_t K = p.groups * p.inner;
  const int64_t sequence = task.batch * K + k;
  const int64_t block = task.channel / kWidth;
  acc* grad_B = static_cast<acc*>(g.grad_B) + (block * p.batch * K + sequence) * p.length * p.states;
  acc* grad_C = static_cast<acc*>(g.grad_C) + (block * p.batch * K + sequence) * p.length * p.states;
  const int64_t group = task.batch * p.groups + task.group;
  const scalar_t* grad_y = static_cast<const scalar_t*>(g.grad_y) + group * p.length * p.channels + task.channel;
  scalar_t* grad_delta = static_cast<scalar_t*>(g.grad_delta) + sequence * p.length * p.channels + task.channel;

  s.start_sums();
  for (int64_t n = 0; n < p.states; ++n) {
    for (int c = 0; c < kWidth; ++c) {
      const int64_t at_state = (sequence * p.channels + task.channel + c) * p.states + n;
      const bool given = g.grad_last_state != nullptr && c < task.width;
      s.carry[n * kWidth + c] = given ? static_cast<const acc*>(g.grad_last_state)[at_state] : acc(0);
    }
  }

  for (int64_t step = p.length - 1; step >= 0; --step) {
    const int64_t token = token_at(p, task.batch, k, step);
    const scalar_t* B = at<scalar_t>(p.B, p.B_stride, task.batch, k, token);
    const scalar_t* C = at<scalar_t>(p.C, p.C_stride, task.batch, k, token);
    acc u[kWidth], dt[kWidth], gy[kWidth], gu[kWidth], gdt[kWidth] = {}, to_B[kWidth], to_C[kWidth];
    load_row(u, at<scalar_t>(p.u, p.u_stride, task.batch, task.group, token) + task.channel, task.width);
    load_row(dt, s.dt.data() + step * kWidth, kWidth);
    load_row(gy, grad_y + token * p.channels, task.width);
    for (int c = 0; c < kWidth; ++c) {
      s.grad_D_partial[c] += gy[c] * u[c];
      gu[c] = gy[c] * s.direction.D[c];
    }
    for (int64_t n = 0; n < p.states; ++n) {
      const acc* A = s.direction.A.data() + n * kWidth;
      const acc* h = s.states.data() + (step * p.states + n) * kWidth;
      const acc* before = step == 0 ? nullptr : h - p.states * kWidth;
      acc* carry = s.carry.data() + n * kWidth;
      acc* grad_A = s.grad_A_partial.data() + n * kWidth;
      const acc b = static_cast<acc>(B[n * p.B_stride.last]);
      const acc weight = static_cast<acc>(C[n * p.C_stride.last]);
      for (int c = 0; c < kWidth; ++c) {
        to_C[c] = gy[c] * h[c];
        const acc gh = carry[c] + gy[c] * weight;
        const acc decay = exponential(dt[c] * A[c]);
        const acc g_exponent = before == nullptr ? acc(0) : gh * before[c] * decay;
        grad_A[c] += g_exponent * dt[c];
        gdt[c] += g_exponent * A[c] + gh * b * u[c];
        to_B[c] = gh * dt[c] * u[c];
        gu[c] += gh * dt[c] * b;
        carry[c] = gh * decay;
      }
      grad_B[token * p.states + n] = sum_row(to_B);
      grad_C[token * p.states + n] = sum_row(to_C);
    }
    // dt = softplus(x) has derivative sigmoid(x) = 1 - exp(-dt).
    if (p.delta_softplus) {
      for (int c = 0; c < kWidth; ++c) gdt[c] *= acc(1) - exponential(-dt[c]);
    }
    for (int c = 0; c < kWidth; ++c) s.grad_bias_partial[c] += gdt[c];
    store_row(grad_delta + token * p.channels, gdt, task.width);
    acc* sum = s.grad_u.data() + token * kWidth;
    for (int c = 0; c < kWidth; ++c) sum[c] += gu[c];
    if (step % kPartial == 0) s.add_partial_sums();
  }

  const int64_t row = sequence * p.channels + task.channel;
  for (int c = 0; c < task.width; ++c) {
    static_cast<acc*>(g.grad_D)[row + c] = s.grad_D[c];
    static_cast<acc*>(g.grad_delta_bias)[row + c] = s.grad_bias[c];
    for (int64_t n = 0; n < p.states; ++n) {
      static_cast<acc*>(g.grad_A)[(row + c) * p.states + n] = s.grad_A[n * kWidth + c];
    }
  }
}

template <typename scalar_t>
SSM_MULTIVERSION void backward_task(
    const SelectiveScanParams& p, const SelectiveScanGradients& g, int64_t index, BackwardScratch<acc_t<scalar_t>>& s) {
  using acc = acc_t<scalar_t>;
  const Task task = task_at(p, index);
  std::fill(s.grad_u.begin(), s.grad_u.end(), acc(0));
  for (int64_t i = 0; i < p.inner; ++i) {
    const int64_t k = task.group * p.inner + i;
    load_direction(s.direction, p, k, task);
    recompute_states<scalar_t>(p, task, k, s);
    backward_direction<scalar_t>(p, g, task, k, s);
  }
  scalar_t* grad_u = static_cast<scalar_t*>(g.grad_u) + (task.batch * p.groups + task.group) * p.length * p.channels;
  for (int64_t token = 0; token < p.length; ++token) {
    acc row[kWidth];
    load_row(row, s.grad_u.data() + token * kWidth, kWidth);
    store_row(grad_u + token * p.channels + task.channel, row, task.width);
  }
}

// The kernels index with these values, so a bad one must stop here; that they are a permutation is the caller's word.
void check_permutation_range(const std::optional<at::Tensor>& order, int64_t length) {
  if (!order.has_value() || order->numel() == 0) return;
  const auto [low, high] = at::aminmax(*order);
  TORCH_CHECK_INDEX(low.item<int64_t>() >= 0 && high.item<int64_t>() < length,
      "order must hold token indices from 0 to ", length - 1);
}

int64_t channel_blocks(const SelectiveScanParams& p) {
  return (p.channels + kWidth - 1) / kWidth;
}
int64_t tasks(const SelectiveScanParams& p) {
  return p.batch * p.groups * channel_blocks(p);
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& u, const at::Tensor& delta, const at::Tensor& A,
    const at::Tensor& B, const at::Tensor& C, const std::optional<at::Tensor>& D,
    const std::optional<at::Tensor>& delta_bias, const std::optional<at::Tensor>& order, const c10::List<bool>& reverse,
    bool delta_softplus) {
  SelectiveScanInputs inputs(at::kCPU, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus);
  SelectiveScanParams& p = inputs.params;
  check_permutation_range(order, p.length);
  at::Tensor y = at::empty({p.batch, p.groups, p.length, p.channels}, u.options());
  at::Tensor last_state = at::empty({p.batch, p.groups * p.inner, p.channels, p.states}, A.options());
  p.y = y.data_ptr();
  p.last_state = last_state.data_ptr();
  SSM_DISPATCH(u.scalar_type(), "selective_scan", [&] {
    at::parallel_for(0, tasks(p), 1, [&](int64_t begin, int64_t end) {
      std::vector<acc_t<scalar_t>> sum(p.length * kWidth);
      for (int64_t index = begin; index < end; ++index) forward_task<scalar_t>(p, index, sum);
    });
  });
  return {y, last_state};
}

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Gradients backward(const at::Tensor& grad_y, const std::optional<at::Tensor>& grad_last_state, const at::Tensor& u,
    const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B, const at::Tensor& C,
    const std::optional<at::Tensor>& D, const std::optional<at::Tensor>& delta_bias,
    const std::optional<at::Tensor>& order, const c10::List<bool>& reverse, bool delta_softplus) {
  SelectiveScanInputs inputs(at::kCPU, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus);
  const SelectiveScanParams& p = inputs.params;
  check_permutation_range(order, p.length);
  const int64_t K = p.groups * p.inner;
  const SelectiveScanUpstream upstream(p, grad_y, grad_last_state, u, A);
  const auto options = A.options();
  at::Tensor grad_u = at::empty({p.batch, p.groups, p.length, p.channels}, u.options());
  at::Tensor grad_delta = at::empty({p.batch, K, p.length, p.channels}, u.options());
  at::Tensor grad_B = at::empty({channel_blocks(p), p.batch, K, p.length, p.states}, options);
  at::Tensor grad_C = at::empty_like(grad_B);
  at::Tensor grad_A = at::empty({p.batch, K, p.channels, p.states}, options);
  at::Tensor grad_D = at::empty({p.batch, K, p.channels}, options);
  at::Tensor grad_bias = at::empty_like(grad_D);
  SelectiveScanGradients g{upstream.grad_y_data(), upstream.grad_last_state_data(), grad_u.data_ptr(),
      grad_delta.data_ptr(), grad_B.data_ptr(), grad_C.data_ptr(), grad_A.data_ptr(), grad_D.data_ptr(),
      grad_bias.data_ptr()};
  SSM_DISPATCH(u.scalar_type(), "selective_scan_backward", [&] {
    at::parallel_for(0, tasks(p), 1, [&](int64_t begin, int64_t end) {
      BackwardScratch<acc_t<scalar_t>> scratch(p);
      for (int64_t index = begin; index < end; ++index) backward_task<scalar_t>(p, g, index, scratch);
    });
  });
  return {grad_u, grad_delta, grad_A.sum(0), grad_B.sum(0).to(u.scalar_type()), grad_C.sum(0).to(u.scalar_type()),
      grad_D.sum(0), grad_bias.sum(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(ssm_core, CPU, m) {
  m.impl("selective_scan", &forward);
  m.impl("selective_scan_backward", &backward);
}

}  // namespace ssm
