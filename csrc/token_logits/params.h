// What the host of the token logits hands to its kernels beside the first two layers: raw pointers and sizes.
#pragma once

#include <cstdint>

namespace ssm {

// For every token: n = LN(x), h1 = g(W1 n + b1), h2 = g(W2 h1 + b2), h3 = g(W3 h2 + b3), w4 · h3 + b4, with g = GELU. A
// kernel is compiled for one half type scalar_t.
struct TokenLogitsParams {
  int64_t tokens;
  const void* x;                         // scalar_t, contiguous [tokens, D]
  const void* weight3;                   // scalar_t, contiguous [D/4, D/2]
  const float *gamma, *beta, *bias1;     // contiguous [D]
  const float *bias2, *bias3, *weight4;  // contiguous [D/2], [D/4] and [D/4]
  const float* bias4;                    // one number
  float eps;
  float* logits;  // contiguous [tokens]
};

}  // namespace ssm
