// What the host hands to the tree scan's kernels by value, and the launchers, one translation unit a type.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../tree_scan.h"

namespace ssm {

constexpr int kLanes = 8;  // threads side by side along the channels; they walk one segment

// scalar_t is the type of u, h and their gradients; weight_t that of the weights, scalar_t or acc_t<scalar_t>.
struct TreeScanLaunch {
  int64_t batch, length, channels;
  bool both, backward;
  bool aligned;         // whether every row begins at a multiple of 16 bytes
  bool wide_weight;     // whether weight_t is acc_t<scalar_t>, not scalar_t
  int slices, team;     // blocks of channels; blocks to a slice of a sample
  bool walk;            // which of the two ways the schedule is for
  const int* schedule;  // [batch, ScheduleLayout::words()]
  const void *u, *weight, *grad_h;
  VertexStrides u_stride, weight_stride, grad_h_stride;

  // [batch, L, D], rows by vertex; may be the outputs themselves. A walk keeps ξ and η there between its passes:
  // scalar_t if that is the type of the weights too, else acc_t. In rounds, acc_t: what a path hands to the path that
  // it hangs from and back, and what the segments of a chain hand to each other; every row is written last by the
  // segment it belongs to.
  void *state, *grad_state;
  void* output;       // h, or the gradient of u; scalar_t, contiguous [batch, L, D]
  void* grad_weight;  // weight_t, contiguous [batch, L, D]
};

template <typename scalar_t>
void launch_tree_scan(const TreeScanLaunch& launch);

}  // namespace ssm
