// The backward pass of the selective scan on the CPU: it computes the states again, and then goes through every
// direction from its last tile to its first.
#pragma once

#include "selective_scan/cpu/tile.h"

namespace ssm::selective {

// Scratch of one thread in the backward pass.
template <typename acc>
struct BackwardScratch {
  explicit BackwardScratch(const SelectiveScanParams& p)
      : size(p.states * kWidth),
        states((p.length + 1) * size),
        dt(p.length * kWidth),
        slope(p.length * kWidth),
        grad_u(p.length * kWidth),
        carry(size),
        grad_A(size),
        grad_A_partial(size),
        direction(p) {
    std::fill_n(states.data(), size, acc(0));
  }
  int64_t size;        // N · kWidth
  Buffer<acc> states;  // [1 + L, N, kWidth]: zeros, then every state of the forward pass
  Buffer<acc> dt;      // [L, kWidth], after softplus
  Buffer<acc> slope;   // [L, kWidth], the derivative of softplus
  Buffer<acc> grad_u;  // [L, kWidth], summed over the group's directions
  Buffer<acc> carry;   // [N, kWidth], gradient of the state
  Buffer<acc> grad_A;  // [N, kWidth]
  Buffer<acc> grad_A_partial;
  alignas(64) acc grad_D[kWidth];
  alignas(64) acc grad_D_partial[kWidth];
  alignas(64) acc grad_bias[kWidth];
  alignas(64) acc grad_bias_partial[kWidth];
  Direction<acc> direction;
  Tile<acc> tile;
  TileInput<acc> grad_y;
  alignas(64) TileRows<acc> tile_grad_u;
  alignas(64) TileRows<acc> tile_grad_dt;

  SSM_INLINE void start_sums() {
    for (int c = 0; c < kWidth; ++c) grad_D[c] = grad_D_partial[c] = grad_bias[c] = grad_bias_partial[c] = acc(0);
    std::fill_n(grad_A.data(), size, acc(0));
    std::fill_n(grad_A_partial.data(), size, acc(0));
  }

