// What the host of the tokens' distances hands to a kernel: raw pointers, sizes and strides (in elements).
#pragma once

#include "tree/params.h"

namespace ssm {

// scalar_t is the type of x, delta and B; acc is acc_t<scalar_t>.
struct TokenDistanceParams : TreeShape {
  int64_t states, edges;
  int reach;
  const void *x, *delta, *B;  // scalar_t
  VertexStrides x_stride, delta_stride, B_stride;
  const void* delta_bias;      // acc, contiguous [D]
  const int64_t *start, *end;  // contiguous [batch]
  void* out;                   // acc, contiguous [batch, edges]
};

}  // namespace ssm
