// Selective scan on the CPU. One task is one sample, one group and one block of WIDTH channels; it walks the tokens of
// each of the group's directions in that direction's order, all channels of the block at once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "../dispatch.h"
#include "../selective_scan_inputs.h"
#include "vector_math.h"

namespace ssm {
namespace {

constexpr int kWidth = 32;
// Tokens that are worked on together: what does not depend on the state is computed for all of them before the state
// walks through them, so that the processor waits neither for the long chains of an exponential nor for the state.
constexpr int kTile = 16;
// Sums over the tokens go through partial sums of this many, which keeps float32 as exact as PyTorch's pairwise sums.
constexpr int kPartial = 64;
static_assert(kPartial % kTile == 0);

template <typename acc>
constexpr int kVectors = kWidth / kLanesOf<acc>;

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

// Uninitialised memory that begins with a cache line.
template <typename acc>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<acc*>(::operator new(size * sizeof(acc), kAlignment))) {}
  acc* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(acc* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<acc[], Delete> data_;
};

// The parameters of one direction for one block of channels.
template <typename acc>
struct Direction {
  explicit Direction(const SelectiveScanParams& p) : A(p.states * kWidth) {}
  alignas(64) acc D[kWidth];
  alignas(64) acc bias[kWidth];
  Buffer<acc> A;  // [N, kWidth]

  SSM_INLINE void read(const SelectiveScanParams& p, int64_t k, const Task& task) {
    const int64_t row = k * p.channels + task.channel;
    for (int c = 0; c < kWidth; ++c) {
      const bool inside = c < task.width;
      D[c] = inside && p.D ? static_cast<const acc*>(p.D)[row + c] : acc(0);
      bias[c] = inside && p.delta_bias ? static_cast<const acc*>(p.delta_bias)[row + c] : acc(0);
      for (int64_t n = 0; n < p.states; ++n) {
        A.data()[n * kWidth + c] = inside ? static_cast<const acc*>(p.A)[(row + c) * p.states + n] : acc(0);
      }
    }
  }
};

// Rows of kWidth channels, a token each.
template <typename acc>
struct Rows {
  acc* data;
  int64_t stride;
  SSM_INLINE acc* operator[](int64_t token) const { return data + token * stride; }
};

// The rows of a block in `output` where they can be summed in place, else in `scratch`.
template <typename scalar_t>
SSM_INLINE Rows<acc_t<scalar_t>> working_rows(
    const SelectiveScanParams& p, const Task& task, scalar_t* output, acc_t<scalar_t>* scratch) {
  if constexpr (std::is_same_v<scalar_t, acc_t<scalar_t>>) {
    if (task.width == kWidth) return {output, p.channels};
  }
  return {scratch, kWidth};
}

template <typename scalar_t>
SSM_INLINE void finish_rows(
    const SelectiveScanParams& p, const Task& task, scalar_t* output, const Rows<acc_t<scalar_t>>& rows) {
  if (static_cast<const void*>(rows.data) == output) return;
  for (int64_t token = 0; token < p.length; ++token) {
    acc_t<scalar_t> row[kWidth];
    load_row(row, rows[token], kWidth);
    store_row(output + token * p.channels, row, task.width);
  }
}

template <typename scalar_t>
SSM_INLINE const scalar_t* at(const void* base, const Strides& s, int64_t batch, int64_t group, int64_t token) {
  return static_cast<const scalar_t*>(base) + batch * s.batch + group * s.group + token * s.token;
}

template <typename acc>
using TileRows = acc[kTile][kWidth];

// The rows of a tile's tokens in one tensor: where they lie, or converted to the accumulate type.
template <typename acc>
struct TileInput {
  const acc* row[kTile];
  alignas(64) TileRows<acc> converted;

  SSM_INLINE const acc* operator[](int i) const { return row[i]; }

