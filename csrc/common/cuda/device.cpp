#include "common/cuda/device.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <ostream>
#include <unordered_map>

#include "common/checks.h"

// The one function that only a torch with CUDA has. A torch without it can then load the library too, for its CPUs.
#pragma weak aoti_torch_get_current_cuda_stream

namespace ssm {

int present_index() {
  return torch::stable::accelerator::getCurrentDeviceIndex();
}

Device present_device() {
  // A table for each thread, so that no launch waits for a lock. Elements of the map keep their places, and so do the
  // names.
  thread_local std::unordered_map<int, cudaDeviceProp> known;
  const int index = present_index();
  const auto [place, is_new] = known.try_emplace(index);
  if (is_new) check_cuda(cudaGetDeviceProperties(&place->second, index));
  const cudaDeviceProp& p = place->second;
  return {p.name, 10 * p.major + p.minor, p.multiProcessorCount, p.sharedMemPerBlockOptin, p.sharedMemPerMultiprocessor,
      p.reservedSharedMemPerBlock};
}

cudaStream_t current_stream() {
  void* stream = nullptr;
  check_torch(aoti_torch_get_current_cuda_stream(present_index(), &stream), "current stream");
  return static_cast<cudaStream_t>(stream);
}

void check_cuda(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call would report it again
  SSM_CHECK(false, "CUDA error: ", cudaGetErrorString(error),
      " (it may come from an earlier kernel; CUDA_LAUNCH_BLOCKING=1 shows from which)");
}

std::ostream& operator<<(std::ostream& out, Capability capability) {
  return out << capability.number / 10 << '.' << capability.number % 10;
}

}  // namespace ssm
