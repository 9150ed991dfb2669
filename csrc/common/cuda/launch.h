// Launches kernels whose blocks stand alone or, from sm_90 on, form clusters. Errors become exceptions. What needs more
// than the CUDA runtime is in launch.cpp, so that nvcc reads no header of torch for it.
#pragma once

#include "common/cuda/device.h"

namespace ssm {

constexpr int kPortableCluster = 8;  // blocks that every GPU with clusters accepts

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes;
  int cluster;  // blocks of a cluster, which are neighbours in x
  cudaStream_t stream;
};

// Blocks as a grid's first dimension; raises an error if there are more than a launch can have.
unsigned grid_blocks(int64_t blocks, const char* op);

// `arguments` point to the kernel's parameters.
void launch_pointers(const void* kernel, const LaunchShape& shape, void** arguments);

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), const LaunchShape& shape, const Arguments&... arguments) {
  const auto launch = [&](Parameters... parameters) {
    void* pointers[] = {static_cast<void*>(&parameters)...};
    launch_pointers(reinterpret_cast<const void*>(kernel), shape, pointers);
  };
  launch(arguments...);
}

// Blocks of a team, the threads that work on one sample together (team.cuh): more than one needs clusters.
inline int largest_team() {
  return device_properties().major >= 9 ? kPortableCluster : 1;
}

// Launches `teams` teams of `size` blocks each.
template <typename... Parameters, typename... Arguments>
void launch_teams(void (*kernel)(Parameters...), int64_t teams, int size, int threads, size_t shared_bytes,
    const Arguments&... arguments) {
  launch_kernel(kernel,
      {dim3(static_cast<unsigned>(teams * size)), dim3(static_cast<unsigned>(threads)), shared_bytes, size,
          current_stream()},
      arguments...);
}

}  // namespace ssm
