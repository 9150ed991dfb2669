// What the host hands to the MLP's kernels by value, and their launchers.
#pragma once

#include "mlp/params.h"

namespace ssm {

struct MlpLaunch : MlpParams {
  int blocks;
  int64_t groups;    // of tiles that follow each other
  int64_t of_group;  // tiles
  float* partial;    // contiguous [groups, hidden]: each group's part of the first bias' gradient
};

// Tokens of a block at once.
int mlp_tile(int channels, bool backward);

template <typename scalar_t>
void launch_mlp(const MlpLaunch& launch);
template <typename scalar_t>
void launch_mlp_backward(const MlpLaunch& launch);

}  // namespace ssm
