// What the hosts of the quadtree order and of its mask's gradient hand to a kernel, and the windows of a map.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace ssm {

struct Window {
  int top, left, height, width;

  C10_HOST_DEVICE int size() const { return height * width; }

  // One of the four windows of this one, in raster order, cut at ceil(size / 2).
  C10_HOST_DEVICE Window quarter(int index) const {
    const int row = (height + 1) / 2, col = (width + 1) / 2;
    const bool below = index >= 2, right = index % 2 == 1;
    return {below ? top + row : top, right ? left + col : left, below ? height - row : row, right ? width - col : col};
  }
};

// A map, and how far it is rolled before the partition is laid over it: by 0 to its size less one.
struct RolledMap {
  int height, width, shift_y, shift_x;

  C10_HOST_DEVICE Window whole() const { return {0, 0, height, width}; }
};

struct QuadtreeOrderParams {
  RolledMap map;
  int levels;
  int64_t batch;
  const int64_t* choice;  // [batch]
  int64_t choice_stride;
  int64_t* order;  // contiguous [batch, height * width]
};

// scalar_t is the type of a and b, acc is acc_t<scalar_t>.
struct MaskGradientParams {
  RolledMap map;
  int64_t batch, channels;
  const void *a, *b;      // contiguous [batch, height * width, channels]
  const int64_t* choice;  // [batch]
  int64_t choice_stride;
  void* gradient;  // acc, contiguous [batch, 4]
};

}  // namespace ssm
