// What the host hands to the kernels of the stem's first half by value, and their launchers.
#pragma once

#include "conv_norm_gelu/params.h"

namespace ssm {

struct ConvNormGeluLaunch : ConvNormGeluParams {
  bool aligned;                  // whether images can be read by 16 bytes
  int tiles_down, tiles_across;  // of one image
  int tiles;                     // of all images
  int blocks;
  int groups, of_group;  // of tiles that follow each other, and tiles of a group: for the backward pass
  float* partial;        // contiguous [groups, kStemSums · channels]: each group's part of the gradients
};

template <typename scalar_t>
void launch_conv_norm_gelu(const ConvNormGeluLaunch& launch);
template <typename scalar_t>
void launch_conv_norm_gelu_backward(const ConvNormGeluLaunch& launch);

}  // namespace ssm
