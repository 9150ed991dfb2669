// Host side of the token logits on the GPU.

#include <algorithm>

#include "common/checks.h"
#include "common/cuda/architecture.h"
#include "common/cuda/device.h"
#include "token_logits/cuda/launch.h"
#include "token_logits/cuda/tuning.h"

namespace ssm {
namespace {

void check_input(const Tensor& tensor, const Tensor& x, Sizes shape, ScalarType dtype, const char* name) {
  check_device(tensor, kCUDA, x, name);
  check_shape(tensor, shape, name);
  check_dtype(tensor, dtype, name);
  check_contiguous(tensor, name);
  SSM_CHECK(
      reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0, name, " must begin at a multiple of 16 bytes");
}

Tensor token_logits(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps, const Tensor& weight1,
    const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, const Tensor& weight3, const Tensor& bias3,
    const Tensor& weight4, const Tensor& bias4) {
  SSM_CHECK(x.dim() == 2, "x must be [T, D], got ", x.sizes());
  const auto half = x.scalar_type();
  SSM_CHECK(half == kHalf || half == kBFloat16, "token_logits takes tokens of float16 or bfloat16, got ", half);
  const int64_t D = x.size(1);
  SSM_CHECK(token_logits_has(D), "token_logits: there is no kernel for ", D, " channels");
  check_input(x, x, x.sizes(), half, "x");
  check_input(weight1, x, {D, D}, half, "weight1");
  check_input(weight2, x, {D / 2, D}, half, "weight2");
  check_input(weight3, x, {D / 4, D / 2}, half, "weight3");
  check_input(gamma, x, {D}, kFloat, "gamma");
  check_input(beta, x, {D}, kFloat, "beta");
  check_input(bias1, x, {D}, kFloat, "bias1");
  check_input(bias2, x, {D / 2}, kFloat, "bias2");
  check_input(bias3, x, {D / 4}, kFloat, "bias3");
  check_input(weight4, x, {D / 4}, kFloat, "weight4");
  check_device(bias4, kCUDA, x, "bias4");
  check_shape(bias4, {}, "bias4");
  check_dtype(bias4, kFloat, "bias4");
  const Tensor logits = empty({x.size(0)}, gamma);
  if (x.size(0) == 0) return logits;
  const DeviceGuard guard(x.get_device_index());
  const int channels = static_cast<int>(D);
  const Tensor packed = empty({channels / kHiddenChunk, chunk_items(channels, channels / 2)}, x);
  TokenLogitsLaunch p{};
  p.layers = {channels, channels, channels / 2, weight1.const_data_ptr(), weight2.const_data_ptr(),
      packed.mutable_data_ptr(), 0};
  p.tokens = x.size(0);
  p.x = x.const_data_ptr();
  p.weight3 = weight3.const_data_ptr();
  p.gamma = gamma.const_data_ptr<float>();
  p.beta = beta.const_data_ptr<float>();
  p.bias1 = bias1.const_data_ptr<float>();
  p.bias2 = bias2.const_data_ptr<float>();
  p.bias3 = bias3.const_data_ptr<float>();
  p.weight4 = weight4.const_data_ptr<float>();
  p.bias4 = bias4.const_data_ptr<float>();
  p.eps = static_cast<float>(eps);
  p.logits = logits.mutable_data_ptr<float>();
  const int64_t tiles = (p.tokens + kLogitsTile - 1) / kLogitsTile;
  p.blocks = static_cast<int>(std::min(tiles, multiprocessors()));
  if (half == kHalf) {
    launch_token_logits<c10::Half>(p);
  } else {
    launch_token_logits<c10::BFloat16>(p);
  }
  return logits;
}

// Whether the present library and a device have a kernel for so many channels.
bool token_logits_fits(int64_t channels, int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  if (library_architecture("token_logits") < kFirstWithFragments || !token_logits_has(channels)) return false;
  const size_t bytes = TokenLogitsMemory<c10::Half>(static_cast<int>(channels), kChunkStages, nullptr).bytes;
  return bytes <= present_device().block_shared;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_build, m) {
  m.def("token_logits_fits(int channels, int device) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(ssm_build, CompositeExplicitAutograd, m) {
  m.impl("token_logits_fits", TORCH_BOX(&token_logits_fits));
}

STABLE_TORCH_LIBRARY_IMPL(quadtree_ssm, CUDA, m) {
  m.impl("token_logits", TORCH_BOX(&token_logits));
}

}  // namespace ssm
