// What the host hands to the kernels of the depthwise convolution by value, and their launchers.
#pragma once

#include "depthwise_conv/cuda/tuning.h"
#include "depthwise_conv/params.h"

namespace ssm {

// A walk goes down the rows of a map, or of a tile of its columns, and then down those of the next one. A row of zeros
// lies before each. All these rows, one after another, are cut into walks of `length` rows.
struct DepthwiseConvLaunch : DepthwiseConvParams {
  bool aligned;   // whether 16 bytes can be copied at once
  int tiles;      // of the columns of a map
  int own_width;  // columns of a tile; of maps in tiles, a walk has one more at each side
  int items;      // tiles of all maps
  int places;     // groups of columns of a walk
  int walks;      // of a block, side by side
  int chunks;     // of channels; a block has one
  int parts;      // blocks that share the rows of a chunk
  int length;
  int64_t row_bytes;  // of a map
  void* partial;      // acc, contiguous [parts, kConvSums · channels]: each block's part of the parameters' gradients
};

// Maps that the backward pass reads.
C10_HOST_DEVICE constexpr int maps_of(const DepthwiseConvParams& p) {
  return kConvBackwardMaps + (p.more[0] != nullptr) + (p.more[1] != nullptr);
}

template <typename scalar_t>
void launch_depthwise_conv(const DepthwiseConvLaunch& launch);
template <typename scalar_t>
void launch_depthwise_conv_backward(const DepthwiseConvLaunch& launch);

}  // namespace ssm
