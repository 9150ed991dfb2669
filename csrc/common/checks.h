// Argument checks shared by every host wrapper.
#pragma once

#include <ATen/core/Tensor.h>

namespace ssm {

// Python checks arguments first and gives the messages that users see. These checks guard the raw pointers against a
// direct call of torch.ops.
inline void check_cpu(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.device().is_cpu(), name, " must be a CPU tensor, got ", tensor.device());
}

// The tensor must be on a device of the kernel's kind, and on the same one as `first`.
inline void check_device(const at::Tensor& tensor, c10::DeviceType type, const at::Tensor& first, const char* name) {
  TORCH_CHECK(tensor.device().type() == type && tensor.device() == first.device(), name, " must be on one ", type,
      " device, got ", tensor.device(), " beside ", first.device());
}

inline void check_shape(const at::Tensor& tensor, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(tensor.sizes() == shape, name, " must have shape ", shape, ", got ", tensor.sizes());
}

inline void check_dtype(const at::Tensor& tensor, at::ScalarType dtype, const char* name) {
  TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype, ", got ", tensor.scalar_type());
}

inline void check_contiguous(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

}  // namespace ssm
