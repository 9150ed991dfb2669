// Host side of the MLP on the GPU.

#include <algorithm>
#include <limits>
#include <tuple>

#include "common/cuda/architecture.h"
#include "common/cuda/device.h"
#include "common/dispatch.h"
#include "common/integers.h"
#include "mlp/cuda/hopper.h"
#include "mlp/cuda/launch.h"
#include "mlp/cuda/tuning.h"
#include "mlp/inputs.h"

namespace ssm {
namespace {

constexpr int64_t kMostHidden = 1 << 20;  // so that sizes of weights are no larger than int

// The weights on Hopper's tensor cores, with as many pieces in shared memory as it holds. None if it holds too few.
HopperLayers hopper_layers(const TwoLayers& given) {
  HopperLayers layers(
      given.channels, given.hidden, given.channels, hopper_chunk(given.channels), 1, given.weight1, given.weight2);
  hold_pieces<HopperMlpMemory>(layers, present_device().block_shared);
  return layers;
}

// Whether the forward pass is computed by Hopper's tensor cores on the present device.
bool runs_on_hopper(int64_t channels, int64_t hidden) {
  if (!hopper_mlp_has(channels) || hidden <= 0 || hidden % kHiddenChunk != 0 || hidden > kMostHidden) return false;
  if (!is_compiled_for(hopper_mlp_kernel_for<c10::Half>(static_cast<int>(channels)), kHopper)) return false;
  const TwoLayers layers{static_cast<int>(channels), static_cast<int>(hidden), static_cast<int>(channels)};
  return hopper_layers(layers).stages > 0;
}

void run_on_hopper(const MlpParams& p, const Tensor& x) {
  HopperMlpLaunch launch{hopper_layers(p.layers), p.tokens, p.x, p.bias1, p.bias2, p.y, 0};
  const Tensor packed = empty({launch.layers.pieces, launch.layers.items}, x);
  launch.layers.packed = packed.mutable_data_ptr();
  const int64_t tile = int64_t{kHopperRows} * hopper_groups(p.layers.channels);
  launch.blocks = static_cast<int>(std::min(ceil_div(p.tokens, tile), multiprocessors()));
  with_half_type(x, [&](auto zero) { launch_hopper_mlp<decltype(zero)>(launch); });
}

void check_widths(const MlpParams& p) {
  SSM_CHECK(mlp_has(p.layers.channels) && p.layers.hidden > 0 && p.layers.hidden % kHiddenChunk == 0,
      "mlp: there is no kernel for ", p.layers.channels, " channels and ", p.layers.hidden, " hidden ones");
}

// Room for the weights as the kernels read them.
Tensor packed_weights(const MlpParams& p, const Tensor& x) {
  return empty({p.layers.chunks_of_all(), chunk_items(p.layers.channels, p.layers.out)}, x);
}

Tensor mlp(const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2) {
  MlpLaunch p{mlp_params(x, weight1, bias1, weight2)};
  const DeviceGuard guard(x.get_device_index());
  const bool on_hopper = runs_on_hopper(p.layers.channels, p.layers.hidden);
  if (!on_hopper) check_widths(p);
  check_mlp_input(bias2, x, {p.layers.channels}, kFloat, "bias2");
  const Tensor y = empty(x.sizes(), x);
  if (x.numel() == 0) return y;
  p.bias2 = bias2.const_data_ptr<float>();
  p.y = y.mutable_data_ptr();
  if (on_hopper) {
    run_on_hopper(p, x);
    return y;
  }
  p.blocks =
      static_cast<int>(std::min<int64_t>(ceil_div(p.tokens, mlp_tile(p.layers.channels, false)), multiprocessors()));
  const Tensor packed = packed_weights(p, x);
  p.layers.packed = packed.mutable_data_ptr();
  with_half_type(x, [&](auto zero) { launch_mlp<decltype(zero)>(p); });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_backward(
    const Tensor& grad_y_given, const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2) {
  MlpLaunch p{mlp_params(x, weight1, bias1, weight2)};
  check_widths(p);
  const Tensor grad_y = contiguous(grad_y_given);
  check_mlp_input(grad_y, x, x.sizes(), x.scalar_type(), "grad_y");
  const Tensor grad_x = empty(x.sizes(), x), h = empty({p.tokens, p.layers.hidden}, x),
               grad_u = empty({p.tokens, p.layers.hidden}, x);
  if (x.numel() == 0) return {grad_x, h, grad_u, zeros({p.layers.hidden}, bias1)};
  const DeviceGuard guard(x.get_device_index());
  const Tensor packed = packed_weights(p, x);
  p.layers.packed = packed.mutable_data_ptr();
  const int64_t tiles = ceil_div(p.tokens, mlp_tile(p.layers.channels, true));
  p.of_group = ceil_div(tiles, kMlpGroups);
  p.groups = ceil_div(tiles, p.of_group);
  p.blocks = static_cast<int>(std::min(p.groups, multiprocessors()));
  const Tensor partial = empty({p.groups, p.layers.hidden}, bias1), grad_bias1 = empty({p.layers.hidden}, bias1);
  p.grad_y = grad_y.const_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.h = h.mutable_data_ptr();
  p.grad_u = grad_u.mutable_data_ptr();
  p.partial = partial.mutable_data_ptr<float>();
  p.grad_bias1 = grad_bias1.mutable_data_ptr<float>();
  with_half_type(x, [&](auto zero) { launch_mlp_backward<decltype(zero)>(p); });
  return {grad_x, h, grad_u, grad_bias1};
}

// Whether the present library and a device have kernels for such layers, both ways.
bool mlp_fits(int64_t channels, int64_t hidden, int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  if (library_architecture("mlp") < kFirstWithFragments || !mlp_has(channels) || hidden <= 0) return false;
  if (hidden % kHiddenChunk != 0 || hidden > kMostHidden) return false;
  const auto bytes = [&](bool backward) {
    return MlpMemory<c10::Half>(backward, mlp_tile(static_cast<int>(channels), backward), static_cast<int>(channels),
        static_cast<int>(hidden), kChunkStages, nullptr)
        .bytes;
  };
  return std::max(bytes(false), bytes(true)) <= present_device().block_shared;
}

// Whether they have a kernel for the results alone, without gradients.
bool mlp_infers(int64_t channels, int64_t hidden, int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  return runs_on_hopper(channels, hidden);
}

}  // namespace

int mlp_tile(int channels, bool backward) {
  return (backward ? 1 : mlp_rows(channels / kWide)) * kWide * kLayerWarps;
}

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_build, m) {
  m.def("mlp_fits(int channels, int hidden, int device) -> bool");
  m.def("mlp_infers(int channels, int hidden, int device) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(ssm_build, CompositeExplicitAutograd, m) {
  m.impl("mlp_fits", TORCH_BOX(&mlp_fits));
  m.impl("mlp_infers", TORCH_BOX(&mlp_infers));
}

STABLE_TORCH_LIBRARY_IMPL(ssm_core, CUDA, m) {
  m.impl("mlp", TORCH_BOX(&mlp));
  m.impl("mlp_backward", TORCH_BOX(&mlp_backward));
}

}  // namespace ssm
