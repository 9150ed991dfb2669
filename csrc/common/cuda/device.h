// What kernels' launchers ask about the present device. Torch is asked in device.cpp: its headers cost nvcc most of a
// minute a file, so that no .cu file, nor what it includes, has more of them than c10's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace ssm {

const cudaDeviceProp& device_properties();
cudaStream_t current_stream();

inline int64_t multiprocessors() {
  return device_properties().multiProcessorCount;
}

}  // namespace ssm
