#include "common/cuda/launch.h"

#include <c10/cuda/CUDAException.h>

namespace ssm {

unsigned grid_blocks(int64_t blocks, const char* op) {
  TORCH_CHECK(blocks < (int64_t(1) << 31), op, ": the input is too large for one launch");
  return static_cast<unsigned>(blocks);
}

void launch_pointers(const void* kernel, const LaunchShape& shape, void** arguments) {
  // A kernel may take 48 KiB without asking, its static shared memory included. Static parts are far below 16 KiB.
  constexpr size_t kUnasked = 32 * 1024;
  if (shape.shared_bytes > kUnasked) {
    C10_CUDA_CHECK(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)));
  }
  if (shape.cluster > kPortableCluster) {
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  C10_CUDA_CHECK(cudaLaunchKernelExC(&config, kernel, arguments));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace ssm
