// What the host hands to the kernels of the selective subtree scan by value, and the launchers, one translation unit a
// type.
#pragma once

#include "subtree_scan/cuda/tuning.h"
#include "subtree_scan/params.h"

namespace ssm {

// scalar_t is the type of x, delta, B, C, y and their gradients; acc is acc_t<scalar_t>. If `next`, grad_delta is acc:
// the part of the inputs.
struct SubtreeScanLaunch : SubtreeScanParams, SubtreeScanGradients {
  bool backward;
  bool aligned;         // whether every row of channels begins at a multiple of 16 bytes
  int slices;           // blocks of channels
  const int* schedule;  // [batch, ScheduleLayout::words()], which begins with the walk

  void* grad_edge;     // acc [batch, L, D] if `next`: the part of grad_delta that comes from the edges
  void* grad_weights;  // acc [slices, batch, L, 2 · held_states]: of B and of C, to be summed over the slices
  void* incoming;      // acc, a row for every chunk of every block: what comes into it from below
  void* crossing;      // acc, kMostCrossing rows for every chunk of every block: what waited from before it
};

template <typename scalar_t>
void launch_subtree_scan(const SubtreeScanLaunch& launch);

}  // namespace ssm