  template <typename scalar_t>
  SSM_INLINE void read(const scalar_t* first, int64_t stride, const int64_t* token, int count, int width) {
    for (int i = 0; i < count; ++i) {
      const scalar_t* const source = first + token[i] * stride;
      if constexpr (std::is_same_v<scalar_t, acc>) {
        row[i] = source;
        if (width == kWidth) continue;
      }
      load_row(converted[i], source, width);
      row[i] = converted[i];
    }
  }
};

template <typename T>
SSM_INLINE void fetch_row(const T* row) {
  for (int c = 0; c < kWidth; c += 64 / sizeof(T)) __builtin_prefetch(row + c);
}

SSM_INLINE int64_t token_at(const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t step) {
  const int64_t t = p.reverse[k] ? p.length - 1 - step : step;
  if (p.order == nullptr) return t;
  return p.order[batch * p.order_stride.batch + k * p.order_stride.group + t * p.order_stride.token];
}

// Asks for the rows of the tile that begins with this step, where there is one: along an order the processor cannot
// guess them.
template <typename Function>
SSM_INLINE void fetch_tokens(
    const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t first, const Function& fetch) {
  if (first < 0) return;
  for (int64_t step = first; step < std::min(first + kTile, p.length); ++step) fetch(token_at(p, batch, k, step));
}

// Up to kTile successive steps of one direction, and what is computed for all of them.
template <typename acc>
struct Tile {
  int count;
  int64_t token[kTile];
  TileInput<acc> u, delta;
  alignas(64) TileRows<acc> dt;     // Δ
  alignas(64) TileRows<acc> decay;  // exp(Δ·A) of one state

  SSM_INLINE void find_tokens(const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t first) {
    count = static_cast<int>(std::min<int64_t>(kTile, p.length - first));
    for (int i = 0; i < count; ++i) token[i] = token_at(p, batch, k, first + i);
  }

  // Δ = softplus(delta + bias) into `steps`, its derivative into `slope`, where asked for; [count, kWidth].
  template <bool with_slope>
  SSM_INLINE void time_steps(const acc* bias, bool with_softplus, acc* steps, acc* slope) {
    const int tokens = count;
    if (!with_softplus) {
      for (int i = 0; i < tokens; ++i) {
        for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
          store(steps + i * kWidth + c, load(delta[i] + c) + load(bias + c));
        }
      }
      return;
    }
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
        const Vec<acc> x = load(delta[i] + c) + load(bias + c);
        store(steps + i * kWidth + c, x);
        store(decay[i] + c, decaying_part(x));
      }
    }
    const acc* const e = decay[0];
    for (int c = 0; c < tokens * kWidth; c += kLanesOf<acc>) {
      const Vec<acc> x = load(steps + c), part = load(e + c);
      if constexpr (with_slope) store(slope + c, sigmoid(x, part));
      store(steps + c, softplus(x, part));
    }
  }

  SSM_INLINE void decays(const acc* steps, const acc* A) {
    const int tokens = count;
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
        store(decay[i] + c, exponential(load(steps + i * kWidth + c) * load(A + c)));
      }
    }
  }
};

// h ← exp(Δ·A)·h + Δ·B·u for one state of the block through the tile, which holds the decays; y += C·h. With the first
// state comes y += D·u, by the first direction y = D·u.
template <bool is_first_state, typename scalar_t, typename acc>
SSM_INLINE void walk(const Tile<acc>& tile, acc* state, const scalar_t* B, int64_t B_stride, const scalar_t* C,
    int64_t C_stride, const acc* D, const Rows<acc>& y, bool is_first_direction) {
  const int tokens = tile.count;
  Vec<acc> h[kVectors<acc>];
  for (int v = 0; v < kVectors<acc>; ++v) h[v] = load(state + v * kLanesOf<acc>);
  for (int i = 0; i < tokens; ++i) {
    const int64_t token = tile.token[i];
    const acc b = static_cast<acc>(B[token * B_stride]), weight = static_cast<acc>(C[token * C_stride]);
    const acc* const inputs = tile.u[i];
    acc* const out = y[token];
    for (int v = 0; v < kVectors<acc>; ++v) {
      const int c = v * kLanesOf<acc>;
      const Vec<acc> u = load(inputs + c);
      h[v] = load(tile.decay[i] + c) * h[v] + load(tile.dt[i] + c) * u * b;
      Vec<acc> sum = is_first_state && is_first_direction ? Vec<acc>{} : load(out + c);
      if constexpr (is_first_state) sum += load(D + c) * u;
      store(out + c, sum + h[v] * weight);
    }
  }
  for (int v = 0; v < kVectors<acc>; ++v) store(state + v * kLanesOf<acc>, h[v]);
}

template <typename acc>
struct ForwardScratch {
  explicit ForwardScratch(const SelectiveScanParams& p)
      : sum(p.length * kWidth), state(p.states * kWidth), direction(p) {}
  Buffer<acc> sum;    // [L, kWidth], summed over the group's directions
  Buffer<acc> state;  // [N, kWidth]
  Direction<acc> direction;
  Tile<acc> tile;
};

