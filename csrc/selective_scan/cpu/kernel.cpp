// The selective scan on the CPU. A task is one sample, one group and one block of kWidth channels. For each of the
// group's directions it walks the tokens in that direction's order, tile after tile, all channels of the block at once.

#include <algorithm>
#include <vector>

#include "selective_scan/cpu/backward.h"
#include "selective_scan/cpu/tile.h"
#include "selective_scan/inputs.h"

namespace ssm {
namespace {

using namespace selective;

// Walks one state of the block through the tile, which holds the decays: h ← exp(Δ·A)·h + Δ·B·u and y += C·h. The first
// state also adds D·u to y, and the first direction's sets y.
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
      : sum(p.length * kWidth),
        state(p.states * kWidth),
        direction(p) {}
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
  const scalar_t* const u = row_of<scalar_t>(p.u, p.u_stride, task.batch, task.group, 0) + task.channel;

  for (int64_t i = 0; i < p.inner; ++i) {
    const int64_t k = task.group * p.inner + i;
    const scalar_t* const delta = row_of<scalar_t>(p.delta, p.delta_stride, task.batch, k, 0) + task.channel;
    const scalar_t* const B = row_of<scalar_t>(p.B, p.B_stride, task.batch, k, 0);
    const scalar_t* const C = row_of<scalar_t>(p.C, p.C_stride, task.batch, k, 0);
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

enum class OrderFault : uint8_t { kNone, kRange, kRepeated };

// `seen` has an element for each token.
OrderFault fault_of(const int64_t* order, int64_t stride, std::vector<char>& seen) {
  const int64_t length = static_cast<int64_t>(seen.size());
  std::fill(seen.begin(), seen.end(), 0);
  OrderFault fault = OrderFault::kNone;
  for (int64_t i = 0; i < length; ++i) {
    const int64_t token = order[i * stride];
    if (token < 0 || token >= length) return OrderFault::kRange;
    if (seen[token]) fault = OrderFault::kRepeated;
    seen[token] = 1;
  }
  return fault;
}

// The kernel reads and writes at these tokens, and it writes no others: an index out of range would lead out of the
// tensors, and an output that the order leaves out would never be written. Rows that are the same memory are read once.
void check_order(const SelectiveScanParams& p) {
  if (p.order == nullptr || p.channels == 0) return;
  const Strides& s = p.order_stride;
  const int64_t samples = s.batch == 0 ? std::min<int64_t>(p.batch, 1) : p.batch;
  const int64_t directions = s.group == 0 ? 1 : p.groups * p.inner, rows = samples * directions;
  std::vector<OrderFault> faults(rows);
  torch::stable::parallel_for(0, rows, 1 + 32768 / p.length, [&](int64_t begin, int64_t end) {
    std::vector<char> seen(p.length);
    for (int64_t row = begin; row < end; ++row) {
      faults[row] = fault_of(p.order + row / directions * s.batch + row % directions * s.group, s.token, seen);
    }
  });
  for (OrderFault fault : faults) {
    SSM_CHECK_INDEX(fault != OrderFault::kRange, "order must hold token indices from 0 to ", p.length - 1);
    SSM_CHECK_VALUE(fault != OrderFault::kRepeated, "order must list every token once in each row");
  }
}

int64_t channel_blocks(const SelectiveScanParams& p) {
  return (p.channels + kWidth - 1) / kWidth;
}
int64_t tasks(const SelectiveScanParams& p) {
  return p.batch * p.groups * channel_blocks(p);
}

std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const std::optional<Tensor>& D, const std::optional<Tensor>& delta_bias,
    const std::optional<Tensor>& order, const std::vector<bool>& reverse, bool delta_softplus) {
  SelectiveScanInputs inputs(kCPU, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus);
  SelectiveScanParams& p = inputs.params;
  Tensor y = empty({p.batch, p.groups, p.length, p.channels}, u);
  Tensor last_state = empty({p.batch, p.groups * p.inner, p.channels, p.states}, A);
  p.y = y.data_ptr();
  p.last_state = last_state.data_ptr();
  check_order(p);
  SSM_DISPATCH(u.scalar_type(), "selective_scan", [&] {
    torch::stable::parallel_for(0, tasks(p), 1, [&](int64_t begin, int64_t end) {
      ForwardScratch<acc_t<scalar_t>> scratch(p);
      for (int64_t index = begin; index < end; ++index) forward_task<scalar_t>(p, index, scratch);
    });
  });
  return {y, last_state};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients backward(const Tensor& grad_y, const std::optional<Tensor>& grad_last_state, const Tensor& u,
    const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const std::optional<Tensor>& D,
    const std::optional<Tensor>& delta_bias, const std::optional<Tensor>& order, const std::vector<bool>& reverse,
    bool delta_softplus) {
  SelectiveScanInputs inputs(kCPU, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus);
  const SelectiveScanParams& p = inputs.params;
  const int64_t K = p.groups * p.inner;
  const SelectiveScanUpstream upstream(p, grad_y, grad_last_state, u, A);
  Tensor grad_u = empty({p.batch, p.groups, p.length, p.channels}, u);
  Tensor grad_delta = empty({p.batch, K, p.length, p.channels}, u);
  Tensor grad_B = empty({channel_blocks(p), p.batch, K, p.length, p.states}, A);
  Tensor grad_C = empty(grad_B.sizes(), grad_B);
  Tensor grad_A = empty({p.batch, K, p.channels, p.states}, A);
  Tensor grad_D = empty({p.batch, K, p.channels}, A);
  Tensor grad_bias = empty(grad_D.sizes(), grad_D);
  SelectiveScanGradients g{upstream.grad_y_data(), upstream.grad_last_state_data(), grad_u.data_ptr(),
      grad_delta.data_ptr(), grad_B.data_ptr(), grad_C.data_ptr(), grad_A.data_ptr(), grad_D.data_ptr(),
      grad_bias.data_ptr()};
  check_order(p);
  SSM_DISPATCH(u.scalar_type(), "selective_scan_backward", [&] {
    torch::stable::parallel_for(0, tasks(p), 1, [&](int64_t begin, int64_t end) {
      BackwardScratch<acc_t<scalar_t>> scratch(p);
      for (int64_t index = begin; index < end; ++index) backward_task<scalar_t>(p, g, index, scratch);
    });
  });
  return {grad_u, grad_delta, sum_parts(grad_A), cast(sum_parts(grad_B), u.scalar_type()),
      cast(sum_parts(grad_C), u.scalar_type()), sum_parts(grad_D), sum_parts(grad_bias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssm_core, CPU, m) {
  m.impl("selective_scan", TORCH_BOX(&forward));
  m.impl("selective_scan_backward", TORCH_BOX(&backward));
}

}  // namespace ssm
