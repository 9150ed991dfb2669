#include "common/cuda/architecture.h"

#include <unordered_map>
#include <vector>

#include "common/checks.h"
#include "common/cuda/device.h"
#include "common/cuda/probe.h"

namespace ssm {
namespace {

bool has_no_code(cudaError_t error) {
  return error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction;
}

// Turns the errors of a library that was built for other devices into a sentence that says what to do.
void check_loads(cudaError_t error, const char* op) {
  if (error == cudaSuccess) return;
  const Device device = present_device();
  const bool too_new = error == cudaErrorUnsupportedPtxVersion || error == cudaErrorInvalidPtx ||
                       error == cudaErrorJitCompilerNotFound || error == cudaErrorJitCompilationDisabled;
  if (has_no_code(error) || too_new) {
    cudaGetLastError();  // the next call would report it again
    SSM_CHECK(false, op, ": the compiled library is for compute capability ", SSM_CUDA_ARCHITECTURES, " and ",
        too_new ? "the driver cannot translate it for " : "has no kernel for ", device.name, ", which has ",
        Capability{device.capability},
        "; build the library again with TORCH_CUDA_ARCH_LIST=", Capability{device.capability});
  }
  check_cuda(error);
}

KernelLimits ask_driver(const void* kernel, const char* op) {
  cudaFuncAttributes attributes{};
  check_loads(cudaFuncGetAttributes(&attributes, kernel), op);
  const size_t most = present_device().block_shared;
  // ptxVersion is the architecture of the PTX code, which fixed __CUDA_ARCH__. binaryVersion is that of the machine
  // code, which the driver may have made of the PTX code for a newer device.
  return {attributes.ptxVersion, attributes.maxThreadsPerBlock, attributes.sharedSizeBytes,
      most - attributes.sharedSizeBytes};
}

}  // namespace

const KernelLimits& kernel_limits(const void* kernel, const char* op) {
  // A table for each thread, so that no launch waits for a lock.
  thread_local std::vector<std::unordered_map<const void*, KernelLimits>> of_device;
  const size_t device = static_cast<size_t>(present_index());
  if (device >= of_device.size()) of_device.resize(device + 1);
  const auto known = of_device[device].find(kernel);
  if (known != of_device[device].end()) return known->second;
  return of_device[device].emplace(kernel, ask_driver(kernel, op)).first->second;
}

bool is_compiled_for(const void* kernel, int architecture) {
  thread_local std::vector<std::unordered_map<const void*, int>> of_device;
  const size_t device = static_cast<size_t>(present_index());
  if (device >= of_device.size()) of_device.resize(device + 1);
  const auto [place, is_new] = of_device[device].try_emplace(kernel, 0);
  if (is_new) {
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error == cudaSuccess) {
      place->second = attributes.ptxVersion;
    } else {
      cudaGetLastError();  // the next call would report it again
      if (!has_no_code(error)) check_cuda(error);
    }
  }
  return place->second == architecture;
}

int library_architecture(const char* op) {
  return kernel_limits(probe_kernel(), op).architecture;
}

int largest_cluster(const char* op) {
  if (library_architecture(op) < kFirstWithClusters) return 1;
  return present_device().capability / 10 == 9 ? kHopperCluster : kPortableCluster;
}

namespace {

int64_t architecture_of(int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  return library_architecture("kernel_architecture");
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_build, m) {
  m.def("kernel_architecture(int device) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(ssm_build, CompositeExplicitAutograd, m) {
  m.impl("kernel_architecture", TORCH_BOX(&architecture_of));
}

}  // namespace ssm
