// What the host of the MLP hands to its kernels: raw pointers and sizes.
#pragma once

#include <cstdint>

#include "common/cuda/two_layers.h"

namespace ssm {

// u = x W1ᵀ + b1, h = GELU(u), y = h W2ᵀ + b2, for every token. A kernel is compiled for one half type scalar_t.
struct MlpParams {
  TwoLayers layers;  // the weights, and as many channels in as out
  int64_t tokens;
  const void *x, *grad_y;      // scalar_t, contiguous [tokens, channels]
  const float *bias1, *bias2;  // contiguous [hidden] and [channels]
  void *y, *grad_x;            // scalar_t, contiguous [tokens, channels]
  void *h, *grad_u;            // scalar_t, contiguous [tokens, hidden]
  float* grad_bias1;           // contiguous [hidden]
};

}  // namespace ssm
