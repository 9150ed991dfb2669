// What the host of the stem's first half hands to its kernels: raw pointers and sizes.
#pragma once

#include <cstdint>

namespace ssm {

// y = GELU(LN(conv(images))) with a convolution 3 x 3 of stride 2 and padding 1, in one of two half types scalar_t.
struct ConvNormGeluParams {
  int batch;
  int height, width;          // of the images
  int out_height, out_width;  // of y
  int channels;               // of y
  float eps;
  const float* images;                          // contiguous [batch, 3, height, width]
  const void* weight;                           // scalar_t, contiguous [channels, 3, 3, 3]
  const float *bias, *norm_weight, *norm_bias;  // contiguous [channels]
  void* y;                                      // scalar_t, contiguous [batch, out_height, out_width, channels]
  const void* grad_y;                           // as y
  float *grad_weight, *grad_bias, *grad_norm_weight, *grad_norm_bias;  // shaped as what they are gradients of
};

}  // namespace ssm
