// What the host hands to the kernel of the grid's distances, and its launcher.
#pragma once

#include "common/edge_distance.h"

namespace ssm {

// acc_t<scalar_t> is the type of the distances.
struct GridDistanceLaunch {
  int64_t batch, channels;
  Grid grid;
  const void* x;  // scalar_t, contiguous [batch, height, width, channels]
  void* out;      // acc, contiguous [batch, edges]
};

template <typename scalar_t>
void launch_grid_distance(const GridDistanceLaunch& launch);

}  // namespace ssm
