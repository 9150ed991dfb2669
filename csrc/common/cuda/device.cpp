#include "common/cuda/device.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAStream.h>

#include <ostream>

namespace ssm {

Device present_device() {
  const cudaDeviceProp& p = *at::cuda::getCurrentDeviceProperties();
  return {p.name, 10 * p.major + p.minor, p.multiProcessorCount, p.sharedMemPerBlockOptin, p.sharedMemPerMultiprocessor,
      p.reservedSharedMemPerBlock};
}

cudaStream_t current_stream() {
  return c10::cuda::getCurrentCUDAStream();
}

std::ostream& operator<<(std::ostream& out, Capability capability) {
  return out << capability.number / 10 << '.' << capability.number % 10;
}

}  // namespace ssm
