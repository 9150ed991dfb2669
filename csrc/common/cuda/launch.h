// Launches kernels whose blocks stand alone or, if they were compiled for sm_90 or later, form clusters. Errors become
// exceptions that begin with `op`, the operator's name. What needs more than the CUDA runtime is in launch.cpp, so that
// nvcc reads no header of torch for it.
#pragma once

#include <algorithm>

#include "common/cuda/architecture.h"
#include "common/cuda/device.h"

namespace ssm {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes;
  int cluster;  // blocks of a cluster, which are neighbours in x
  cudaStream_t stream;
};

// Blocks as a grid's first dimension; raises an error if there are more than a launch can have.
unsigned grid_blocks(int64_t blocks, const char* op);

// `arguments` point to the kernel's parameters. Raises an error if the kernel, as it was compiled, cannot be launched
// in this shape on the present device.
void launch_pointers(const char* op, const void* kernel, const LaunchShape& shape, void** arguments);

template <typename... Parameters, typename... Arguments>
void launch_kernel(
    const char* op, void (*kernel)(Parameters...), const LaunchShape& shape, const Arguments&... arguments) {
  const auto launch = [&](Parameters... parameters) {
    void* pointers[] = {static_cast<void*>(&parameters)...};
    launch_pointers(op, reinterpret_cast<const void*>(kernel), shape, pointers);
  };
  launch(arguments...);
}

// Blocks of a team, the threads that work on one sample together (team.cuh): more than one needs clusters.
inline int largest_team(const char* op) {
  return std::min(largest_cluster(op), kPortableCluster);
}

// Launches `teams` teams of `size` blocks each.
template <typename... Parameters, typename... Arguments>
void launch_teams(const char* op, void (*kernel)(Parameters...), int64_t teams, int size, int threads,
    size_t shared_bytes, const Arguments&... arguments) {
  launch_kernel(op, kernel,
      {dim3(grid_blocks(teams * size, op)), dim3(static_cast<unsigned>(threads)), shared_bytes, size, current_stream()},
      arguments...);
}

}  // namespace ssm
