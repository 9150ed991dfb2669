// Launches a kernel of the selective scan, as clusters where the blocks of a sequence exchange their summaries.
#pragma once

#include <c10/cuda/CUDAException.h>

#include "selective_scan/cuda/launch.h"

namespace ssm {

template <typename... Arguments>
void launch_blocks(
    void (*kernel)(ScanLaunch, Arguments...), const ScanLaunch& a, size_t shared_bytes, const Arguments&... arguments) {
  const int64_t columns = channel_splits(a) * a.chunks, rows = a.p.batch * a.p.groups;
  if (columns == 0 || rows == 0) return;
  // Rows beyond what one dimension of a grid holds go to the next; blocks past the end leave at once.
  const int64_t layers = (rows + kMaxRowsY - 1) / kMaxRowsY;
  TORCH_CHECK(columns < (int64_t(1) << 31) && (layers == 1 || layers < kMaxRowsY),
      "selective_scan: the input is too large for one launch");
  C10_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(layers == 1 ? rows : kMaxRowsY),
      static_cast<unsigned>(layers));
  config.blockDim = dim3(kLanes * a.subchunks);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = a.stream;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(a.chunks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  if (a.phase == Phase::kWhole && a.chunks > 1) {
    if (a.chunks > 8) {
      C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    }
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, a, arguments...));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace ssm
