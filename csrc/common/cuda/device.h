// What launchers ask about the present device. Only device.cpp asks torch: torch's headers cost nvcc most of a minute a
// file, so that .cu files, and what they include, have none but c10's.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <iosfwd>

namespace ssm {

struct Device {
  const char* name;
  int capability;  // 10 · major + minor
  int64_t multiprocessors;
  // Bytes of shared memory: of a block at most, of a multiprocessor, and of each block besides what it asks for.
  size_t block_shared, multiprocessor_shared, reserved_shared;
};

int present_index();  // the present device's number
Device present_device();
cudaStream_t current_stream();

inline int64_t multiprocessors() {
  return present_device().multiprocessors;
}

// Raises an error that says what CUDA says.
void check_cuda(cudaError_t error);

// "9.0" for 90.
struct Capability {
  int number;
};
std::ostream& operator<<(std::ostream& out, Capability capability);

}  // namespace ssm
