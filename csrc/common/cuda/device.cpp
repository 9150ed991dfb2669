#include "common/cuda/device.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAStream.h>

namespace ssm {

const cudaDeviceProp& device_properties() {
  return *at::cuda::getCurrentDeviceProperties();
}

cudaStream_t current_stream() {
  return c10::cuda::getCurrentCUDAStream();
}

}  // namespace ssm
