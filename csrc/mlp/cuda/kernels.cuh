// Launchers of the MLP's kernels for one half type.
#pragma once

#include "mlp/cuda/backward.cuh"
#include "mlp/cuda/forward.cuh"

namespace ssm {
namespace {

constexpr const char* kMlpName = "mlp";

// Launches a pass, after the kernel that packs the weights.
template <typename scalar_t>
void launch_pass(MlpLaunch p, bool backward, void (*kernel)(MlpLaunch)) {
  launch_pack<scalar_t>(kMlpName, p.layers);
  const auto bytes = [&](int chunks) {
    return MlpMemory<scalar_t>(
        backward, mlp_tile(p.layers.channels, backward), p.layers.channels, p.layers.hidden, chunks, nullptr)
        .bytes;
  };
  p.layers.chunks = p.layers.chunks_of_all();
  if (bytes(p.layers.chunks) > kernel_limits(kernel, kMlpName).shared) p.layers.chunks = kChunkStages;
  launch_kernel(kMlpName, kernel,
      {dim3(static_cast<unsigned>(p.blocks)), dim3(kLayerThreads), bytes(p.layers.chunks), 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_mlp(const MlpLaunch& p) {
  with_listed<kMlpChannels>(p.layers.channels,
      [&](auto channels) { launch_pass<scalar_t>(p, false, mlp_kernel<scalar_t, channels / kWide>); });
}

template <typename scalar_t>
void launch_mlp_backward(const MlpLaunch& p) {
  with_listed<kMlpChannels>(p.layers.channels,
      [&](auto channels) { launch_pass<scalar_t>(p, true, mlp_backward_kernel<scalar_t, channels / kWide>); });
  launch_column_sums<float, MlpParams>(
      kMlpName, {p.partial, p.groups, p.layers.hidden, {p.layers.hidden}, {p.grad_bias1}});
}

}  // namespace ssm
