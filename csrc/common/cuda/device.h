// What launchers ask about the present device. Only device.cpp asks torch: torch's headers cost nvcc most of a minute a
// file, so that .cu files, and what they include, have none but c10's.
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
