// What the hosts of the depthwise convolution hand to a kernel: raw pointers and sizes.
#pragma once

#include <cstdint>

namespace ssm {

constexpr int kConvSide = 3;                      // of the window, in tokens
constexpr int kConvTaps = kConvSide * kConvSide;  // weights of a channel
constexpr int kConvMoreGradients = 2;             // of y, beside the first: one for each of its further readers

// y = SiLU(p) with p[h, w] = bias + Σ_ij weight[i, j] x[h + i - 1, w + j - 1], channel by channel, and zeros around x.
// A kernel is compiled for one type scalar_t, and acc is acc_t<scalar_t>.
struct DepthwiseConvParams {
  int64_t batch;
  int height, width, channels;
  const void *x, *grad_y;                // scalar_t, contiguous [batch, height, width, channels]
  const void* more[kConvMoreGradients];  // gradients of y that grad_y lacks, of the same shape; null: none
  const void *weight, *bias;             // acc, contiguous [channels, 3, 3] and [channels]; a null bias is 0
  // The results. The maps are scalar_t and contiguous, the gradients of the parameters are acc.
  void *y, *grad_x, *grad_weight, *grad_bias;
};

}  // namespace ssm
