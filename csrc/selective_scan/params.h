// What the hosts of the selective scan hand to a kernel: raw pointers, sizes and strides (in elements).
#pragma once

#include <cstdint>

namespace ssm {

struct Strides {
  int64_t batch = 0;
  int64_t group = 0;
  int64_t token = 0;
  int64_t last = 1;
};

// K = groups · inner directions. u and y have `groups` of them, everything else K; direction k reads group k / inner.
// The channel stride of u, delta and y is 1.
struct SelectiveScanParams {
  int64_t batch, groups, inner, length, channels, states;
  bool delta_softplus;

  const void *u, *delta, *B, *C;   // scalar_t
  const void *A, *D, *delta_bias;  // acc_t, contiguous [K, D, N], [K, D], [K, D]; D and delta_bias may be null
  const int64_t* order;            // may be null
  const bool* reverse;             // [K], on the host
  Strides u_stride, delta_stride, B_stride, C_stride, order_stride;

  void* y;           // scalar_t, contiguous [batch, groups, L, D]
  void* last_state;  // acc_t, contiguous [batch, K, D, N]
};

struct SelectiveScanGradients {
  const void* grad_y;                       // scalar_t, contiguous as y
  const void* grad_last_state;              // acc_t, contiguous [batch, K, D, N], may be null
  void* grad_u;                             // scalar_t, contiguous as y
  void* grad_delta;                         // scalar_t, contiguous [batch, K, L, D]
  void *grad_B, *grad_C;                    // acc_t, contiguous [blocks, batch, K, L, N]
  void *grad_A, *grad_D, *grad_delta_bias;  // acc_t, contiguous [batch, K, D, N], [batch, K, D], [batch, K, D]
};

}  // namespace ssm
