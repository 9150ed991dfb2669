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

template <typename scalar_t>
void launch(const MlpLaunch& p, bool backward, void (*kernel)(MlpLaunch), int rows) {
  const MlpMemory<scalar_t> memory(
      backward, rows, p.channels, p.hidden, backward ? kMlpBackwardChunk : kMlpChunk, nullptr);
  launch_kernel(kMlpName, kernel,
      {dim3(static_cast<unsigned>(p.blocks)), dim3(kMlpThreads), memory.bytes, 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_mlp(const MlpLaunch& p) {
  with_steps(p.channels, [&](auto steps) {
    launch<scalar_t>(p, false, mlp_kernel<scalar_t, steps>, mlp_rows(steps) * kMlpWide * kMlpWarps);
  });
}

template <typename scalar_t>
void launch_mlp_backward(const MlpLaunch& p) {
  with_steps(p.channels, [&](auto steps) {
    launch<scalar_t>(p, true, mlp_backward_kernel<scalar_t, steps>, kMlpWide * kMlpWarps);
  });
  launch_column_sums<float, MlpParams>(kMlpName, {p.partial, p.groups, p.hidden, p.hidden, p.grad_bias1, nullptr});
}

}  // namespace ssm
