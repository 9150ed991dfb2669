// What the hosts of the norms hand to a kernel: raw pointers and sizes.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>
#include <limits>

namespace ssm {

// stream = residual + scale · x, or x alone; y = norm(stream), times silu(gate) if there is a gate, row by row: a row
// is the channels of one token. A kernel is compiled for one type scalar_t, and acc is acc_t<scalar_t>. x, the stream
// and y each have one of the two. With a gate there is no residual, and all maps have scalar_t.
struct NormParams {
  const void* x;              // contiguous [rows, channels]
  const void* residual;       // contiguous [rows, channels], in the stream's type; null: the stream is x
  const void* gate;           // contiguous [rows, channels]; null: y is the norm alone
  const void* scale;          // acc, contiguous [rows / sample_rows]; null: 1
  const void *weight, *bias;  // acc, contiguous [channels]; a null bias is 0
  // What the backward pass reads, contiguous [rows, channels]; a null grad_stream is 0.
  const void *grad_y, *grad_stream, *kept_stream;
  // The results, contiguous [rows, channels]; null: not wanted.
  void *y, *stream, *grad_residual, *grad_x, *grad_gate;
  void *grad_weight, *grad_bias;  // acc, contiguous [channels]

  int64_t rows, sample_rows;
  int channels;
  double eps;
  bool centred;
  bool x_wide, stream_wide, y_wide;  // whether the type is acc

  template <typename acc>
  C10_HOST_DEVICE acc scale_of(int64_t row) const {
    if (scale == nullptr) return acc(1);
    // A division of 64 bits takes a GPU as long as the norm of a thread's channels.
    const bool is_short = rows <= std::numeric_limits<uint32_t>::max();
    const int64_t sample =
        is_short ? static_cast<uint32_t>(row) / static_cast<uint32_t>(sample_rows) : row / sample_rows;
    return static_cast<const acc*>(scale)[sample];
  }
};

// Whose gradients are sums over the rows: weight, then bias.
constexpr int kNormParameters = 2;

}  // namespace ssm
