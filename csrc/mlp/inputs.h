// The host side of the MLP: checks, results, and tensors to raw pointers.
#pragma once

#include <cstdint>
#include <limits>

#include "common/checks.h"
#include "mlp/params.h"

namespace ssm {

inline void check_mlp_input(const Tensor& tensor, const Tensor& x, Sizes shape, ScalarType dtype, const char* name) {
  check_device(tensor, kCUDA, x, name);
  check_shape(tensor, shape, name);
  check_dtype(tensor, dtype, name);
  check_contiguous(tensor, name);
  SSM_CHECK(
      reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0, name, " must begin at a multiple of 16 bytes");
}

// What both passes read. The second bias is missing in the backward pass.
inline MlpParams mlp_params(const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2) {
  SSM_CHECK(x.dim() == 2 && weight1.dim() == 2, "x must be [T, C] and weight1 [H, C], got ", x.sizes(), " and ",
      weight1.sizes());
  SSM_CHECK(x.scalar_type() == kHalf || x.scalar_type() == kBFloat16, "mlp takes tensors of float16 or bfloat16, got ",
      x.scalar_type());
  const int64_t channels = x.size(1), hidden = weight1.size(0);
  SSM_CHECK(hidden < std::numeric_limits<int>::max(), "weight1 is too large: ", weight1.sizes());
  check_mlp_input(x, x, x.sizes(), x.scalar_type(), "x");
  check_mlp_input(weight1, x, {hidden, channels}, x.scalar_type(), "weight1");
  check_mlp_input(bias1, x, {hidden}, kFloat, "bias1");
  check_mlp_input(weight2, x, {channels, hidden}, x.scalar_type(), "weight2");
  MlpParams p{};
  p.tokens = x.size(0);
  p.layers = {static_cast<int>(channels), static_cast<int>(hidden), static_cast<int>(channels),
      weight1.const_data_ptr(), weight2.const_data_ptr(), nullptr, 0};
  p.x = x.const_data_ptr();
  p.bias1 = bias1.const_data_ptr<float>();
  return p;
}

}  // namespace ssm
