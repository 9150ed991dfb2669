// Host side of the selective scan on the GPU: how a call is cut into launches. The kernels are in forward.cuh and
// backward.cuh.

#include <algorithm>
#include <limits>

#include "common/cuda/launch.h"
#include "common/cuda/token_rows.h"
#include "common/dispatch.h"
#include "selective_scan/cuda/memory.h"
#include "selective_scan/cuda/states_plan.h"
#include "selective_scan/cuda/unvisited.h"
#include "selective_scan/inputs.h"

namespace ssm {
namespace {

// Whether rows of channels begin at multiples of 16 bytes, and have a multiple of 16 bytes.
bool is_aligned(const SelectiveScanParams& p, const void* grad_y, int64_t item) {
  const int64_t width = 16 / item;
  bool fits = p.channels % width == 0;
  for (const Strides& s : {p.u_stride, p.delta_stride}) {
    fits = fits && s.batch % width == 0 && s.group % width == 0 && s.token % width == 0;
  }
  for (const void* data : {p.u, p.delta, grad_y}) fits = fits && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  return fits;
}

// Bytes of shared memory that a block takes.
size_t block_bytes(const BlockShape& shape, ScalarType type, bool backward) {
  size_t bytes = 0;
  SSM_DISPATCH(type, "selective_scan",
      [&] { bytes = backward ? backward_bytes<scalar_t>(shape) : forward_bytes<scalar_t>(shape); });
  return bytes;
}

// What every launch of a call has in common. `grad_y` is null in the forward pass.
ScanLaunch common_launch(const SelectiveScanParams& p, const Tensor& u, const void* grad_y) {
  const int64_t directions = p.groups * p.inner;
  SSM_CHECK(directions <= kMaxDirections, "selective_scan: at most ", kMaxDirections, " directions on the GPU, got ",
      directions);
  SSM_CHECK(p.length <= std::numeric_limits<int>::max(), "selective_scan: the sequence is too long");
  for (int64_t stride : {p.u_stride.token, p.delta_stride.token, p.B_stride.token, p.C_stride.token, p.channels}) {
    SSM_CHECK(stride * u.element_size() <= std::numeric_limits<int>::max(),
        "selective_scan: there must be at most 2^31 bytes from token to token");
  }
  ScanLaunch launch = {};
  launch.p = p;
  launch.p.reverse = nullptr;
  for (int64_t k = 0; k < directions; ++k) {
    if (p.reverse[k]) launch.reverse[k / 32] |= 1u << (k % 32);
  }
  launch.aligned = is_aligned(p, grad_y, u.element_size());
  launch.stream = current_stream();
  return launch;
}

// Everything of a launch but the outputs, the workspace and which directions it takes. One state a channel;
// states_plan.h has the plan for many.
class Plan {
 public:
  Plan(const ScanLaunch& launch, const Tensor& u, bool backward) : like_(u), launch_(launch), backward_(backward) {
    const SelectiveScanParams& p = launch_.p;
    launch_.tiles = static_cast<int>(ceil_div(p.channels, tile_channels(u.element_size())));
    one_order_ = p.order == nullptr || p.inner == 1 || p.order_stride.group == 0;
    cut_sequence();
    share_tiles();
  }

  const ScanLaunch& launch() const { return launch_; }

  // Calls `run` for each launch: one with all inner directions if blocks can hold them, or else one for each direction,
  // with the sums over directions in between.
  template <typename Run>
  void for_each_pass(const Run& run) {
    const SelectiveScanParams& p = launch_.p;
    const bool at_once = takes_all_at_once(launch_.chunks);
    const int64_t passes = at_once ? 1 : p.inner;
    if (passes > 1) {
      sum_ = empty({p.batch, p.groups, p.length, p.channels}, like_, sum_type(like_));
      launch_.sum = sum_.data_ptr();
    }
    launch_.count = static_cast<int>(at_once ? p.inner : 1);
    launch_.one_order = one_order_ || !at_once;
    for (int64_t pass = 0; pass < passes; ++pass) {
      launch_.first = static_cast<int>(pass);
      launch_.add = pass > 0;
      launch_.finish = pass + 1 == passes;
      run(launch_);
    }
  }

  // Whether chunks' summaries go through memory, since the blocks of a sequence cannot exchange them directly.
  bool needs_workspace() const { return launch_.chunks > 1 && !in_cluster_; }
  void make_workspace() { workspace_ = ssm::make_workspace(launch_, backward_, like_, sum_type(like_)); }

 private:
  // Whether one launch takes all inner directions, if so many blocks share a sequence.
  bool takes_all_at_once(int64_t chunks) const { return launch_.p.inner <= kMaxAtOnce && (one_order_ || chunks == 1); }

