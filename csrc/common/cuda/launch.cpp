#include "common/cuda/launch.h"

#include "common/checks.h"

namespace ssm {
namespace {

// A kernel may take so many bytes of shared memory without asking, its static shared memory included.
constexpr size_t kUnasked = 48 * 1024;

void check_shape(const char* op, const KernelLimits& limits, const LaunchShape& shape) {
  SSM_CHECK(shape.cluster == 1 || limits.architecture >= kFirstWithClusters, op, ": ", shape.cluster,
      " blocks were to work together, but the kernel was compiled for compute capability ",
      Capability{limits.architecture}, ", where they cannot; build the library again with TORCH_CUDA_ARCH_LIST=",
      Capability{present_device().capability});
  SSM_CHECK(shape.shared_bytes <= limits.shared, op, ": a block needs ", shape.shared_bytes + limits.static_shared,
      " bytes of shared memory for an input of this size and type, and ", present_device().name, " has ",
      present_device().block_shared, "; use a smaller input or a narrower type");
  const int64_t threads = static_cast<int64_t>(shape.block.x) * shape.block.y * shape.block.z;
  SSM_CHECK(threads <= limits.threads, op, ": a block has ", threads, " threads, and ", present_device().name,
      " has registers for ", limits.threads,
      " of the kernel as it was compiled; build the library again with TORCH_CUDA_ARCH_LIST=",
      Capability{present_device().capability});
}

}  // namespace

unsigned grid_blocks(int64_t blocks, const char* op) {
  SSM_CHECK(blocks < (int64_t(1) << 31), op, ": the input is too large for one launch");
  return static_cast<unsigned>(blocks);
}

void launch_pointers(const char* op, const void* kernel, const LaunchShape& shape, void** arguments) {
  const KernelLimits& limits = kernel_limits(kernel, op);
  check_shape(op, limits, shape);
  if (shape.shared_bytes + limits.static_shared > kUnasked) {
    check_cuda(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)));
  }
  if (shape.cluster > kPortableCluster) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
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
  check_cuda(cudaLaunchKernelExC(&config, kernel, arguments));
  check_cuda(cudaGetLastError());
}

}  // namespace ssm
