// What the hosts of the state's readout hand to a kernel: raw pointers, sizes and strides (in elements).
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace ssm {

// y = C · LN(h) + D · x, row by row: a row is the channels of one token. scalar_t is the type of h, x, C, y and their
// gradients; acc is acc_t<scalar_t>.
struct ReadoutParams {
  const void *h, *x;              // scalar_t, contiguous [rows, channels]
  const void* C;                  // scalar_t [batch, length]
  const void* grad_y;             // scalar_t, contiguous [rows, channels]
  const void *D, *weight, *bias;  // acc, contiguous [channels]
  void* y;                        // scalar_t, contiguous [rows, channels]
  void *grad_h, *grad_x;          // scalar_t, contiguous [rows, channels]
  void* grad_C;                   // scalar_t, contiguous [rows]

  int64_t rows, length;  // batch · length, length
  int64_t C_batch_stride, C_token_stride;
  int channels;
  double eps;

  // The element of C that belongs to a row. Samples mostly follow each other, so that no division is needed.
  C10_HOST_DEVICE int64_t C_of(int64_t row) const {
    if (C_batch_stride == length * C_token_stride) return row * C_token_stride;
    return row / length * C_batch_stride + row % length * C_token_stride;
  }
};

// D, weight and bias: the sums of their gradients have this order: weight, bias, D.
constexpr int kReadoutParameters = 3;

}  // namespace ssm
