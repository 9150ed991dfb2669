// What the hosts of the grid's distances hand to a kernel.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace ssm {

// The 4-connected grid. Its edges are the vertical ones, by their upper end, and then the horizontal ones, by their
// left end; both row by row.
struct Grid {
  int64_t height, width;

  C10_HOST_DEVICE int64_t vertical() const { return (height - 1) * width; }
  C10_HOST_DEVICE int64_t edges() const { return vertical() + height * (width - 1); }
};

struct GridDistanceParams {
  int64_t batch, channels;
  Grid grid;
  const void* x;  // scalar_t [batch, height, width, channels], each sample contiguous
  int64_t x_batch_stride;
  void* out;  // acc_t<scalar_t>, contiguous [batch, edges]
};

}  // namespace ssm
