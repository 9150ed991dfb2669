// Launches teams: blocks by themselves or, from sm_90 on, clusters of them. Apart from what kernels do as teams
// (team.cuh), which takes nvcc long to read.
#pragma once

#include <c10/cuda/CUDAException.h>

#include "common/cuda/device.h"

namespace ssm {

constexpr int kMaxTeam = 8;  // blocks of a portable cluster

// A cluster needs sm_90; elsewhere a team is one block.
inline int largest_team() {
  return device_properties().major >= 9 ? kMaxTeam : 1;
}

// Launches `teams` teams of `size` blocks each.
template <typename... Parameters, typename... Arguments>
void launch_teams(
    void (*kernel)(Parameters...), int64_t teams, int size, int threads, size_t shared_bytes, Arguments... arguments) {
  constexpr size_t kUnasked = 32 * 1024;  // 48 KiB, of which what a kernel declares itself is a part
  if (shared_bytes > kUnasked) {
    C10_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(teams * size));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = current_stream();
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(size);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = size > 1 ? 1 : 0;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace ssm
