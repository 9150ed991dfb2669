// Host side of the tokens' distances on the GPU.

#include <algorithm>

#include "common/dispatch.h"
#include "token_distance/cuda/launch.h"
#include "token_distance/cuda/tuning.h"
#include "tree/inputs.h"

namespace ssm {
namespace {

Tensor token_distance(const Tensor& x, const Tensor& delta, const Tensor& delta_bias, const Tensor& B,
    const Tensor& start, const Tensor& end, int64_t reach) {
  const DeviceGuard guard(x.get_device_index());
  check_vertex_rows(x, "x", int64_t(1) << 31);
  SSM_CHECK(reach >= 1 && reach <= kReach, "reach must be 1 to ", kReach, ", got ", reach);
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2);
  const auto accumulate = sum_type(x);
  check_shape(delta, x.sizes(), "delta");
  check_dtype(delta, x.scalar_type(), "delta");
  check_shape(delta_bias, {channels}, "delta_bias");
  check_dtype(delta_bias, accumulate, "delta_bias");
  SSM_CHECK(B.dim() == 3 && B.size(0) == batch && B.size(1) == length, "B must be [B, L, N], got ", B.sizes());
  check_dtype(B, x.scalar_type(), "B");
  for (const auto& place : {start, end}) {
    check_shape(place, {batch}, "start and end");
    check_dtype(place, kLong, "start and end");
  }
  for (const auto& tensor : {x, delta, delta_bias, B, start, end}) {
    check_device(tensor, kCUDA, x, "x, delta, delta_bias, B, start and end");
  }
  const int64_t furthest = std::min(reach, length - 1), edges = furthest * length - furthest * (furthest + 1) / 2;
  Tensor out = empty({batch, edges}, x, accumulate);
  if (out.numel() == 0) return out;
  const Tensor inputs = with_adjacent_channels(x), steps = with_adjacent_channels(delta);
  const Tensor weights = with_adjacent_channels(B);
  const Tensor bias = contiguous(delta_bias), begins = contiguous(start), ends = contiguous(end);
  const TokenDistanceParams p{{batch, length, channels}, B.size(2), edges, static_cast<int>(reach),
      inputs.const_data_ptr(), steps.const_data_ptr(), weights.const_data_ptr(), vertex_strides(inputs),
      vertex_strides(steps), vertex_strides(weights), bias.const_data_ptr(), begins.const_data_ptr<int64_t>(),
      ends.const_data_ptr<int64_t>(), out.data_ptr()};
  SSM_DISPATCH(x.scalar_type(), "token_distance", [&] { launch_token_distance<scalar_t>(p); });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("token_distance", TORCH_BOX(&token_distance));
}

}  // namespace ssm