  SSM_INLINE void add_partial_sums() {
    for (int c = 0; c < kWidth; ++c) {
      grad_D[c] += grad_D_partial[c];
      grad_bias[c] += grad_bias_partial[c];
      grad_D_partial[c] = grad_bias_partial[c] = acc(0);
    }
    for (int64_t i = 0; i < size; ++i) {
      grad_A.data()[i] += grad_A_partial.data()[i];
      grad_A_partial.data()[i] = acc(0);
    }
  }
};

// Computes the states of the forward pass again, and Δ.
template <typename scalar_t>
SSM_INLINE void recompute_states(
    const SelectiveScanParams& p, const Task& task, int64_t k, BackwardScratch<acc_t<scalar_t>>& s) {
  using acc = acc_t<scalar_t>;
  const scalar_t* const u = row_of<scalar_t>(p.u, p.u_stride, task.batch, task.group, 0) + task.channel;
  const scalar_t* const delta = row_of<scalar_t>(p.delta, p.delta_stride, task.batch, k, 0) + task.channel;
  const scalar_t* const B = row_of<scalar_t>(p.B, p.B_stride, task.batch, k, 0);
  Tile<acc>& tile = s.tile;
  for (int64_t first = 0; first < p.length; first += kTile) {
    acc* const dt = s.dt.data() + first * kWidth;
    tile.find_tokens(p, task.batch, k, first);
    tile.u.read(u, p.u_stride.token, tile.token, tile.count, task.width);
    tile.delta.read(delta, p.delta_stride.token, tile.token, tile.count, task.width);
    fetch_tokens(p, task.batch, k, first + kTile, [&](int64_t token) __attribute__((always_inline)) {
      fetch_row(u + token * p.u_stride.token);
      fetch_row(delta + token * p.delta_stride.token);
    });
    tile.template time_steps<true>(s.direction.bias, p.delta_softplus, dt, s.slope.data() + first * kWidth);
    for (int64_t n = 0; n < p.states; ++n) {
      tile.decays(dt, s.direction.A.data() + n * kWidth);
      acc* states = s.states.data() + first * s.size + n * kWidth;
      Vec<acc> h[kVectors<acc>];
      for (int v = 0; v < kVectors<acc>; ++v) h[v] = load(states + v * kLanesOf<acc>);
      for (int i = 0; i < tile.count; ++i) {
        const acc b = static_cast<acc>(B[tile.token[i] * p.B_stride.token + n * p.B_stride.last]);
        states += s.size;
        for (int v = 0; v < kVectors<acc>; ++v) {
          const int c = v * kLanesOf<acc>;
          h[v] = load(tile.decay[i] + c) * h[v] + load(dt + i * kWidth + c) * load(tile.u[i] + c) * b;
          store(states + c, h[v]);
        }
      }
    }
  }
}

// Walks one state of one direction from the last token of the tile to the first. Adds to the gradients of Δ, u and A,
// and writes the block's share of those of B and C, [L, N].
template <typename scalar_t, typename acc>
SSM_INLINE void walk_back(const SelectiveScanParams& p, BackwardScratch<acc>& s, int64_t first, int64_t n,
    const scalar_t* B, const scalar_t* C, acc* grad_B, acc* grad_C) {
  const Tile<acc>& tile = s.tile;
  const acc* const A = s.direction.A.data() + n * kWidth;
  acc *const carries = s.carry.data() + n * kWidth, *const grad_As = s.grad_A_partial.data() + n * kWidth;
  Vec<acc> carry[kVectors<acc>], grad_A[kVectors<acc>];
  for (int v = 0; v < kVectors<acc>; ++v) {
    carry[v] = load(carries + v * kLanesOf<acc>);
    grad_A[v] = load(grad_As + v * kLanesOf<acc>);
  }
  for (int i = tile.count - 1; i >= 0; --i) {
    const int64_t token = tile.token[i];
    const acc b = static_cast<acc>(B[token * p.B_stride.token + n * p.B_stride.last]);
    const acc weight = static_cast<acc>(C[token * p.C_stride.token + n * p.C_stride.last]);
    const acc* const before = s.states.data() + (first + i) * s.size + n * kWidth;
    const acc* const dts = s.dt.data() + (first + i) * kWidth;
    Vec<acc> to_B[kVectors<acc>], to_C[kVectors<acc>];
    for (int v = 0; v < kVectors<acc>; ++v) {
      const int c = v * kLanesOf<acc>;
      const Vec<acc> gy = load(s.grad_y[i] + c), u = load(tile.u[i] + c), dt = load(dts + c);
      const Vec<acc> gh = carry[v] + gy * weight;
      carry[v] = gh * load(tile.decay[i] + c);
      const Vec<acc> grad_exponent = carry[v] * load(before + c), drive = gh * b, gh_dt = gh * dt;
      grad_A[v] += grad_exponent * dt;
      store(s.tile_grad_dt[i] + c, load(s.tile_grad_dt[i] + c) + (grad_exponent * load(A + c) + drive * u));
      store(s.tile_grad_u[i] + c, load(s.tile_grad_u[i] + c) + drive * dt);
      to_B[v] = gh_dt * u;
      to_C[v] = gy * load(before + s.size + c);
    }
    grad_B[token * p.states + n] = sum_row(to_B);
    grad_C[token * p.states + n] = sum_row(to_C);
  }
  for (int v = 0; v < kVectors<acc>; ++v) {
    store(carries + v * kLanesOf<acc>, carry[v]);
    store(grad_As + v * kLanesOf<acc>, grad_A[v]);
  }
}

// Starts the tile's gradients with what D gives, and adds to that of D.
template <typename acc>
SSM_INLINE void begin_gradients(BackwardScratch<acc>& s) {
  for (int i = s.tile.count - 1; i >= 0; --i) {
    for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
      const Vec<acc> gy = load(s.grad_y[i] + c);
      store(s.grad_D_partial + c, load(s.grad_D_partial + c) + gy * load(s.tile.u[i] + c));
      store(s.tile_grad_u[i] + c, gy * load(s.direction.D + c));
      store(s.tile_grad_dt[i] + c, Vec<acc>{});
    }
  }
}

// Takes the gradient of Δ through softplus, and moves the tile's gradients to their tensors.
template <typename scalar_t, typename acc>
SSM_INLINE void end_gradients(const SelectiveScanParams& p, const Task& task, BackwardScratch<acc>& s, int64_t first,
    scalar_t* grad_delta, const Rows<acc>& grad_u, bool is_first) {
  for (int i = s.tile.count - 1; i >= 0; --i) {
    const int64_t token = s.tile.token[i];
    const acc* const slope = s.slope.data() + (first + i) * kWidth;
    for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
      Vec<acc> grad = load(s.tile_grad_dt[i] + c);
      if (p.delta_softplus) grad *= load(slope + c);
      store(s.tile_grad_dt[i] + c, grad);
      store(s.grad_bias_partial + c, load(s.grad_bias_partial + c) + grad);
      const Vec<acc> of_u = load(s.tile_grad_u[i] + c);
      store(grad_u[token] + c, is_first ? of_u : load(grad_u[token] + c) + of_u);
    }
    store_row(grad_delta + token * p.channels, s.tile_grad_dt[i], task.width);
  }
}

