// Launchers of the MLP's kernels for one half type.
#pragma once

#include "mlp/cuda/backward.cuh"
#include "mlp/cuda/forward.cuh"

namespace ssm {
namespace {

constexpr const char* kMlpName = "mlp";

// Calls `run` with the number of channels, in units of kMlpWide, as a constant.
template <typename Run>
void with_steps(int channels, const Run& run) {
  switch (channels / kMlpWide) {
    case 3: return run(std::integral_constant<int, 3>());
    case 4: return run(std::integral_constant<int, 4>());
    case 5: return run(std::integral_constant<int, 5>());
    case 6: return run(std::integral_constant<int, 6>());
    case 8: return run(std::integral_constant<int, 8>());
    case 10: return run(std::integral_constant<int, 10>());
    case 12: return run(std::integral_constant<int, 12>());
  }
}

// Launches a pass, after the kernel that packs the weights.
template <typename scalar_t>
void launch_pass(MlpLaunch p, bool backward, void (*kernel)(MlpLaunch)) {
  const int64_t pieces = int64_t{1} * (p.hidden / kMlpChunk) * (mlp_chunk_items(p.channels) / kMlpVector);
  const dim3 grid(grid_blocks((pieces + kPackThreads - 1) / kPackThreads, kMlpName));
  launch_kernel(kMlpName, mlp_pack_kernel<scalar_t>, {grid, dim3(kPackThreads), 0, 1, current_stream()}, p);
  const auto bytes = [&](int chunks) {
    return MlpMemory<scalar_t>(backward, mlp_tile(p, backward), p.channels, p.hidden, chunks, nullptr).bytes;
  };
  p.chunks = p.hidden / kMlpChunk;
  if (bytes(p.chunks) > kernel_limits(kernel, kMlpName).shared) p.chunks = kMlpStages;
  launch_kernel(kMlpName, kernel,
      {dim3(static_cast<unsigned>(p.blocks)), dim3(kMlpThreads), bytes(p.chunks), 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_mlp(const MlpLaunch& p) {
  with_steps(p.channels, [&](auto steps) { launch_pass<scalar_t>(p, false, mlp_kernel<scalar_t, steps>); });
}

template <typename scalar_t>
void launch_mlp_backward(const MlpLaunch& p) {
  with_steps(p.channels, [&](auto steps) { launch_pass<scalar_t>(p, true, mlp_backward_kernel<scalar_t, steps>); });
  launch_column_sums<float, MlpParams>(kMlpName, {p.partial, p.groups, p.hidden, {p.hidden}, {p.grad_bias1}});
}

}  // namespace ssm
