// What the host hands to the tree scan's kernels by value, and the launchers, one translation unit a type.
#pragma once

#include "tree/cuda/walk_launch.h"
#include "tree_scan/params.h"

namespace ssm {

// scalar_t is the type of u, h and their gradients; weight_t that of the weights, scalar_t or acc_t<scalar_t>.
struct TreeScanLaunch : WalkLaunch<TreeScanParams>, TreeScanGradients {
  bool wide_weight;  // whether weight_t is acc_t<scalar_t>, not scalar_t

  // [batch, L, D], rows by vertex: ξ and η between the passes; may be the outputs themselves. scalar_t if that is the
  // type of the weights too or ξ is the result, else acc_t.
  void *state, *grad_state;
  void* output;  // h, or the gradient of u; scalar_t, contiguous [batch, L, D]
};

template <typename scalar_t>
void launch_tree_scan(const TreeScanLaunch& launch);

}  // namespace ssm
