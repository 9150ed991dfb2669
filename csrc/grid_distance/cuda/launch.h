// The launcher of the grid's distances.
#pragma once

#include "grid_distance/params.h"

namespace ssm {

template <typename scalar_t>
void launch_grid_distance(const GridDistanceParams& params);

}  // namespace ssm