template <typename scalar_t>
SSM_INLINE void backward_direction(const SelectiveScanParams& p, const SelectiveScanGradients& g, const Task& task,
    int64_t k, BackwardScratch<acc_t<scalar_t>>& s, const Rows<acc_t<scalar_t>>& grad_u) {
  using acc = acc_t<scalar_t>;
  const int64_t K = p.groups * p.inner;
  const int64_t sequence = task.batch * K + k;
  const int64_t block = task.channel / kWidth;
  const int64_t group = task.batch * p.groups + task.group;
  acc* const grad_B = static_cast<acc*>(g.grad_B) + (block * p.batch * K + sequence) * p.length * p.states;
  acc* const grad_C = static_cast<acc*>(g.grad_C) + (block * p.batch * K + sequence) * p.length * p.states;
  const scalar_t* const u = row_of<scalar_t>(p.u, p.u_stride, task.batch, task.group, 0) + task.channel;
  const scalar_t* const B = row_of<scalar_t>(p.B, p.B_stride, task.batch, k, 0);
  const scalar_t* const C = row_of<scalar_t>(p.C, p.C_stride, task.batch, k, 0);
  const scalar_t* const grad_y = static_cast<const scalar_t*>(g.grad_y) + group * p.length * p.channels + task.channel;
  scalar_t* const grad_delta = static_cast<scalar_t*>(g.grad_delta) + sequence * p.length * p.channels + task.channel;

  s.start_sums();
  for (int64_t n = 0; n < p.states; ++n) {
    for (int c = 0; c < kWidth; ++c) {
      const int64_t at_state = (sequence * p.channels + task.channel + c) * p.states + n;
      const bool given = g.grad_last_state != nullptr && c < task.width;
      s.carry.data()[n * kWidth + c] = given ? static_cast<const acc*>(g.grad_last_state)[at_state] : acc(0);
    }
  }
  for (int64_t first = (p.length - 1) / kTile * kTile; first >= 0; first -= kTile) {
    s.tile.find_tokens(p, task.batch, k, first);
    s.tile.u.read(u, p.u_stride.token, s.tile.token, s.tile.count, task.width);
    s.grad_y.read(grad_y, p.channels, s.tile.token, s.tile.count, task.width);
    fetch_tokens(p, task.batch, k, first - kTile, [&](int64_t token) __attribute__((always_inline)) {
      fetch_row(u + token * p.u_stride.token);
      fetch_row(grad_y + token * p.channels);
      fetch_row(grad_delta + token * p.channels);
      fetch_row(grad_u[token]);
    });
    begin_gradients(s);
    for (int64_t n = 0; n < p.states; ++n) {
      s.tile.decays(s.dt.data() + first * kWidth, s.direction.A.data() + n * kWidth);
      walk_back(p, s, first, n, B, C, grad_B, grad_C);
    }
    end_gradients(p, task, s, first, grad_delta, grad_u, k % p.inner == 0);
    if (first % kPartial == 0) s.add_partial_sums();
  }

  const int64_t row = sequence * p.channels + task.channel;
  for (int c = 0; c < task.width; ++c) {
    static_cast<acc*>(g.grad_D)[row + c] = s.grad_D[c];
    static_cast<acc*>(g.grad_delta_bias)[row + c] = s.grad_bias[c];
    for (int64_t n = 0; n < p.states; ++n) {
      static_cast<acc*>(g.grad_A)[(row + c) * p.states + n] = s.grad_A.data()[n * kWidth + c];
    }
  }
}

template <typename scalar_t>
SSM_MULTIVERSION void backward_task(
    const SelectiveScanParams& p, const SelectiveScanGradients& g, int64_t index, BackwardScratch<acc_t<scalar_t>>& s) {
  const Task task = task_at(p, index);
  scalar_t* const output =
      static_cast<scalar_t*>(g.grad_u) + (task.batch * p.groups + task.group) * p.length * p.channels + task.channel;
  const Rows<acc_t<scalar_t>> grad_u = working_rows(p, task, output, s.grad_u.data());
  for (int64_t i = 0; i < p.inner; ++i) {
    const int64_t k = task.group * p.inner + i;
    s.direction.read(p, k, task);
    recompute_states<scalar_t>(p, task, k, s);
    backward_direction<scalar_t>(p, g, task, k, s, grad_u);
  }
  finish_rows(p, task, output, grad_u);
}

}  // namespace ssm::selective
