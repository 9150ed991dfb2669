// What the host of the selective tree scan hands to a kernel: raw pointers, sizes and strides (in elements).
#pragma once

#include "tree/params.h"

namespace ssm {

// scalar_t is the type of x, delta, B, h and their gradients; acc is acc_t<scalar_t>.
struct SelectiveTreeScanParams : TreeShape {
  const void *x, *delta;  // scalar_t
  VertexStrides x_stride, delta_stride;
  const void* B;  // scalar_t [batch, L]
  VertexStrides B_stride;
  const void *A, *delta_bias;  // acc [D]
};

}  // namespace ssm
