// Host side of the tokens' distances on the GPU.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "common/dispatch.h"
#include "token_distance/cuda/launch.h"
#include "token_distance/cuda/tuning.h"
#include "tree/inputs.h"

namespace ssm {
namespace {

at::Tensor token_distance(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& delta_bias,
    const at::Tensor& B, const at::Tensor& start, const at::Tensor& end, int64_t reach) {
  const c10::cuda::CUDAGuard guard(x.device());
  check_vertex_rows(x, "x", int64_t(1) << 31);
  TORCH_CHECK(reach >= 1 && reach <= kReach, "reach must be 1 to ", kReach, ", got ", reach);
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2);
  const auto accumulate = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  check_shape(delta, x.sizes(), "delta");
  check_dtype(delta, x.scalar_type(), "delta");
  check_shape(delta_bias, {channels}, "delta_bias");
  check_dtype(delta_bias, accumulate, "delta_bias");
  TORCH_CHECK(B.dim() == 3 && B.size(0) == batch && B.size(1) == length, "B must be [B, L, N], got ", B.sizes());
  check_dtype(B, x.scalar_type(), "B");
  for (const auto& place : {start, end}) {
    check_shape(place, {batch}, "start and end");
    check_dtype(place, at::kLong, "start and end");
  }
  for (const auto& tensor : {x, delta, delta_bias, B, start, end}) {
    check_device(tensor, at::kCUDA, x, "x, delta, delta_bias, B, start and end");
  }
  const int64_t furthest = std::min(reach, length - 1), edges = furthest * length - furthest * (furthest + 1) / 2;
  at::Tensor out = at::empty({batch, edges}, x.options().dtype(accumulate));
  if (out.numel() == 0) return out;
  const at::Tensor inputs = with_adjacent_channels(x), steps = with_adjacent_channels(delta);
  const at::Tensor weights = with_adjacent_channels(B);
  const at::Tensor bias = delta_bias.contiguous(), begins = start.contiguous(), ends = end.contiguous();
  const TokenDistanceParams p{{batch, length, channels}, B.size(2), edges, static_cast<int>(reach),
      inputs.const_data_ptr(), steps.const_data_ptr(), weights.const_data_ptr(), vertex_strides(inputs),
      vertex_strides(steps), vertex_strides(weights), bias.const_data_ptr(), begins.const_data_ptr<int64_t>(),
      ends.const_data_ptr<int64_t>(), out.data_ptr()};
  SSM_DISPATCH(x.scalar_type(), "token_distance", [&] { launch_token_distance<scalar_t>(p); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("token_distance", &token_distance);
}

}  // namespace ssm
