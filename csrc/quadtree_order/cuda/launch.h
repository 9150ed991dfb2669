// What the host hands to the kernels of the quadtree order by value, and their launchers.
#pragma once

#include <cstdint>

namespace ssm {

// A map whose partition is laid over it rolled by the shifts, from 0 to its size.
struct RolledMap {
  int height, width, shift_y, shift_x;
};

struct QuadtreeOrderLaunch {
  RolledMap map;
  int levels;
  int64_t batch;
  const int64_t* choice;  // [batch]
  int64_t choice_stride;
  int64_t* order;  // contiguous [batch, height * width]
};
void launch_quadtree_order(const QuadtreeOrderLaunch& launch);

// scalar_t is the type of a and b, acc is acc_t<scalar_t>.
struct MaskGradientLaunch {
  RolledMap map;
  int splits;  // blocks of one quadrant
  int64_t batch, channels;
  const void *a, *b;      // contiguous [batch, height * width, channels]
  const int64_t* choice;  // [batch]
  int64_t choice_stride;
  void* partial;   // acc, contiguous [batch, 4, splits]; the gradient itself if splits is 1
  void* gradient;  // acc, contiguous [batch, 4]
};
template <typename scalar_t>
void launch_mask_gradient(const MaskGradientLaunch& launch);

}  // namespace ssm