  // A sequence gets one block if it fits, and a cluster of blocks if it is up to kMaxCluster times as long. Longer
  // ones, and all if the kernels were compiled for less than sm_90, get independent blocks that read their inputs
  // twice.
  void cut_sequence() {
    const SelectiveScanParams& p = launch_.p;
    const Device device = present_device();
    const int64_t max_cluster = std::min(largest_cluster("selective_scan"), kMaxCluster);
    const bool many_orders = !one_order_;
    const int64_t positions = positions_that_fit(device.block_shared, [&](int rows) {
      const bool at_once = takes_all_at_once(ceil_div(p.length, rows * kTokens));
      const BlockShape shape{rows, static_cast<int>(at_once ? p.inner : 1), one_order_ || !at_once};
      return block_bytes(shape, like_.scalar_type(), backward_);
    });
    int64_t chunks = ceil_div(p.length, positions);
    in_cluster_ = chunks <= max_cluster;
    if (in_cluster_ && chunks > 1) {
      // Powers of two fill the groups of multiprocessors in which clusters run.
      while (chunks & (chunks - 1)) ++chunks;
    }
    const int64_t blocks = p.batch * p.groups * launch_.tiles;
    // If there are few samples, a sequence gets more and smaller blocks.
    while (in_cluster_ && !(many_orders && chunks == 1) && 2 * chunks <= max_cluster &&
           2 * blocks * chunks <= device.multiprocessors && p.length > 2 * chunks * kTokens * 8) {
      chunks *= 2;
    }
    launch_.rows = static_cast<int>(ceil_div(ceil_div(p.length, chunks * kTokens), kRowsOfWarp) * kRowsOfWarp);
    launch_.chunks = static_cast<int>(in_cluster_ ? chunks : ceil_div(p.length, launch_.rows * kTokens));
  }

  // Chooses how many tiles a block takes one after another, for few waves of blocks and few starts of blocks. A start
  // costs about as much as a tile.
  void share_tiles() {
    const SelectiveScanParams& p = launch_.p;
    const int64_t warps = kLanes * launch_.rows / 32;
    const int64_t resident =
        multiprocessors() * std::min<int64_t>(std::max<int64_t>(kResidentWarps / warps, 1), kMaxBlocks);
    int64_t best = std::numeric_limits<int64_t>::max();
    launch_.tiles_each = 1;
    for (int64_t each = 1; each <= launch_.tiles; ++each) {
      const int64_t blocks = p.batch * p.groups * launch_.chunks * ceil_div(launch_.tiles, each);
      const int64_t cost = ceil_div(blocks, resident) * (each + 1);
      if (cost > best) continue;
      best = cost;
      launch_.tiles_each = static_cast<int>(each);
    }
  }

