// Host side of the token logits on the GPU.

#include <algorithm>

#include "common/checks.h"
#include "common/cuda/architecture.h"
#include "common/cuda/device.h"
#include "common/dispatch.h"
#include "common/integers.h"
#include "token_logits/cuda/hopper.h"
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

// The weights on Hopper's tensor cores, with as many pieces in shared memory as it holds. None if it holds too few.
HopperLayers hopper_layers(int channels, const void* weight1, const void* weight2, const void* weight3) {
  HopperLayers layers = logits_layers(channels, weight1, weight2, weight3);
  hold_pieces<HopperLogitsMemory>(layers, present_device().block_shared);
  return layers;
}

// Whether Hopper's tensor cores compute the logits on the present device.
bool runs_on_hopper(int64_t channels) {
  if (!token_logits_has(channels)) return false;
  const int given = static_cast<int>(channels);
  return is_compiled_for(hopper_logits_kernel_for<c10::Half>(given), kHopper) &&
         hopper_layers(given, nullptr, nullptr, nullptr).stages > 0;
}

void run_on_hopper(const TokenLogitsParams& p, const Tensor& x, const Tensor& weight1, const Tensor& weight2) {
  const int channels = static_cast<int>(x.size(1));
  HopperLogitsLaunch launch{
      p, hopper_layers(channels, weight1.const_data_ptr(), weight2.const_data_ptr(), p.weight3), 0};
  const Tensor packed = empty({launch.layers.pieces, launch.layers.items}, x);
  launch.layers.packed = packed.mutable_data_ptr();
  const int64_t tile = int64_t{kHopperRows} * logits_groups(channels);
  launch.blocks = static_cast<int>(std::min(ceil_div(p.tokens, tile), multiprocessors()));
  with_half_type(x, [&](auto zero) { launch_hopper_logits<decltype(zero)>(launch); });
}

void run_on_others(const TokenLogitsParams& p, const Tensor& x, const Tensor& weight1, const Tensor& weight2) {
  const int channels = static_cast<int>(x.size(1));
  const Tensor packed = empty({channels / kHiddenChunk, chunk_items(channels, channels / 2)}, x);
  const TokenLogitsLaunch launch{p,
      {channels, channels, channels / 2, weight1.const_data_ptr(), weight2.const_data_ptr(), packed.mutable_data_ptr(),
          0},
      static_cast<int>(std::min(ceil_div(p.tokens, kLogitsTile), multiprocessors()))};
  with_half_type(x, [&](auto zero) { launch_token_logits<decltype(zero)>(launch); });
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
  TokenLogitsParams p{};
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
  if (runs_on_hopper(D)) {
    run_on_hopper(p, x, weight1, weight2);
  } else {
    run_on_others(p, x, weight1, weight2);
  }
  return logits;
}

// Whether the present library and a device have a kernel for so many channels.
bool token_logits_fits(int64_t channels, int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  if (runs_on_hopper(channels)) return true;
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
