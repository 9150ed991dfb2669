// What the hosts of the tree scan hand to a kernel: raw pointers, sizes and strides (in elements).
#pragma once

#include "tree/params.h"

namespace ssm {

// scalar_t is the type of u, h and their gradients; weight_t that of the weights, scalar_t or acc_t<scalar_t>.
struct TreeScanParams : TreeShape {
  bool both;  // both passes, or the one from the leaves to the root alone

  const int64_t* parent;  // contiguous [batch, L]
  const int64_t* order;   // contiguous [batch, L]
  const void* u;          // scalar_t
  const void* weight;     // weight_t
  VertexStrides u_stride, weight_stride;
};

struct TreeScanGradients {
  const void* grad_h;  // scalar_t
  VertexStrides grad_h_stride;
  void* grad_u;       // scalar_t, contiguous [batch, L, D]
  void* grad_weight;  // weight_t, contiguous [batch, L, D]
};

}  // namespace ssm
