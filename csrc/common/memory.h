// Shared memory laid out part by part. A struct that is built from a Carver in the kernel, and once more on the host
// with a null pointer, is the one description of both the addresses and the number of bytes.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>

namespace ssm {

class Carver {
 public:
  C10_HOST_DEVICE explicit Carver(char* memory) : memory_(memory) {}

  // The next `count` elements. Every part begins at a multiple of 16 bytes.
  template <typename T>
  C10_HOST_DEVICE T* take(size_t count) {
    T* part = reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (count * sizeof(T) + 15) / 16 * 16;
    return part;
  }
  C10_HOST_DEVICE size_t bytes() const { return bytes_; }

 private:
  char* memory_;
  size_t bytes_ = 0;
};

}  // namespace ssm