template <typename scalar_t>
SSM_MULTIVERSION void forward_task(const SelectiveScanParams& p, int64_t index, ForwardScratch<acc_t<scalar_t>>& s) {
  using acc = acc_t<scalar_t>;
  const Task task = task_at(p, index);
  Tile<acc>& tile = s.tile;
  scalar_t* const output =
      static_cast<scalar_t*>(p.y) + (task.batch * p.groups + task.group) * p.length * p.channels + task.channel;
  const Rows<acc> y = working_rows(p, task, output, s.sum.data());
  const scalar_t* const u = at<scalar_t>(p.u, p.u_stride, task.batch, task.group, 0) + task.channel;

  for (int64_t i = 0; i < p.inner; ++i) {
    const int64_t k = task.group * p.inner + i;
    const scalar_t* const delta = at<scalar_t>(p.delta, p.delta_stride, task.batch, k, 0) + task.channel;
    const scalar_t* const B = at<scalar_t>(p.B, p.B_stride, task.batch, k, 0);
    const scalar_t* const C = at<scalar_t>(p.C, p.C_stride, task.batch, k, 0);
    s.direction.read(p, k, task);
    std::fill_n(s.state.data(), p.states * kWidth, acc(0));
    for (int64_t first = 0; first < p.length; first += kTile) {
      tile.find_tokens(p, task.batch, k, first);
      tile.u.read(u, p.u_stride.token, tile.token, tile.count, task.width);
      tile.delta.read(delta, p.delta_stride.token, tile.token, tile.count, task.width);
      fetch_tokens(p, task.batch, k, first + kTile, [&](int64_t token) __attribute__((always_inline)) {
        fetch_row(u + token * p.u_stride.token);
        fetch_row(delta + token * p.delta_stride.token);
        fetch_row(y[token]);
      });
      tile.template time_steps<false>(s.direction.bias, p.delta_softplus, tile.dt[0], nullptr);
      for (int64_t n = 0; n < p.states; ++n) {
        tile.decays(tile.dt[0], s.direction.A.data() + n * kWidth);
        acc* const h = s.state.data() + n * kWidth;
        const scalar_t *const b = B + n * p.B_stride.last, *const c = C + n * p.C_stride.last;
        if (n == 0) {
          walk<true>(tile, h, b, p.B_stride.token, c, p.C_stride.token, s.direction.D, y, i == 0);
        } else {
          walk<false>(tile, h, b, p.B_stride.token, c, p.C_stride.token, s.direction.D, y, i == 0);
        }
      }
    }
    const int64_t row = (task.batch * p.groups * p.inner + k) * p.channels + task.channel;
    for (int c = 0; c < task.width; ++c) {
      for (int64_t n = 0; n < p.states; ++n) {
        static_cast<acc*>(p.last_state)[(row + c) * p.states + n] = s.state.data()[n * kWidth + c];
      }
    }
  }
  finish_rows(p, task, output, y);
}

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

// The states of the forward pass, one after the other, and Δ.
template <typename scalar_t>
SSM_INLINE void recompute_states(
    const SelectiveScanParams& p, const Task& task, int64_t k, BackwardScratch<acc_t<scalar_t>>& s) {
  using acc = acc_t<scalar_t>;
  const scalar_t* const u = at<scalar_t>(p.u, p.u_stride, task.batch, task.group, 0) + task.channel;
  const scalar_t* const delta = at<scalar_t>(p.delta, p.delta_stride, task.batch, k, 0) + task.channel;
  const scalar_t* const B = at<scalar_t>(p.B, p.B_stride, task.batch, k, 0);
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

// One state of one direction, from the last token of the tile to the first: what it adds to the gradients of Δ, u and A,
// and the block's share of those of B and C, [L, N].
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

// The tile's gradients as far as D alone makes them, and that of D.
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

// From Δ to what softplus was taken of, and out of the tile.
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
  const scalar_t* const u = at<scalar_t>(p.u, p.u_stride, task.batch, task.group, 0) + task.channel;
  const scalar_t* const B = at<scalar_t>(p.B, p.B_stride, task.batch, k, 0);
  const scalar_t* const C = at<scalar_t>(p.C, p.C_stride, task.batch, k, 0);
  const scalar_t* const grad_y =
      static_cast<const scalar_t*>(g.grad_y) + group * p.length * p.channels + task.channel;
  scalar_t* const grad_delta =
      static_cast<scalar_t*>(g.grad_delta) + sequence * p.length * p.channels + task.channel;

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
      ForwardScratch<acc_t<scalar_t>> scratch(p);
      for (int64_t index = begin; index < end; ++index) forward_task<scalar_t>(p, index, scratch);
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
