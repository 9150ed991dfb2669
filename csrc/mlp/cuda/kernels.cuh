// Launchers of the MLP's kernels for one half type.
#pragma once

#include "mlp/cuda/backward.cuh"
#include "mlp/cuda/forward.cuh"

namespace ssm {
namespace {

constexpr const char* kMlpName = "mlp";

// Calls `run` with the number of channels, in units of kWide, as a constant.
template <typename Run>
void with_steps(int channels, const Run& run) {
  switch (channels / kWide) {
    case 3:
      return run(std::integral_constant<int, 3>());
    case 4:
      return run(std::integral_constant<int, 4>());
    case 5:
      return run(std::integral_constant<int, 5>());
    case 6:
      return run(std::integral_constant<int, 6>());
    case 8:
      return run(std::integral_constant<int, 8>());
    case 10:
      return run(std::integral_constant<int, 10>());
    case 12:
      return run(std::integral_constant<int, 12>());
  }
}

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
  with_steps(p.layers.channels, [&](auto steps) { launch_pass<scalar_t>(p, false, mlp_kernel<scalar_t, steps>); });
}

template <typename scalar_t>
void launch_mlp_backward(const MlpLaunch& p) {
  with_steps(
      p.layers.channels, [&](auto steps) { launch_pass<scalar_t>(p, true, mlp_backward_kernel<scalar_t, steps>); });
  launch_column_sums<float, MlpParams>(
      kMlpName, {p.partial, p.groups, p.layers.hidden, {p.layers.hidden}, {p.grad_bias1}});
}

}  // namespace ssm
