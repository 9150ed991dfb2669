// What the host hands to the kernel of the tokens' distances by value, and its launcher.
#pragma once

#include "tree/params.h"

namespace ssm {

constexpr int kReach = 3;  // furthest apart that two tokens with an edge are

// scalar_t is the type of x, delta and B; acc_t<scalar_t> that of delta_bias and the distances.
struct DistanceLaunch {
  int64_t batch, length, channels, states, edges;
  int reach;
  const void *x, *delta, *B;
  VertexStrides x_stride, delta_stride, B_stride;
  const void* delta_bias;
  const int64_t *start, *end;
  void* out;
};

template <typename scalar_t>
void launch_token_distance(const DistanceLaunch& launch);

}  // namespace ssm
