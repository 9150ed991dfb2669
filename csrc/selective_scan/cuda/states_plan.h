// Host side of the scan with many states a channel: how a call is cut into launches.
#pragma once

#include <algorithm>
#include <limits>

#include "common/cuda/launch.h"
#include "selective_scan/cuda/states.h"
#include "selective_scan/cuda/workspace.h"

namespace ssm {

// `scan` has the parameters, the directions' flags, the alignment and the stream.
template <typename scalar_t>
class StatesPlan {
  using acc = acc_t<scalar_t>;
  static constexpr ScalarType kType = sizeof(acc) == 8 ? kDouble : kFloat;

 public:
  StatesPlan(const ScanLaunch& scan, const Tensor& u, bool backward) : like_(u), backward_(backward) {
    l_.scan = scan;
    const SelectiveScanParams& p = l_.scan.p;
    l_.weight_bytes = bytes_of_copy();
    const int64_t processors = multiprocessors();
    // A launch takes one direction after another, unless one alone has too few warps for the GPU.
    const int64_t sequences = std::max<int64_t>(p.batch * p.groups, 1);
    const int64_t warps = sequences * ceil_div(p.channels + 1, warp_channels(state_lanes(p.states, kOwnStates)));
    const bool at_once = p.inner == 1 || warps < warps_of_direction(backward) * processors;
    l_.scan.count = static_cast<int>(at_once ? p.inner : 1);
    share_states(warps * l_.scan.count);
    cut_sequence(warps * l_.scan.count * (kOwnStates / l_.own));
    choose_threads();
    if (p.inner > 1 || groups() > 1) {
      sum_ = empty({l_.scan.count, p.batch, p.groups, p.length, p.channels}, like_, kType);
      l_.scan.sum = sum_.data_ptr();
    }
    if (l_.scan.chunks > 1) workspace_ = make_workspace(l_.scan, backward_, like_, kType);
  }

  int64_t chunks() const { return l_.scan.chunks; }
  int64_t splits() const { return ceil_div(l_.scan.p.channels, block_channels(l_.threads)); }

  void forward() {
    for_each_launch([&] { launch_states_walk<scalar_t>(l_, Walk::kSummary); }, nullptr,
        [&] { launch_states_walk<scalar_t>(l_, Walk::kOutput); });
    sum_directions(l_.scan.p.y);
  }

  void backward(const SelectiveScanGradients& g) {
    const SelectiveScanParams& p = l_.scan.p;
    const int64_t width = state_lanes(p.states, kOwnStates) * kOwnStates, tiles = ceil_div(p.length, kStateTile);
    const Tensor checkpoints =
        empty({p.batch * p.groups * l_.scan.count, tiles * kRunsOfTile, p.channels, width}, like_, kType);
    l_.checkpoints = checkpoints.data_ptr();
    Tensor delta_sum;
    if (groups() > 1) {
      delta_sum = empty({p.batch, p.groups * p.inner, p.length, p.channels}, like_, kType);
      l_.delta_sum = delta_sum.data_ptr();
    }
    for_each_launch(
        [&] {
          launch_states_walk<scalar_t>(l_, Walk::kSummary);
          launch_states_adjoint<scalar_t>(l_, g);
        },
        g.grad_last_state,
        [&] {
          launch_states_walk<scalar_t>(l_, Walk::kCheckpoints);
          launch_states_backward<scalar_t>(l_, g);
        });
    sum_directions(g.grad_u);
  }

 private:
  int64_t groups() const { return ceil_div(l_.scan.p.states, kMostStates); }
  bool sums_slots() const { return l_.scan.count > 1; }

  // Bytes at a time in which rows of B and C, from any group of states on, can be copied.
  int bytes_of_copy() const {
    const SelectiveScanParams& p = l_.scan.p;
    for (const int64_t bytes : {int64_t(16), int64_t(kLeastCopy<scalar_t>)}) {
      const int64_t width = bytes / sizeof(scalar_t);
      bool fits = p.states % width == 0;
      for (const Strides& s : {p.B_stride, p.C_stride}) {
        fits = fits && s.last == 1 && s.batch % width == 0 && s.group % width == 0 && s.token % width == 0;
      }
      for (const void* data : {p.B, p.C}) fits = fits && reinterpret_cast<uintptr_t>(data) % bytes == 0;
      if (fits) return static_cast<int>(bytes);
    }
    return 0;
  }

  int64_t block_channels(int threads) const { return threads / state_lanes(l_.scan.p.states, l_.own) * l_.each; }

