// What the host hands to the kernels of the quadtree order by value, and their launchers.
#pragma once

#include "quadtree_order/params.h"

namespace ssm {

void launch_quadtree_order(const QuadtreeOrderParams& params);

struct MaskGradientLaunch : MaskGradientParams {
  int splits;     // blocks of one quadrant
  void* partial;  // acc, contiguous [batch, 4, splits]; the gradient itself if splits is 1
};
template <typename scalar_t>
void launch_mask_gradient(const MaskGradientLaunch& launch);

}  // namespace ssm
