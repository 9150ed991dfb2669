// What a kernel was compiled for, and so what a launch of it may ask for. A kernel that was compiled for an older
// architecture than the device's lacks the branches for the newer one (`__CUDA_ARCH__`), so hosts ask here, and never
// the device alone, which branches it has.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace ssm {

constexpr int kFirstWithAsyncCopies = 80;  // compute capability 8.0
constexpr int kFirstWithClusters = 90;     // compute capability 9.0
constexpr int kPortableCluster = 8;        // blocks that every GPU with clusters accepts
constexpr int kHopperCluster = 16;

struct KernelLimits {
  int architecture;      // what the kernel was compiled for, 10 · major + minor: __CUDA_ARCH__ / 10
  int threads;           // of a block at most, for the registers that the kernel takes
  size_t static_shared;  // bytes of shared memory that the kernel has by itself
  size_t shared;         // bytes of shared memory that a launch may add
};

// The limits of a kernel on the present device. Raises an error, which begins with `op`, if the library has no code
// that the device can run. The first call for a kernel asks the driver, later ones find the answer in a table.
const KernelLimits& kernel_limits(const void* kernel, const char* op);

template <typename... Parameters>
const KernelLimits& kernel_limits(void (*kernel)(Parameters...), const char* op) {
  return kernel_limits(reinterpret_cast<const void*>(kernel), op);
}

// Whether the library has code of a kernel that the present device can run and that was compiled for this architecture
// and no other. A kernel for sm_90a has the architecture 90, and no other device can run it.
bool is_compiled_for(const void* kernel, int architecture);

// What the library's kernels were compiled for, as far as the present device uses them: 10 · major + minor.
int library_architecture(const char* op);

// Blocks that a cluster may have; 1 if the library's kernels know no clusters.
int largest_cluster(const char* op);

}  // namespace ssm
