// What the host hands to the kernels of the selective tree scan by value, and the launchers, one translation unit a
// type.
#pragma once

#include "selective_tree_scan/params.h"
#include "tree/cuda/walk_launch.h"

namespace ssm {

// scalar_t is the type of x, delta, B, h and their gradients; acc is acc_t<scalar_t>.
struct SelectiveTreeScanLaunch : WalkLaunch<SelectiveTreeScanParams> {
  const void* grad_h;  // scalar_t
  VertexStrides grad_h_stride;

  void *state, *grad_state;        // scalar_t [batch, L, D]: ξ and η between the passes; may be outputs
  void *output, *grad_delta;       // h or the gradient of x; scalar_t [batch, L, D]
  void* grad_B;                    // acc [slices, batch, L], to be summed over the slices
  void* of_parameters;             // acc [batch, most_pieces, 2, D], to be summed over the first two
  void *grad_A, *grad_delta_bias;  // acc [D]: these sums
};

// Blocks of channels.
template <typename scalar_t>
int selective_slices(const SelectiveTreeScanLaunch& launch) {
  const int64_t slice = kWarp * walk_width<scalar_t>(launch);
  return static_cast<int>((launch.channels + slice - 1) / slice);
}

template <typename scalar_t>
void launch_selective_tree_scan(const SelectiveTreeScanLaunch& launch);

// Adds up what the pieces have of the parameters' gradients.
template <typename scalar_t>
void launch_selective_sums(const SelectiveTreeScanLaunch& launch);

}  // namespace ssm