  const Tensor like_;
  ScanLaunch launch_;
  bool backward_, one_order_ = true, in_cluster_ = true;
  Tensor workspace_, sum_;
};

std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const std::optional<Tensor>& D, const std::optional<Tensor>& delta_bias,
    const std::optional<Tensor>& order, const std::vector<bool>& reverse, bool delta_softplus) {
  const DeviceGuard guard(u.get_device_index());
  SelectiveScanInputs inputs(kCUDA, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus);
  SelectiveScanParams& p = inputs.params;
  Tensor y = empty({p.batch, p.groups, p.length, p.channels}, u);
  Tensor last_state = empty({p.batch, p.groups * p.inner, p.channels, p.states}, A);
  p.y = y.data_ptr();
  p.last_state = last_state.data_ptr();
  const ScanLaunch common = common_launch(p, u, nullptr);
  if (p.states > 1) {
    SSM_DISPATCH(u.scalar_type(), "selective_scan", [&] { StatesPlan<scalar_t>(common, u, false).forward(); });
    launch_clear_unvisited(p, {{rows_of(y, 1, p.inner)}});
    return {y, last_state};
  }
  Plan plan(common, u, false);
  if (plan.needs_workspace()) plan.make_workspace();
  SSM_DISPATCH(u.scalar_type(), "selective_scan", [&] {
    plan.for_each_pass([&](ScanLaunch launch) {
      launch.phase = Phase::kWhole;
      if (plan.needs_workspace()) {
        launch.phase = Phase::kSummarise;
        launch_forward<scalar_t>(launch);
        launch_carry<acc_t<scalar_t>>(launch, nullptr, false);
        launch.phase = Phase::kApply;
      }
      launch_forward<scalar_t>(launch);
    });
  });
  launch_clear_unvisited(p, {{rows_of(y, 1, p.inner)}});
  return {y, last_state};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Allocates the gradients, calls `run`, and sums what each block of channels, and each sample and chunk, has written on
// its own, so that no atomics are needed.
template <typename scalar_t, typename Run>
Gradients differentiate(const SelectiveScanParams& p, const SelectiveScanUpstream& upstream, const Tensor& u,
    const Tensor& A, int64_t splits, int64_t chunks, const Run& run) {
  using acc = acc_t<scalar_t>;
  const int64_t K = p.groups * p.inner;
  Tensor partial_B = empty({splits, p.batch, K, p.length, p.states}, A);
  Tensor partial_C = empty(partial_B.sizes(), partial_B);
  Tensor partial_A = empty({chunks * p.batch, K, p.channels, p.states}, A);
  Tensor partial_D = empty({chunks * p.batch, K, p.channels}, A);
  Tensor partial_bias = empty(partial_D.sizes(), partial_D);
  Tensor grad_u = empty({p.batch, p.groups, p.length, p.channels}, u);
  Tensor grad_delta = empty({p.batch, K, p.length, p.channels}, u);
  Tensor grad_B = empty({p.batch, K, p.length, p.states}, u);
  Tensor grad_C = empty(grad_B.sizes(), grad_B);
  Tensor grad_A = empty({K, p.channels, p.states}, A);
  Tensor grad_D = empty({K, p.channels}, A);
  Tensor grad_bias = empty(grad_D.sizes(), grad_D);
  run({upstream.grad_y_data(), upstream.grad_last_state_data(), grad_u.data_ptr(), grad_delta.data_ptr(),
      partial_B.data_ptr(), partial_C.data_ptr(), partial_A.data_ptr(), partial_D.data_ptr(), partial_bias.data_ptr()});

  const int64_t weights = grad_B.numel(), channels = grad_D.numel();
  const RowSums over_channels{{partial_B.const_data_ptr(), partial_C.const_data_ptr()},
      {grad_B.data_ptr(), grad_C.data_ptr()}, {weights, weights}, 2, splits};
  const RowSums over_samples{{partial_A.const_data_ptr(), partial_D.const_data_ptr(), partial_bias.const_data_ptr()},
      {grad_A.data_ptr(), grad_D.data_ptr(), grad_bias.data_ptr()}, {grad_A.numel(), channels, channels}, 3,
      chunks * p.batch};
  launch_sum_rows<scalar_t>(over_channels, current_stream());
  launch_sum_rows<acc>(over_samples, current_stream());
  launch_clear_unvisited(p, {{rows_of(grad_u, 1, p.inner), rows_of(grad_delta), rows_of(grad_B), rows_of(grad_C)}});
  return {grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias};
}

Gradients backward(const Tensor& grad_y, const std::optional<Tensor>& grad_last_state, const Tensor& u,
    const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const std::optional<Tensor>& D,
    const std::optional<Tensor>& delta_bias, const std::optional<Tensor>& order, const std::vector<bool>& reverse,
    bool delta_softplus) {
  const DeviceGuard guard(u.get_device_index());
  SelectiveScanInputs inputs(kCUDA, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus);
  const SelectiveScanParams& p = inputs.params;
  const SelectiveScanUpstream upstream(p, grad_y, grad_last_state, u, A);
  const ScanLaunch common = common_launch(p, u, upstream.grad_y_data());
  Gradients gradients;
  SSM_DISPATCH(u.scalar_type(), "selective_scan_backward", [&] {
    if (p.states > 1) {
      StatesPlan<scalar_t> plan(common, u, true);
      gradients = differentiate<scalar_t>(
          p, upstream, u, A, plan.splits(), plan.chunks(), [&](const SelectiveScanGradients& g) { plan.backward(g); });
      return;
    }
    Plan plan(common, u, true);
    if (plan.needs_workspace()) plan.make_workspace();
    gradients = differentiate<scalar_t>(
        p, upstream, u, A, channel_splits(plan.launch()), plan.launch().chunks, [&](const SelectiveScanGradients& g) {
          plan.for_each_pass([&](ScanLaunch launch) {
            launch.phase = Phase::kWhole;
            if (plan.needs_workspace()) {
              launch.phase = Phase::kSummarise;
              launch_backward<scalar_t>(launch, g);
              launch_carry<acc_t<scalar_t>>(launch, g.grad_last_state, true);
              launch.phase = Phase::kApply;
            }
            launch_backward<scalar_t>(launch, g);
          });
        });
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssm_core, CUDA, m) {
  m.impl("selective_scan", TORCH_BOX(&forward));
  m.impl("selective_scan_backward", TORCH_BOX(&backward));
}

}  // namespace ssm
