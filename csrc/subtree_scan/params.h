// What the hosts of the selective subtree scan hand to a kernel: raw pointers, sizes and strides (in elements).
#pragma once

#include "tree/params.h"

namespace ssm {

// scalar_t is the type of x, delta, B, C, y and their gradients; acc is acc_t<scalar_t>.
struct SubtreeScanParams : TreeShape {
  int64_t states;
  bool next;  // an edge has the step of the token after its child; of the last token, the first

  const void *x, *delta;  // scalar_t [batch, L, D]
  VertexStrides x_stride, delta_stride;
  const void *B, *C;  // scalar_t [batch, L, N], states side by side
  VertexStrides B_stride, C_stride;
  const void* A;           // acc, contiguous [D, N]
  const void* delta_bias;  // acc, contiguous [D]

  void* y;           // scalar_t, contiguous [batch, L, D]
  void* root_state;  // acc, contiguous [batch, D, N]
};

struct SubtreeScanGradients {
  const void* grad_y;  // scalar_t [batch, L, D]
  VertexStrides grad_y_stride;
  const void* grad_root_state;  // acc, contiguous [batch, D, N], or null

  void *grad_x, *grad_delta;  // scalar_t, contiguous [batch, L, D]
  void* grad_A;               // acc, contiguous [batch, D, N], to be summed over the batch
  void* grad_bias;            // acc, contiguous [batch, D], to be summed over the batch
};

}  // namespace ssm
