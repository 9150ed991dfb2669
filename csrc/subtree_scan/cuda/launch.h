// What the host hands to the kernels of the selective subtree scan by value, and the launchers, one translation unit a
// type.
#pragma once

#include <cstdint>

#include "tree/params.h"

namespace ssm {

constexpr int kMostStates = 16;  // of a channel, all in one thread
constexpr int kFewStates = 4;
constexpr int kSubtreeSlice = 32;  // channels of a block, one a thread

// Steps of a walk that the backward pass takes together, and how often at most a subtree that waits for its siblings
// waits from one such chunk into the next: three forks at most can begin to wait in one chunk and be open at its end,
// since each waits for at least as many vertices as those inside it have, 1 + 3 + 7 > 7.
constexpr int kSubtreeChunk = 8;
constexpr int kMostCrossing = 3;

// scalar_t is the type of x, delta, B, C, y and their gradients; acc is acc_t<scalar_t>.
struct SubtreeScanLaunch {
  int64_t batch, length, channels, states;
  bool backward;
  bool aligned;         // whether every row of channels begins at a multiple of 16 bytes
  bool next;            // an edge has the step of the token after its child; of the last token, the first
  int slices;           // blocks of channels
  const int* schedule;  // [batch, ScheduleLayout::words()], which begins with the walk
  const void *x, *delta, *grad_y;
  VertexStrides x_stride, delta_stride, grad_y_stride;
  const void *B, *C;  // [batch, L, N], states side by side
  VertexStrides B_stride, C_stride;
  const void* A;           // acc [D, N]
  const void* delta_bias;  // acc [D]

  void* y;           // scalar_t [batch, L, D]
  void* root_state;  // acc [batch, D, N]: the root's state, or its gradient, which may be null

  void* grad_x;        // scalar_t [batch, L, D]
  void* grad_delta;    // scalar_t [batch, L, D]; acc if `next`: the part of the inputs
  void* grad_edge;     // acc [batch, L, D] if `next`: the part of the edges
  void* grad_weights;  // acc [slices, batch, L, 2 · kMostStates or kFewStates]: B and C, to be summed over the slices
  void* grad_A;        // acc [batch, D, N], to be summed over the batch
  void* grad_bias;     // acc [batch, D], to be summed over the batch
  void* incoming;      // acc, a row for every chunk of every block: what comes into it from below
  void* crossing;      // acc, kMostCrossing rows for every chunk of every block: what waited from before it
};

// States that a thread holds; those beyond `states` are zeros.
constexpr int held_states(int64_t states) {
  return states <= kFewStates ? kFewStates : kMostStates;
}
constexpr int64_t subtree_chunks(int64_t length) {
  return (length + kSubtreeChunk - 1) / kSubtreeChunk;
}

template <typename scalar_t>
void launch_subtree_scan(const SubtreeScanLaunch& launch);

}  // namespace ssm
