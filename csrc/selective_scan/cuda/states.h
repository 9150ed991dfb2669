// The scan with many states a channel: what the host hands to its kernels by value, the shared memory of a block, and
// the launchers. states_forward.cuh and states_backward.cuh have the kernels.
#pragma once

#include "common/memory.h"
#include "common/scalar.h"
#include "selective_scan/cuda/launch.h"

namespace ssm {

// Every channel's states are spread over `state_lanes` neighbouring lanes of a warp. A block takes some channels of one
// direction of one sample, and walks a chunk of the sequence token by token, a tile of tokens at a time.
struct StatesLaunch {
  // Of it, `rows`, `tiles` and `tiles_each` are not used. A block takes one direction. Where a launch has many, `sum`
  // has a part for each.
  ScanLaunch scan;
  int threads;       // of a block
  int own;           // states that a thread has of a channel
  int each;          // neighbouring channels that a thread has
  int chunk_tiles;   // tiles of a chunk
  int first_state;   // a launch takes up to kMostStates states of each channel from here on
  int weight_bytes;  // bytes of one copy of B or C: 16, kLeastCopy, or 0 if each element is copied by itself
  // acc_t [batch, K, L, D]: the gradient of Δ summed over launches with different states; null if there is one.
  void* delta_sum;
  bool delta_add, delta_finish;
  // acc_t [batch, groups, directions of the launch, tiles, runs of a tile, D, states]: the state before each run of
  // kStateRun tokens, in walking order.
  void* checkpoints;

  C10_HOST_DEVICE int states() const {
    const int64_t left = scan.p.states - first_state;
    return static_cast<int>(left < kMostStates ? left : kMostStates);
  }
};

// The fewest bytes that can be copied asynchronously.
template <typename scalar_t>
constexpr int kLeastCopy = sizeof(scalar_t) < 4 ? 4 : static_cast<int>(sizeof(scalar_t));

// A step of the walk in one channel: Δ, and Δ·u. After the walk, `drive` is the sum over the channel's states.
template <typename acc>
struct alignas(2 * sizeof(acc)) ForwardStep {
  acc dt, drive;
};
// The same with the gradient of y, and u.
template <typename acc>
struct alignas(16) BackwardStep {
  acc dt, drive, grad, x;
};
// Sums over the states of a token and channel in the backward pass: the gradient of Δ through the decays, and Σ λ B.
template <typename acc>
struct alignas(2 * sizeof(acc)) TokenSums {
  acc decay, input;
};

// Shared memory of a block of `channels`. `weight_copies`: of B and C, each with its own order of a thread's states.
template <typename scalar_t, typename Step>
struct StatesMemory {
  using acc = acc_t<scalar_t>;
  int* tokens;  // [2][kStateTile]: of this tile and of the next, -1 where there is none
  // What comes from memory for the next tile: [kStateTile][channels], and [kStateTile][states] of B and C. Only the
  // backward pass has grad_y. Only the forward pass needs u after its conversion, and has it of this tile, too: [2].
  scalar_t *delta, *u, *grad_y, *raw_B, *raw_C;
  Step* steps;              // [kStateTile][channels]
  acc *B, *C;               // [kStateTile][copies][states]
  TokenSums<acc>* results;  // [kStateTile][channels]: a tile's sums over states; only in the backward pass
  acc* sums;                // [warps][kStateTile][B, C][states]: a tile's gradients of B and C, of each warp
  size_t bytes;

  C10_HOST_DEVICE StatesMemory(
      int channels, int states, int weight_copies, bool has_gradient, int summing_warps, char* memory) {
    Carver carver(memory);
    tokens = carver.take<int>(2 * kStateTile);
    delta = carver.take<scalar_t>(kStateTile * channels);
    u = carver.take<scalar_t>((has_gradient ? 1 : 2) * kStateTile * channels);
    grad_y = carver.take<scalar_t>(has_gradient ? kStateTile * channels : 0);
    raw_B = carver.take<scalar_t>(kStateTile * states);
    raw_C = carver.take<scalar_t>(kStateTile * states);
    steps = carver.take<Step>(kStateTile * channels);
    B = carver.take<acc>(kStateTile * weight_copies * states);
    C = carver.take<acc>(kStateTile * weight_copies * states);
    results = carver.take<TokenSums<acc>>(has_gradient ? kStateTile * channels : 0);
    sums = carver.take<acc>(summing_warps * kStateTile * 2 * states);
    bytes = carver.bytes();
  }
};

// What a walk along the sequence leaves behind.
enum class Walk { kOutput, kSummary, kCheckpoints };

// Lanes that a channel's states take, with `own` states a lane.
constexpr int state_lanes(int64_t states, int own) {
  int lanes = 1;
  while (lanes * own < states && lanes * own < kMostStates) lanes *= 2;
  return lanes;
}
// Channels of a warp whose threads have one each.
constexpr int warp_channels(int lanes) {
  return 32 / lanes;
}

// Bytes of shared memory of the forward walk, and of the largest kernel of the backward pass, for a block of `channels`
// and channels of `states`, those that do not exist included.
template <typename scalar_t>
size_t states_forward_bytes(int channels, int states) {
  return StatesMemory<scalar_t, ForwardStep<acc_t<scalar_t>>>(channels, states, 1, false, 0, nullptr).bytes;
}
template <typename scalar_t>
size_t states_backward_bytes(int channels, int states, int warps) {
  return StatesMemory<scalar_t, BackwardStep<acc_t<scalar_t>>>(channels, states, kWeightCopies, true, warps, nullptr)
      .bytes;
}

// Walks along the sequence. A thread has kOwnStates or kFewStates states of one channel or, for kOutput, kOwnStates of
// kThreadChannels.
template <typename scalar_t>
void launch_states_walk(const StatesLaunch& launch, Walk walk);
// The chunks' summaries of the gradient of the state.
template <typename scalar_t>
void launch_states_adjoint(const StatesLaunch& launch, const SelectiveScanGradients& gradients);
// All gradients, from the checkpoints that a walk has left.
template <typename scalar_t>
void launch_states_backward(const StatesLaunch& launch, const SelectiveScanGradients& gradients);

}  // namespace ssm