  // Which states a thread of a launch of so many warps takes, if a thread has one channel. With few warps, the states
  // are spread over more lanes. With many, a thread of the forward pass has neighbouring channels together.
  void share_states(int64_t warps) {
    const int64_t processors = multiprocessors();
    const bool spreads = !backward_ && l_.scan.p.states > kFewStates * kMostStates / kOwnStates;
    l_.own = spreads && warps < kWarpsOfFew * processors ? kFewStates : kOwnStates;
    l_.each = !backward_ && warps >= kWarpsOfChannels * processors ? kThreadChannels : 1;
  }

  // A block walks its chunk alone. Where there are few channels and samples, a sequence has several chunks, although a
  // chunk's state before it must then be found first.
  void cut_sequence(int64_t warps) {
    const int64_t tiles = ceil_div(l_.scan.p.length, kStateTile), processors = multiprocessors();
    int64_t chunks = 1;
    if (warps < kWarpsOfWhole * processors) {
      chunks = std::min(ceil_div(kWarpsOfChunks * processors, warps), ceil_div(tiles, kTilesOfChunk));
    }
    l_.chunk_tiles = static_cast<int>(ceil_div(tiles, chunks));
    l_.scan.chunks = static_cast<int>(ceil_div(tiles, l_.chunk_tiles));
  }

  // The time is that of the multiprocessor with the most warps. A block that is alone there waits at each barrier,
  // while others fill each other's waits. In the backward pass, each part of the channels also writes and reads a
  // tensor of its own for the gradients of B and C.
  void choose_threads() {
    const SelectiveScanParams& p = l_.scan.p;
    const Device device = present_device();
    const int states = state_lanes(p.states, l_.own) * l_.own;
    const int most = backward_ ? states_backward_threads(sizeof(scalar_t)) : states_threads(sizeof(scalar_t), l_.each);
    const int registers = backward_ ? kBackwardRegisters : walk_registers(l_.each);
    const int64_t blocks_of_split = p.batch * p.groups * l_.scan.count * l_.scan.chunks;
    double best = std::numeric_limits<double>::max();
    l_.threads = 0;
    for (int threads = 32; threads <= most; threads += 32) {
      const int channels = static_cast<int>(block_channels(threads));
      if (channels * sizeof(scalar_t) % 16 != 0) continue;
      const size_t bytes = backward_ ? states_backward_bytes<scalar_t>(channels, states, threads / 32)
                                     : states_forward_bytes<scalar_t>(channels, states);
      if (l_.threads > 0 && bytes > device.block_shared) break;
      const int64_t splits = ceil_div(p.channels, channels);
      const int64_t blocks = std::max<int64_t>(ceil_div(splits * blocks_of_split, device.multiprocessors), 1);
      const int64_t fit =
          std::max<int64_t>(1, std::min<int64_t>(device.multiprocessor_shared / (bytes + device.reserved_shared),
                                   kRegisters / (registers * threads)));
      const int64_t waves = ceil_div(blocks, fit), together = ceil_div(blocks, waves);
      double cost = static_cast<double>(waves * (threads / 32 + kWarpsOfBlock)) * (together + kWaitOfBlock);
      if (backward_) cost += kCostOfSplit * static_cast<double>(splits * blocks_of_split);
      if (cost >= best) continue;
      best = cost;
      l_.threads = threads;
    }
  }

  // Calls `run` for each group of states of each set of directions. Where sequences are cut, `summarise` is called for
  // the set before.
  template <typename Summarise, typename Run>
  void for_each_launch(const Summarise& summarise, const void* grad_last_state, const Run& run) {
    ScanLaunch& a = l_.scan;
    const auto for_each_group = [&](const auto& call) {
      for (int64_t group = 0; group < groups(); ++group) {
        l_.first_state = static_cast<int>(group * kMostStates);
        call(group);
      }
    };
    for (int64_t first = 0; first < a.p.inner; first += a.count) {
      a.first = static_cast<int>(first);
      a.phase = Phase::kWhole;
      if (a.chunks > 1) {
        a.phase = Phase::kSummarise;
        for_each_group([&](int64_t) { summarise(); });
        launch_carry<acc>(a, grad_last_state, backward_);
        a.phase = Phase::kApply;
      }
      for_each_group([&](int64_t group) {
        a.add = group > 0 || (!sums_slots() && first > 0);
        a.finish = !sums_slots() && group + 1 == groups() && first + a.count == a.p.inner;
        l_.delta_add = group > 0;
        l_.delta_finish = group + 1 == groups();
        run();
      });
    }
  }

  void sum_directions(void* result) const {
    if (!sums_slots()) return;
    const RowSums sums{{l_.scan.sum}, {result}, {sum_.numel() / l_.scan.count}, 1, l_.scan.count};
    launch_sum_rows<scalar_t>(sums, l_.scan.stream);
  }

  const Tensor like_;
  StatesLaunch l_ = {};
  bool backward_;
  Tensor sum_, workspace_;
};

}  // namespace ssm
